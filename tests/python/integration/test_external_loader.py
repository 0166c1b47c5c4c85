# SPDX-License-Identifier: Apache-2.0
"""The loader that knows the protocol alone, against real workers and a Python trainer."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import siftd
from keys import Keys, LockedWorker
from support import ROOT, Rows, Worker, toy_model

ROWS, BATCH = 600, 16


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    data = Rows(ROWS)
    path = tmp_path / "rows.csv"
    lines = (
        ",".join(repr(v) for v in row) + f",{label}\n"
        for row, label in zip(data.x.tolist(), data.y.tolist(), strict=True)
    )
    path.write_text("".join(lines))
    return path


@contextmanager
def external_loaders(
    tmp_path: Path, csv: Path, pool: list[Worker], count: int, epochs: int, *flags: str
) -> Iterator[list[subprocess.Popen[str]]]:
    """In a folder that holds the example and proto/ and nothing else of the project."""
    alone = tmp_path / "alone"
    shutil.copytree(ROOT / "proto", alone / "proto", dirs_exist_ok=True)
    shutil.copy(ROOT / "client" / "examples" / "external_loader.py", alone)
    endpoints = [a for w in pool for a in ("--endpoint", w.endpoint)]
    processes = [
        subprocess.Popen(
            # -P: the folder of the script is not on the path; the package is not imported.
            [sys.executable, "-P", "external_loader.py", "--csv", str(csv), *endpoints]
            + ["--index", str(i), "--count", str(count), "--epochs", str(epochs), "--batch", str(BATCH)]
            + list(flags),
            cwd=alone,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]
    try:
        yield processes
    finally:
        for p in processes:
            p.kill()
            p.communicate(timeout=10)


def stream(pool: list[Worker], **options: object) -> siftd.StreamLoader:
    data = Rows(64)
    return siftd.StreamLoader(
        [w.endpoint for w in pool],
        BATCH,
        model=toy_model(),
        example_batch=(data.x[:16], data.y[:16]),
        policy=siftd.Uniform(0.5),
        loader_count=2,
        seed=7,
        **options,  # type: ignore[arg-type]
    )


def ids_of_epoch(loader: siftd.StreamLoader, kill: Worker | None = None) -> list[int]:
    data = Rows(ROWS)
    ids: list[int] = []
    for n, (x, y) in enumerate(loader):
        assert loader.last_batch_info is not None
        rows = loader.last_batch_info.ids.astype(int)
        assert torch.equal(x, data.x[rows]) and torch.equal(y, data.y[rows])
        ids += rows.tolist()
        loader.step()
        if n == 3 and kill is not None:
            kill.signal(signal.SIGKILL)
    assert len(ids) == len(set(ids))
    return ids


def test_it_feeds_two_epochs_exactly(tmp_path: Path, csv: Path, pool: list[Worker]) -> None:
    with external_loaders(tmp_path, csv, pool, 2, 2) as loaders, stream(pool) as loader:
        kept = [len(ids_of_epoch(loader)) for _ in range(2)]
        stats = loader.stats()
        loader.close()
        told = [p.communicate(timeout=60)[0] for p in loaders]
        assert [p.returncode for p in loaders] == [0, 0]
    assert stats.decided == 2 * ROWS
    assert sum(kept) == stats.kept
    counts = [list(map(int, re.findall(r"\d+", line))) for line in told]
    batches_of_a_shard = -(-ROWS // 2 // BATCH)
    assert [c[0] for c in counts] == [2 * batches_of_a_shard] * 2
    assert sum(c[1] for c in counts) == stats.kept


def test_it_feeds_workers_with_keys(tmp_path: Path, csv: Path) -> None:
    keys = Keys(tmp_path / "keys")
    feeder = keys.client("feeder", "loader")
    with (
        LockedWorker(tmp_path, keys) as worker,
        external_loaders(tmp_path, csv, [worker], 2, 1, "--keys", feeder) as loaders,
        stream([worker], keys=keys.client("trainer", "trainer", "publisher")) as loader,
    ):
        kept = len(ids_of_epoch(loader))
        assert (loader.stats().decided, loader.stats().kept) == (ROWS, kept)
        loader.close()
        assert [p.wait(60) for p in loaders] == [0, 0]
    stranger = keys.client("stranger", "monitor")
    keys.public("stranger", "monitor").unlink()
    with (
        LockedWorker(tmp_path, keys) as worker,
        external_loaders(tmp_path, csv, [worker], 1, 1, "--keys", stranger) as loaders,
    ):
        assert loaders[0].wait(60) == 1


def test_a_killed_worker_loses_nothing(tmp_path: Path, csv: Path, pool: list[Worker]) -> None:
    with external_loaders(tmp_path, csv, pool, 2, 1) as loaders, stream(pool) as loader:
        ids = ids_of_epoch(loader, kill=pool[0])
        stats = loader.stats()
        loader.close()
        assert [p.wait(60) for p in loaders] == [0, 0]
    assert stats.decided == ROWS
    assert len(ids) == stats.kept


def test_a_new_trainer_run_makes_it_begin_where_that_run_stands(tmp_path: Path, csv: Path, pool: list[Worker]) -> None:
    with external_loaders(tmp_path, csv, pool, 2, 1) as loaders:
        first = stream(pool)
        some: list[int] = []
        for n, _ in enumerate(first):
            assert first.last_batch_info is not None
            some += first.last_batch_info.ids.astype(int).tolist()
            first.step()
            if n == 4:
                break
        state = first.state_dict()
        first._io.stop(goodbye=False)  # type: ignore[union-attr]  # it dies without a Goodbye
        with stream(pool) as second:
            second.load_state_dict(state)
            rest = ids_of_epoch(second)
            second.close()
        assert [p.wait(60) for p in loaders] == [0, 0]
    assert not set(some) & set(rest)
    uniform = siftd.Uniform(0.5)
    assert uniform.requested_keep == 0.5
    five_sigma = 5 * (0.25 / ROWS) ** 0.5
    assert abs((len(some) + len(rest)) / ROWS - 0.5) < five_sigma
