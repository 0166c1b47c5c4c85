# SPDX-License-Identifier: Apache-2.0
"""What a peer does wrong is told to that peer and counted; nobody else is disturbed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import siftd
from siftd._weights.publisher import Publisher
from siftd._weights.snapshot import artifact_snapshot
from siftd.errors import WorkerError
from support import Rows, Worker, toy_model, wait_until

ROWS, BATCH = 160, 16
DATA = Rows(ROWS)


def good_batches() -> list[Any]:
    return [(DATA.x[i : i + BATCH], DATA.y[i : i + BATCH]) for i in range(0, ROWS, BATCH)]


@contextmanager
def feeding(worker: Worker, batches: list[Any], index: int, **options: Any) -> Iterator[None]:
    loader = siftd.CandidateLoader([worker.endpoint], batches, loader_index=index, loader_count=2, epochs=1, **options)
    thread = threading.Thread(target=loader.run)
    thread.start()
    try:
        yield
        thread.join(60)
        assert not thread.is_alive()
    finally:
        loader.close()


def streaming(worker: Worker, **options: Any) -> siftd.StreamLoader:
    return siftd.StreamLoader(
        [worker.endpoint],
        BATCH,
        model=toy_model(),
        example_batch=(DATA.x[:8], DATA.y[:8]),
        policy=siftd.Uniform(0.5),
        loader_count=2,
        seed=7,
        **options,
    )


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda x, y: (x[:, :7], y), "float32 [16, 7]"),
        (lambda x, y: (x.double(), y), "float64 [16, 8]"),
        (lambda x, y: {"image": x, "1": y}, "lacks the model's input '0'"),
    ],
    ids=["shape", "dtype", "name"],
)
def test_batches_that_do_not_fit_the_model_are_rejected_and_the_others_go_on(
    worker: Worker, spoil: Any, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [spoil(x, y) for x, y in good_batches()]
    with feeding(worker, good_batches(), 0), feeding(worker, bad, 1), streaming(worker) as loader:
        rows = sum(len(y) for _, y in loader)
        stats = loader.stats()
        loader.close()
    assert stats.rejected_batches == len(bad)
    assert rows == stats.kept > 0
    assert stats.decided == 2 * ROWS, "each batch of both was decided"
    assert text in caplog.text
    status = worker.status()
    assert int(status["rejected_batches"]) == int(status["errors"]["BAD_TENSOR"]) == len(bad)


def test_a_loader_whose_batches_are_too_large_is_told_the_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Worker(tmp_path, "--max-batch-bytes", "4KiB") as worker:
        large = [(DATA.x.repeat(8, 1), DATA.y.repeat(8))]
        with feeding(worker, good_batches(), 0), feeding(worker, large, 1), streaming(worker) as loader:
            rows = sum(len(y) for _, y in loader)
            stats = loader.stats()
            loader.close()
        assert rows == stats.kept > 0
        assert stats.rejected_batches == 1
        assert "4096" in caplog.text
        assert int(worker.status()["errors"]["TOO_LARGE"]) == 1


def test_what_is_no_scorer_is_refused_and_the_next_one_taken(worker: Worker) -> None:
    wrong = Publisher([worker.endpoint], "default", 5, artifact_snapshot(b"no archive" * 100, 5))
    wrong.start()
    try:
        wait_until("the refusal", lambda: wrong.core.refusals)
        assert "not a TorchScript archive" in wrong.core.refusals[0]
        assert int(worker.status()["errors"]["ARTIFACT_REFUSED"]) == 1
    finally:
        wrong.close()
    with siftd.SiftingDataLoader(good_batches(), model=toy_model(), workers=[worker.endpoint]) as loader:
        assert sum(len(y) for _, y in loader) == loader.stats().kept


def test_a_worker_that_takes_no_code_over_the_wire_says_how_to_give_it_some(tmp_path: Path) -> None:
    model = toy_model()
    scorer = siftd.export_scorer(model, "cross_entropy", good_batches()[0])
    path = scorer.save(tmp_path / "scorer.pt")
    with Worker(tmp_path, "--allow-artifact-upload=false", name="closed") as worker:
        loader = siftd.SiftingDataLoader(good_batches(), model=model, workers=[worker.endpoint], start_timeout=20)
        with loader, pytest.raises(WorkerError, match=r"--artifact FILE.*--allow-artifact-upload"):
            next(iter(loader))
    with (
        Worker(tmp_path, "--allow-artifact-upload=false", "--artifact", str(path), name="given") as worker,
        siftd.SiftingDataLoader(
            good_batches(), model=model, workers=[worker.endpoint], scorer=siftd.Scorer.load(path)
        ) as again,
    ):
        assert sum(len(y) for _, y in again) == again.stats().kept
        other = siftd.SiftingDataLoader(good_batches(), model=model, workers=[worker.endpoint], job="default")
        with other, pytest.raises(WorkerError, match="Scorer.load"):
            next(iter(other))


def test_a_model_of_another_shape_than_the_workers_scorer_is_refused_by_entry(tmp_path: Path) -> None:
    scorer = siftd.export_scorer(toy_model(width=6), "cross_entropy", (torch.randn(8, 6), DATA.y[:8]))
    path = scorer.save(tmp_path / "scorer.pt")
    with Worker(tmp_path, "--allow-artifact-upload=false", "--artifact", str(path), name="other") as worker:
        loader = siftd.SiftingDataLoader(good_batches(), model=toy_model(), workers=[worker.endpoint], start_timeout=20)
        with loader, pytest.raises(WorkerError, match=r"0\.weight float32 \[16, 8\]; the scorer takes"):
            next(iter(loader))
