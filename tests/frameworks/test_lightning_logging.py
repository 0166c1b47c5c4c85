# SPDX-License-Identifier: Apache-2.0
"""What siftd.lightning tells Lightning's loggers and progress bar, read back from where they wrote it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_job import Lit, Sifting, data, pl, sift, trainer
from support import Worker

KEYS = {"sifting/kept_share", "sifting/staleness_steps", "sifting/wait_ms_per_step", "sifting/model_version"}


class Figures(pl.Callback):
    """The loader's metrics at each optimizer step, as they were when the step was logged."""

    def __init__(self, sifting: Sifting) -> None:
        self.sifting = sifting
        self.at: dict[int, dict[str, float]] = {}

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.at[trainer.global_step] = self.sifting.loader.metrics()


def fit(worker: Worker, folder: Path, logger: Any, **options: Any) -> tuple[Figures, Any]:
    sifting = sift(worker.endpoint)
    module = Lit()
    module.sifting = sifting
    figures = Figures(sifting)
    made = trainer(folder, sifting, figures, logger=logger, log_every_n_steps=5, **options)
    made.fit(module, data())
    return figures, made


@pytest.mark.parametrize("accumulate", [1, 2])
def test_csv_rows_hold_the_loaders_figures(worker: Worker, tmp_path: Path, accumulate: int) -> None:
    logger = pl.loggers.CSVLogger(tmp_path)
    figures, made = fit(worker, tmp_path, logger, accumulate_grad_batches=accumulate)
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        read = {int(row["step"]) + 1: row for row in csv.DictReader(file) if row["sifting/kept_share"]}
    last = made.global_step
    assert set(read) == {*range(5, last + 1, 5), last if last % 5 == 0 else last + 1}
    for step in range(5, last + 1, 5):
        assert float(read[step]["sifting/trained"]) == figures.at[step]["sifting/trained"] > 0
        assert float(read[step]["sifting/model_version"]) == 1 + step // 2
        assert 0 < float(read[step]["sifting/kept_share"]) < 1
        assert read[step].keys() >= KEYS


def test_tensorboard_shows_the_same(worker: Worker, tmp_path: Path) -> None:
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    figures, made = fit(worker, tmp_path, logger)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert set(events.Tags()["scalars"]) >= KEYS
    trained = {event.step + 1: event.value for event in events.Scalars("sifting/trained")}
    assert list(trained)[:3] == [5, 10, 15]
    assert all(trained[step] == figures.at[step]["sifting/trained"] for step in (5, 10, 15))
    assert events.Scalars("sifting/trained")[-1].value == figures.at[made.global_step]["sifting/trained"]


@pytest.mark.parametrize("wanted", [False, True])
def test_the_progress_bar_shows_the_kept_share_where_it_is_asked_for(
    worker: Worker, tmp_path: Path, wanted: bool
) -> None:
    shown: list[dict[str, Any]] = []

    class Bar(pl.callbacks.ProgressBar):
        def disable(self) -> None: ...

        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            shown.append(dict(trainer.progress_bar_metrics))

    sifting = sift(worker.endpoint, **({"prog_bar": True} if wanted else {}))
    module = Lit()
    module.sifting = sifting
    trainer(tmp_path, sifting, Bar(), enable_progress_bar=True).fit(module, data())
    shares = [s["kept"] for s in shown if "kept" in s]
    assert bool(shares) == wanted
    assert all(0 < share < 1 for share in shares)


def test_nothing_is_logged_without_a_logger_or_step(worker: Worker, tmp_path: Path) -> None:
    logger = pl.loggers.CSVLogger(tmp_path)
    fit(worker, tmp_path, logger, max_steps=0)
    assert not (Path(logger.log_dir) / "metrics.csv").exists()
    _, made = fit(worker, tmp_path, False)
    assert made.loggers == []
