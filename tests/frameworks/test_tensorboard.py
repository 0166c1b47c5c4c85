# SPDX-License-Identifier: Apache-2.0
"""A plain loop's figures in TensorBoard and in a tqdm bar, read back."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

import siftd
import siftd.tensorboard
from support import Rows, Worker, toy_model


def sifting(worker: Worker) -> siftd.SiftingDataLoader:
    return siftd.SiftingDataLoader(
        DataLoader(Rows(320), 16), model=toy_model(), workers=[worker.endpoint], policy=siftd.LossCdf(beta=1.0)
    )


def test_scalars_and_histograms_are_what_the_loader_says(worker: Worker, tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer, sifting(worker) as loader:
        rows = 0
        for _, y in loader:
            rows = len(y)
            loader.step()
            siftd.tensorboard.log(loader, writer)
        metrics, steps = loader.metrics(), loader.stats().steps
    read = EventAccumulator(str(tmp_path)).Reload()
    assert set(metrics) <= set(read.Tags()["scalars"])
    for name, value in metrics.items():
        last = read.Scalars(name)[-1]
        assert (last.step, last.value) == (steps, pytest.approx(value)), name
    assert {"sifting/score", "sifting/staleness_steps"} <= set(read.Tags()["histograms"])
    assert read.Histograms("sifting/score")[-1].histogram_value.num == rows, "of the last batch"


def test_progress_shows_the_loaders_figures(worker: Worker) -> None:
    shown = io.StringIO()
    with sifting(worker) as loader:
        rows = 0
        for x, _ in siftd.progress(loader, desc="epoch 0", file=shown):
            rows += len(x)
            loader.step()
        line = loader.progress_line()
        assert rows == loader.stats().handed_out
    text = shown.getvalue()
    assert "epoch 0" in text
    assert line.split("wait")[0] in text
