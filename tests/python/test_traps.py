# SPDX-License-Identifier: Apache-2.0
"""The traps of a user's DataLoader, each met in practice, each with a test named after it."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import siftd
from support import Rows, Worker, toy_model, wait_until

KEEP_ALL = siftd.Uniform(1.0)


def sift(loader: Any, worker: Worker, **options: Any) -> siftd.SiftingDataLoader:
    if "model" not in options:
        options["model"] = toy_model()
    options.setdefault("policy", KEEP_ALL)
    return siftd.SiftingDataLoader(loader, workers=[worker.endpoint], **options)


def threads_of_siftd() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("siftd")]


@pytest.mark.parametrize("workers", [0, 2])
def test_rng_order_and_forks(worker: Worker, workers: int) -> None:
    """The same draws in the same order as without siftd, for the sampler and for what comes after."""

    def order(wrap: bool) -> tuple[list[float], torch.Tensor]:
        torch.manual_seed(11)
        loader: Any = DataLoader(Rows(160), 16, shuffle=True, num_workers=workers)
        model = toy_model()
        torch.manual_seed(12)
        if wrap:
            loader = sift(loader, worker, model=model)
        first = [float(v) for x, _ in loader for v in x[:, 0]]
        after = torch.rand(3)
        if wrap:
            loader.close()
        return first, after

    plain, sifted = order(False), order(True)
    assert plain[0] == sifted[0]
    assert torch.equal(plain[1], sifted[1])


def test_no_thread_before_the_first_next(worker: Worker) -> None:
    before = threads_of_siftd()
    loader = sift(DataLoader(Rows(64), 16), worker)
    iter(loader)
    assert threads_of_siftd() == before
    loader.close()


class Breaks(Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return 160

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        if i == 100:
            raise KeyError("row 100 is broken")
        return torch.full((8,), float(i)), i % 5


def test_exceptions_at_their_position(worker: Worker) -> None:
    loader = sift(DataLoader(Breaks(), 16), worker)
    rows: list[float] = []
    with pytest.raises(KeyError, match="row 100 is broken"):
        for x, _ in loader:
            rows += x[:, 0].tolist()
    assert rows == [float(i) for i in range(96)]  # all batches before it
    loader.close()


def test_break_and_second_iter(worker: Worker) -> None:
    loader = sift(DataLoader(Rows(320), 16), worker)
    for n, _ in enumerate(loader):
        if n == 2:
            break
    rows = [v for x, _ in loader for v in x[:, 0].tolist()]
    assert len(rows) == len(set(rows)) == 320  # a whole new pass, nothing of the old one
    assert loader.stats().cancelled > 0
    loader.close()


def test_close_and_garbage_collection_end_every_thread(worker: Worker) -> None:
    before = len(threads_of_siftd())
    loader = sift(DataLoader(Rows(320), 16), worker)
    next(iter(loader))
    loader.close()
    loader.close()
    assert len(threads_of_siftd()) == before
    forgotten = sift(DataLoader(Rows(320), 16), worker)
    next(iter(forgotten))
    gone = weakref.ref(forgotten)
    del forgotten
    gc.collect()
    assert gone() is None
    wait_until("the threads ended", lambda: len(threads_of_siftd()) == before)


class Counting(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self) -> None:
        self.rows, self.loaded = Rows(320), 0

    def __len__(self) -> int:
        return 320

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        self.loaded += 1
        return self.rows[i]


def test_resume_at_the_sampler(worker: Worker) -> None:
    """Trained batches are skipped without loading their rows."""
    first = Counting()
    loader = sift(DataLoader(first, 16, shuffle=True), worker)
    seen: list[int] = []
    for n, _ in enumerate(loader):
        assert loader.last_batch_info is not None
        seen += loader.last_batch_info.ids.tolist()
        if n == 9:
            state = loader.state_dict()
            break
    loader.close()
    second = Counting()
    resumed = sift(DataLoader(second, 16, shuffle=True), worker)
    resumed.load_state_dict(state)
    for _ in resumed:
        assert resumed.last_batch_info is not None
        seen += resumed.last_batch_info.ids.tolist()
    assert sorted(seen) == list(range(320))
    assert second.loaded == 160
    resumed.close()


class Words(Dataset[torch.Tensor]):
    """Sequences whose length grows with their number."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.arange(1, 2 + i // 8)


def collate(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "input_ids": nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0),
        "labels": torch.tensor([len(r) % 2 for r in rows]),
    }


class BagOfWords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4, padding_idx=0)
        self.head = nn.Linear(4, 2)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.embed(input_ids).sum(1))
        return logits


def test_padded_batches_equal_the_collators_result(worker: Worker) -> None:
    data = Words()
    loader = sift(
        DataLoader(data, 8, shuffle=True, collate_fn=collate),
        worker,
        model=BagOfWords(),
        policy=siftd.Uniform(0.6),
        pad={"input_ids": 0},
    )
    for batch in loader:
        assert loader.last_batch_info is not None
        expected = collate([data[i] for i in loader.last_batch_info.ids.tolist()])
        width = batch["input_ids"].shape[1]
        wanted = nn.functional.pad(expected["input_ids"], (0, width - expected["input_ids"].shape[1]))
        assert torch.equal(batch["input_ids"], wanted)
        assert torch.equal(batch["labels"], expected["labels"])
    loader.close()


def test_padding_that_is_not_known_is_asked_for(worker: Worker) -> None:
    loader = sift(
        DataLoader(Words(), 8, collate_fn=collate),
        worker,
        model=BagOfWords(),
        policy=siftd.Uniform(0.6),
    )
    with pytest.raises(siftd.StructureError, match=r"field 'input_ids' .* give pad=\{'input_ids': VALUE\}"):
        for _ in loader:
            pass
    loader.close()


class Point(NamedTuple):
    x: torch.Tensor
    meta: dict[str, Any]
    y: torch.Tensor


class Named(Dataset[Any]):
    def __len__(self) -> int:
        return 96

    def __getitem__(self, i: int) -> Any:
        return torch.full((8,), float(i)), f"row-{i}", i % 5


def points(rows: list[Any]) -> Point:
    return Point(
        torch.stack([r[0] for r in rows]),
        {"names": [r[1] for r in rows], "source": "a file", "n": 3},
        torch.tensor([r[2] for r in rows]),
    )


def test_non_tensor_fields(worker: Worker) -> None:
    """Strings stay local and follow their rows; what is not by row is handed on."""
    loader = sift(DataLoader(Named(), 8, shuffle=True, collate_fn=points), worker, policy=siftd.Uniform(0.5))
    rows = 0
    for point in loader:
        assert isinstance(point, Point)
        assert point.meta["names"] == [f"row-{int(v)}" for v in point.x[:, 0]]
        assert point.meta["source"] == "a file"
        rows += len(point.y)
    assert 0 < rows < 96
    loader.close()


def test_in_place_use_of_unsifted_batches(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is handed out unsifted may be changed while ZeroMQ still holds the one that was sent. The compiled
    client copies the rows of every batch."""
    import signal

    monkeypatch.setenv("SIFTD_NATIVE", "0")
    loader = sift(DataLoader(Rows(320), 16), worker, starve_timeout=0.2)
    iterator = iter(loader)
    next(iterator)
    worker.signal(signal.SIGSTOP)
    changed = 0
    for x, _ in iterator:
        assert loader.last_batch_info is not None
        if loader.last_batch_info.unsifted.all():
            x.zero_()
            changed += 1
            if changed == 3:
                break
    assert changed == 3
    for lease in [*loader._engine.core.pending, *loader._engine.core.leases.values()]:  # type: ignore[union-attr]
        assert lease.context.tensors["0"].abs().sum() > 0
    worker.signal(signal.SIGCONT)
    loader.close()


def test_spawn_and_death_of_workers() -> None:
    """Local workers die, training goes on unsifted and says so."""
    loader = siftd.SiftingDataLoader(
        DataLoader(Rows(640), 16), model=toy_model(), workers=1, policy=KEEP_ALL, starve_timeout=0.3
    )
    rows = 0
    for n, (x, _) in enumerate(loader):
        rows += len(x)
        if n == 3:
            assert loader._running is not None and loader._running.local is not None
            loader._running.local._processes[0].kill()
    stats = loader.stats()
    assert rows == 640
    assert stats.breaker_opened == 1
    assert stats.unsifted > 0
    loader.close()


def test_capacity_message(worker: Worker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siftd._loop.dropin_loop.CAPACITY_AFTER", 5)
    with caplog.at_level(logging.INFO, "siftd"), sift(DataLoader(Rows(320), 16), worker) as loader:
        for _ in loader:
            loader.step()
    assert "of a training step per row (f), kept 100%" in caplog.text
    assert "workers like these keep up, 1 are there" in caplog.text


class Loads(Dataset[Any]):
    """Its target is the process that loaded it."""

    def __len__(self) -> int:
        return 160

    def __getitem__(self, i: int) -> Any:
        return Rows(160)[i][0], os.getpid()


def one_per_row(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output.squeeze(1) - target).abs()


def test_feeder_process(worker: Worker) -> None:
    """The user's loader runs in a process of its own; the rows are the same, and it ends with the pass."""
    plain = sorted(float(v) for x, _ in DataLoader(Rows(160), 16) for v in x[:, 0])
    orders = []
    loader = sift(
        DataLoader(Loads(), 16, shuffle=True), worker, model=nn.Linear(8, 1), loss=one_per_row, feeder_process=True
    )
    with loader:
        for _ in range(2):
            rows, ids, pids = [], [], set()
            for x, pid in loader:
                rows += x[:, 0].tolist()
                pids |= set(pid.tolist())
                assert loader.last_batch_info is not None
                ids += loader.last_batch_info.ids.tolist()
            assert sorted(rows) == plain
            assert sorted(ids) == list(range(160))
            assert len(pids) == 1
            assert os.getpid() not in pids
            orders.append(ids)
        assert orders[0] != orders[1]
        next(iter(loader))
    assert multiprocessing.active_children() == []


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.full((8,), float(i)), i % 5) for i in range(100)])


def test_iterable_datasets_and_plain_iterables(worker: Worker) -> None:
    for source in (DataLoader(Stream(), 16), [(torch.randn(16, 8), torch.zeros(16, dtype=torch.long))] * 3):
        loader = sift(source, worker)
        rows = sum(len(y) for _, y in loader)
        assert rows in (100, 48)
        assert loader.last_batch_info is not None
        assert (loader.last_batch_info.ids >= 1 << 62).all()  # no dataset index is known
        loader.close()


def test_length_and_what_frameworks_look_for() -> None:
    loader = siftd.SiftingDataLoader(DataLoader(Rows(64), 16), model=toy_model())
    with pytest.raises(TypeError, match="steps_per_epoch"):
        len(loader)
    assert not hasattr(loader, "dataset")
    assert not isinstance(loader, DataLoader)
    loader.sampler.set_epoch(3)
    assert loader.load_state_dict({}) is None
    loader.close()


def test_set_epoch_names_the_coin(worker: Worker) -> None:
    def ids(loader: siftd.SiftingDataLoader) -> set[int]:
        out: set[int] = set()
        for _ in loader:
            assert loader.last_batch_info is not None
            out |= set(loader.last_batch_info.ids.tolist())
        return out

    with sift(DataLoader(Rows(320), 16), worker, policy=siftd.Uniform(0.5), seed=3) as loader:
        first = ids(loader)
        loader.set_epoch(0)
        assert ids(loader) == first
        loader.sampler.set_epoch(9)
        assert ids(loader) != first


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sync_every": 0}, "sync_every is 0; allowed: a whole number in [1, 1000000]"),
        ({"prefetch": 2000}, "prefetch is 2000"),
        ({"timeout": -1}, "timeout is -1; allowed: > 0 seconds"),
        ({"beta": -1}, "beta is -1; allowed: > 0"),
        ({"keep": 1.5}, r"keep is 1.5; allowed: (0, 1]"),
        ({"beta": 1, "keep": 0.5}, "beta and keep"),
        ({"policy": "magic"}, "policy is 'magic'"),
        ({"policy": siftd.Uniform(0.5), "beta": 1}, "beta, keep"),
        ({"workers": []}, "workers is []"),
        ({"workers": "many"}, "workers is 'many'"),
        ({"model": 3}, "model is 'int'"),
        ({"policy": siftd.Confidence(modifiers=siftd.Modifiers(end=0.9))}, "only with total_steps"),
    ],
)
def test_bad_arguments_name_field_value_and_range(options: dict[str, Any], text: str) -> None:
    options.setdefault("model", toy_model())
    with pytest.raises(siftd.ConfigError) as caught:
        siftd.SiftingDataLoader(DataLoader(TensorDataset(torch.zeros(4, 8)), 2), **options)
    assert text in str(caught.value)
