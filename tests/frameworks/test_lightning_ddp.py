# SPDX-License-Identifier: Apache-2.0
"""siftd.lightning with strategy="ddp": two processes that Lightning starts itself, gloo, one worker for both."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_job import kept
from support import ROOT, Worker

JOB = Path(__file__).with_name("lightning_job.py")
STEPS = 4  # per epoch
EPOCHS = 3
RANKS = (0, 1)
Lines = list[tuple[int, list[tuple[int, int]]]]  # global_step before the batch, rows (pass, id)


def run(folder: Path, worker: Worker, *arguments: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "client" / "python"), str(ROOT / "tests" / "python")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(JOB), str(folder), worker.endpoint, "--devices", "2", *map(str, arguments)]
    # Its second rank is a child of the first, and may outlive it.
    job = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = job.communicate(timeout=280)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, job.returncode, out, err)


def lines(folder: Path, name: str) -> dict[int, Lines]:
    return {
        rank: [
            (step, [(epoch, i) for epoch, i in rows])
            for step, rows in map(json.loads, (folder / f"{name}-{rank}.jsonl").read_text().splitlines())
        ]
        for rank in RANKS
    }


def rows(of: Lines, before_step: int = sys.maxsize) -> Counter[tuple[int, int]]:
    return Counter(row for step, batch in of if step < before_step for row in batch)


@pytest.mark.timeout(900)
def test_two_ranks_killed_and_resumed_train_each_kept_row_once(worker: Worker, tmp_path: Path) -> None:
    job = run(tmp_path, worker, "--limit", STEPS, "--die-after", 7)  # the limit gives the length of an epoch
    assert job.returncode != 0
    first = lines(tmp_path, "first")
    assert [len(first[rank]) for rank in RANKS] == [7, 7], job.stderr
    assert sorted(p.name for p in (tmp_path / "ckpt").iterdir()) == ["step=2.ckpt", "step=4.ckpt", "step=6.ckpt"]
    state: dict[str, Any] = torch.load(tmp_path / "ckpt" / "step=6.ckpt", weights_only=True)["callbacks"]["Sifting"]
    assert [s["rank"] for s in state["loader"]["ranks"]] == [0, 1]

    job = run(tmp_path, worker, "--steps-per-epoch", STEPS, "--resume", tmp_path / "ckpt" / "step=6.ckpt")
    assert job.returncode == 0, job.stderr
    resumed = lines(tmp_path, "resumed")
    both = {rank: rows(first[rank], before_step=6) + rows(resumed[rank]) for rank in RANKS}
    for rank in RANKS:
        assert f"rank {rank} made {STEPS * EPOCHS} steps" in job.stdout
        assert [step for step, _ in resumed[rank]] == list(range(6, STEPS * EPOCHS))
        assert all(len(batch) == 8 for _, batch in resumed[rank])
    assert set((both[0] + both[1]).values()) == {1}  # nothing twice, on no rank
    ended = min(resumed[rank][-1][1][-1][0] for rank in RANKS)  # passes before this one are over on both
    assert ended >= 2
    wanted = kept(worker.endpoint, ended)
    assert len(wanted) > 0.4 * 96 * ended
    assert wanted == {row for row in both[0] | both[1] if row[0] < ended}


def test_several_ranks_need_the_steps_of_an_epoch(worker: Worker, tmp_path: Path) -> None:
    job = run(tmp_path, worker)
    assert job.returncode != 0
    assert "steps_per_epoch is None" in job.stderr
    assert "limit_train_batches=N" in job.stderr
