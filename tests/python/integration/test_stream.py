# SPDX-License-Identifier: Apache-2.0
"""Stream mode with real processes: workers, loader processes, trainer ranks; faults on the way."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

import siftd
from support import ROOT, Rows, Worker, toy_model, wait_until

pytestmark = pytest.mark.usefixtures("either_client")

TESTS = Path(__file__).resolve().parents[1]
LOADERS = 2


def spawn(code: str, *arguments: object) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT / "client" / "python"), str(TESTS)])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )


LOADER = """
import json, sys, torch, siftd
from torch.utils.data import DataLoader, Subset
from support import Rows
endpoints, index, count, rows, batch, epochs = json.loads(sys.argv[1]), *map(int, sys.argv[2:7])
torch.set_num_threads(1)
class Numbered(Subset):
    def __getitem__(self, i):
        x, y = self.dataset[self.indices[i]]
        return x, y, self.indices[i]
    __getitems__ = None
data = Numbered(Rows(rows), range(index, rows, count))
loader = DataLoader([data[i] for i in range(len(data))], batch, shuffle=True, generator=torch.Generator())
feeder = siftd.CandidateLoader(endpoints, loader, loader_index=index, loader_count=count,
                               epochs=epochs or None, ids=lambda b: b[2].tolist())
feeder.run()
print(json.dumps({"sent": feeder._sent_batches, "settled": feeder._settled_rows, "kept": feeder._kept_rows}))
"""


@contextmanager
def loaders(pool: list[Worker], rows: int, epochs: int, batch: int = 16, count: int = LOADERS) -> Iterator[Any]:
    endpoints = json.dumps([w.endpoint for w in pool])
    processes = [spawn(LOADER, endpoints, i, count, rows, batch, epochs) for i in range(count)]
    try:
        yield processes
    finally:
        for p in processes:
            if p.poll() is None:
                p.kill()
            p.wait(10)
            assert p.stdout is not None
            p.stdout.close()


def streaming(pool: list[Worker], **options: Any) -> siftd.StreamLoader:
    data = Rows(64)
    options.setdefault("policy", siftd.Uniform(0.5))
    options.setdefault("loader_count", LOADERS)
    options.setdefault("seed", 7)
    return siftd.StreamLoader(
        [w.endpoint for w in pool], 16, model=toy_model(), example_batch=(data.x[:16], data.y[:16]), **options
    )


def epoch_ids(loader: siftd.StreamLoader, data: Rows) -> list[int]:
    """Ids of one epoch; checks every row against the data set."""
    ids: list[int] = []
    for x, y, number in loader:
        info = loader.last_batch_info
        assert info is not None
        rows = info.ids.astype(np.int64)
        assert torch.equal(number, torch.from_numpy(rows))
        assert torch.equal(x, data.x[rows])
        assert torch.equal(y, data.y[rows])
        ids += rows.tolist()
        loader.step()
    return ids


def test_a_worker_is_reached_by_a_path(tmp_path: Path) -> None:
    rows = 320
    with (
        Worker(tmp_path, "--endpoint", f"ipc://{tmp_path}/w.sock") as worker,
        loaders([worker], rows, epochs=1),
        streaming([worker]) as loader,
    ):
        assert worker.endpoint == f"ipc://{tmp_path}/w.sock"
        ids = epoch_ids(loader, Rows(rows))
        assert len(ids) == len(set(ids)) == loader.stats().kept
        assert int(worker.status()["decided_batches"]) == rows // 16


def test_epochs_end_exactly_and_every_kept_row_is_trained_once(pool: list[Worker]) -> None:
    rows, epochs = 800, 3
    data = Rows(rows)
    with loaders(pool, rows, epochs) as processes, streaming(pool) as loader:
        kept = []
        for _ in range(epochs):
            ids = epoch_ids(loader, data)
            assert len(ids) == len(set(ids))
            kept.append(len(ids))
        stats = loader.stats()
        loader.close()
        told = [json.loads(p.communicate(timeout=60)[0]) for p in processes]
    assert stats.decided == rows * epochs
    assert sum(kept) == stats.kept == stats.trained
    assert sum(t["settled"] for t in told) == rows * epochs
    assert sum(t["kept"] for t in told) == stats.kept
    five_sigma = 5 * math.sqrt(0.25 / (rows * epochs))
    assert abs(stats.kept / (rows * epochs) - 0.5) < five_sigma
    for w in pool:
        assert int(w.status()["held_batches"]) == 0


def test_a_worker_killed_in_mid_epoch_loses_nothing(pool: list[Worker]) -> None:
    rows = 2000
    data = Rows(rows)
    with loaders(pool, rows, 1), streaming(pool) as loader:
        ids: list[int] = []
        for n, (x, _, number) in enumerate(loader):
            assert torch.equal(x, data.x[number])
            ids += number.tolist()
            if n == 5:
                pool[0].signal(signal.SIGKILL)
        stats = loader.stats()
    assert stats.decided == rows
    assert len(ids) == len(set(ids)) == stats.kept


def test_a_stalled_trainer_stops_the_loaders_and_memory_stays_flat(tmp_path: Path) -> None:
    budget = 1 << 20
    # 60,000 rows of 32 bytes and more: several times the budget, if nothing stopped them.
    with (
        Worker(tmp_path, "--budget-bytes", str(budget), "--max-batch-bytes", "64KiB") as w,
        loaders([w], 60_000, 1, batch=512) as processes,
        streaming([w], prefetch=1) as loader,
    ):
        iterator = iter(loader)
        next(iterator)

        def sent() -> tuple[str, str]:
            s = w.status()
            return s["candidates"], s["held_bytes"]

        last = [("", "")]

        def still() -> bool:
            now = sent()
            same = now == last[0]
            last[0] = now
            time.sleep(0.5)  # the span over which nothing may move
            return same

        wait_until("nothing moves any more", still)
        held = int(w.status()["held_bytes"])
        assert 0 < held <= budget
        assert int(w.status()["candidates"]) < 60_000
        before = psutil.Process(w.process.pid).memory_info().rss
        wait_until("still nothing moves", still)
        assert psutil.Process(w.process.pid).memory_info().rss - before < 0.2 * budget + (1 << 20)
        rows = 16 + sum(len(y) for _, y, _ in iterator)  # and it goes on
        assert rows == loader.stats().kept
        assert loader.stats().decided == 60_000
        loader.close()
        assert all(p.wait(60) == 0 for p in processes)


RANK = """
import json, sys, torch, siftd
from support import Rows, toy_model
endpoints, rank, run, steps, epochs = json.loads(sys.argv[1]), *map(int, sys.argv[2:6])
data = Rows(64)
loader = siftd.StreamLoader(endpoints, 16, rank=rank, world=2, loader_count=2, model=toy_model(),
                            example_batch=(data.x[:16], data.y[:16]), policy=siftd.Uniform(0.5), run=run,
                            steps_per_epoch=steps, seed=7)
out = []
for _ in range(epochs):
    ids = []
    for x, y, number in loader:
        assert len(y) == 16
        ids.append([[int(e), int(i)] for e, i in zip(loader.last_batch_info.epochs, number)])
        loader.step()
    out.append(ids)
loader.close()
print(json.dumps(out))
"""


def test_two_ranks_get_equal_steps_and_disjoint_rows(pool: list[Worker]) -> None:
    rows, steps, epochs = 600, 8, 3
    endpoints = json.dumps([w.endpoint for w in pool])
    run = time.time_ns()
    with loaders(pool, rows, 0) as feeders:
        ranks = [spawn(RANK, endpoints, r, run, steps, epochs) for r in range(2)]
        told = []
        for p in ranks:
            text, _ = p.communicate(timeout=120)
            assert p.returncode == 0
            told.append(json.loads(text))
        assert all(f.wait(60) == 0 for f in feeders)  # Goodbye(done) reached them
    for rank in told:
        assert [len(epoch) for epoch in rank] == [steps] * epochs
    seen = Counter((rank, *row) for rank, t in enumerate(told) for epoch in t for batch in epoch for row in batch)
    assert max(seen.values()) == 1  # each row of a pass once
    for rank, t in enumerate(told):
        assert all(i % 2 == rank for epoch in t for batch in epoch for _, i in batch)  # loader i feeds rank i % world


def test_a_restarted_trainer_resumes_without_loss_or_repeat(pool: list[Worker]) -> None:
    rows = 1200
    data = Rows(rows)
    with loaders(pool, rows, 1):
        first = streaming(pool, linger=0.5)
        ids: list[int] = []
        for n, (_, _, number) in enumerate(first):
            ids += number.tolist()
            first.step()
            if n == 12:
                state = first.state_dict()
                break
        # It dies: no Goodbye.
        assert first._io is not None
        assert first._weights is not None
        first._io.stop(goodbye=False)
        first._weights.publisher.close()
        with streaming(pool) as second:
            second.load_state_dict(state)
            ids += epoch_ids(second, data)
    assert len(ids) == len(set(ids))
    with loaders(pool, rows, 1), streaming(pool) as undisturbed:
        assert sorted(ids) == sorted(epoch_ids(undisturbed, data))


def test_a_loader_with_a_taken_index_ends_with_an_error_that_says_so(worker: Worker) -> None:
    with loaders([worker], 400, 0, count=1) as first, streaming([worker], loader_count=1) as loader:
        next(iter(loader))
        with loaders([worker], 400, 0, count=1) as second:
            wait_until("the first is replaced", lambda: first[0].poll() is not None)
            assert first[0].returncode != 0
            assert second[0].poll() is None


def test_stream_arguments_are_checked() -> None:
    data = Rows(4)
    example = (data.x, data.y)
    for options, text in (
        ({"endpoints": []}, "endpoints is []"),
        ({"batch_size": 0}, "batch_size is 0; allowed: a whole number in [1, 1048576]"),
        ({"world": 2, "loader_count": 2}, "steps_per_epoch is None"),
        ({"rank": 1}, "rank is 1; allowed: a whole number in [0, 0]"),
        ({"world": 3, "loader_count": 2, "steps_per_epoch": 1}, "loader_count is 2; allowed: a whole number in [3, "),
        ({"model": None}, "model"),
    ):
        arguments: dict[str, Any] = {"endpoints": ["tcp://127.0.0.1:1"], "batch_size": 4, "model": toy_model()}
        arguments |= {"example_batch": example, **options}
        with pytest.raises(siftd.ConfigError) as caught:
            siftd.StreamLoader(**arguments)
        assert text in str(caught.value)
    with pytest.raises(siftd.ConfigError, match="loader_index"):
        siftd.CandidateLoader(["tcp://127.0.0.1:1"], [], loader_index=2, loader_count=2)
