# SPDX-License-Identifier: Apache-2.0
"""Frameworks that fetch ahead: what counts as trained, and what a checkpoint between fetch and step brings back."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import siftd
from support import Rows, Worker, toy_model


def sifting(worker: Worker, rows: int = 400, batch: int = 16, **options: Any) -> siftd.SiftingDataLoader:
    generator = torch.Generator().manual_seed(5)
    options = {"policy": siftd.Uniform(0.6), "seed": 3, "model": toy_model(), "prefetch": 3, **options}
    loader = DataLoader(Rows(rows), batch, shuffle=True, generator=generator)
    return siftd.SiftingDataLoader(loader, workers=[worker.endpoint], **options)


def undisturbed(worker: Worker, epochs: int, **options: Any) -> Counter[tuple[int, int]]:
    """(epoch, id) of the rows kept; a function of seed, epoch and id alone."""
    seen: Counter[tuple[int, int]] = Counter()
    with sifting(worker, **options) as loader:
        for _ in range(epochs):
            for _ in loader:
                info = loader.last_batch_info
                assert info is not None
                seen.update(zip(info.epochs.tolist(), info.ids.tolist(), strict=True))
    return seen


class AheadTrainer:
    """Fetches `ahead` batches before it trains one, steps every `accumulate` batches."""

    def __init__(self, loader: siftd.SiftingDataLoader, ahead: int, accumulate: int) -> None:
        loader.expect_claims()
        self.loader, self.ahead, self.accumulate = loader, ahead, accumulate
        self.trained: Counter[tuple[int, int]] = Counter()
        self._open: list[siftd.BatchInfo] = []

    def epoch(self, stop_after: int | None = None) -> dict[str, Any] | None:
        """One epoch, or until `stop_after` batches were begun: then the state at that moment."""
        batches = iter(self.loader)
        fetched, begun, done = 0, 0, False
        while True:
            while not done and fetched - begun <= self.ahead:
                done = next(batches, None) is None
                fetched += not done
            if begun == fetched:
                break
            begun += 1
            self._open.append(self.loader.claim())
            if len(self._open) == self.accumulate:
                self._step()
            if begun == stop_after:
                state: dict[str, Any] = pickle.loads(pickle.dumps(self.loader.state_dict()))
                return state
        self._step()
        return None

    def _step(self) -> None:
        if not self._open:
            return
        self.loader.step(ordinal=self._open[-1].ordinal)
        for info in self._open:
            self.trained.update(zip(info.epochs.tolist(), info.ids.tolist(), strict=True))
        self._open.clear()


@pytest.mark.parametrize(("ahead", "accumulate", "batch"), [(1, 1, 16), (1, 3, 16), (2, 1, 5), (3, 2, 64)])
@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_checkpoint_between_fetch_and_step_loses_and_repeats_nothing(
    worker: Worker, ahead: int, accumulate: int, batch: int, stop_after: int
) -> None:
    with sifting(worker, batch=32, batch_size=batch) as loader:
        first = AheadTrainer(loader, ahead, accumulate)
        state = first.epoch(stop_after)
    assert state is not None
    with sifting(worker, batch=32, batch_size=batch) as loader:
        loader.load_state_dict(state)
        second = AheadTrainer(loader, ahead, accumulate)
        for _ in range(2 if state["pass"] is not None else 1):  # None: the first pass was trained whole
            second.epoch()
    assert first.trained + second.trained == undisturbed(worker, 2, batch=32)


def test_the_last_batch_of_a_pass_is_not_lost_when_the_end_was_fetched_before_it_was_trained(worker: Worker) -> None:
    with sifting(worker) as loader:
        batches = len(list(loader))
    with sifting(worker) as loader:
        first = AheadTrainer(loader, 2, 100)  # no step before the end
        state = first.epoch(stop_after=batches)
    assert state is not None and not first.trained
    with sifting(worker) as loader:
        loader.load_state_dict(state)
        second = AheadTrainer(loader, 0, 1)
        second.epoch()
    assert second.trained == undisturbed(worker, 1)


def test_with_steps_per_epoch_unclaimed_batches_come_again_and_a_resume_gives_the_rest(worker: Worker) -> None:
    steps = 10
    with sifting(worker, steps_per_epoch=steps) as loader:
        loader.expect_claims()
        trained: list[tuple[int, int]] = []

        def train(batches: Any, count: int) -> None:
            for _ in range(count):
                info = loader.claim()
                trained.extend(zip(info.epochs.tolist(), info.ids.tolist(), strict=True))
                loader.step(ordinal=info.ordinal)

        batches = iter(loader)
        for _ in range(6):
            next(batches)
        train(batches, 4)  # two were fetched and never begun
        batches = iter(loader)
        for _ in range(3):
            next(batches)
        train(batches, 3)
        state = copy.deepcopy(loader.state_dict())
    assert state["epoch_steps"] == 3
    with sifting(worker, steps_per_epoch=steps) as loader:
        loader.load_state_dict(state)
        sizes: list[list[int]] = []
        for _ in range(2):
            sizes.append([])
            for _ in loader:
                info = loader.last_batch_info
                assert info is not None
                sizes[-1].append(len(info.ids))
                trained.extend(zip(info.epochs.tolist(), info.ids.tolist(), strict=True))
    assert sizes == [[16] * (steps - 3), [16] * steps], "the rest of the epoch, then a whole one"
    expected = undisturbed(worker, 3)
    counts = Counter(trained)
    assert max(counts.values()) == 1
    assert set(counts) <= set(expected)
    first_pass = {k for k in expected if k[0] == 0}
    assert first_pass <= set(counts), "the first pass is trained whole"


def test_changing_a_batch_in_place_does_not_change_what_a_state_saves(worker: Worker) -> None:
    """One candidate batch is larger than several training batches: each of those is a view of it."""
    data = Rows(64)
    plain = DataLoader(data, 64)
    options: dict[str, Any] = {"policy": siftd.Uniform(1.0), "model": toy_model(), "batch_size": 8, "prefetch": 8}
    with siftd.SiftingDataLoader(plain, workers=[worker.endpoint], **options) as loader:
        loader.expect_claims()
        batches = iter(loader)
        for _ in range(4):
            x, _ = next(batches)
            x.zero_()
        loader.step(ordinal=loader.claim().ordinal)
        state = loader.state_dict()
    with siftd.SiftingDataLoader(plain, workers=[worker.endpoint], **options) as loader:
        loader.load_state_dict(state)
        rows = torch.cat([x for x, _ in loader])
    assert torch.equal(rows, data.x[8:])


def test_claims_are_asked_for_first(worker: Worker) -> None:
    with sifting(worker) as loader:
        with pytest.raises(siftd.ConfigError, match="expect_claims"):
            loader.claim()
        loader.expect_claims()
        with pytest.raises(siftd.ConfigError, match="once for each batch"):
            loader.claim()


def test_a_loop_that_never_steps_is_told(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    with sifting(worker, sync_every=2) as loader:
        list(loader)
    assert "no loader.step(model)" in caplog.text


def test_step_on_next_publishes_and_marks(worker: Worker) -> None:
    with sifting(worker, sync_every=2, step_on_next=True) as loader:
        batches = len(list(loader))
        stats = loader.stats()
    assert (stats.steps, stats.trained) == (batches, stats.handed_out)
    assert stats.model_versions == 1 + batches // 2
