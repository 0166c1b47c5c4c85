# SPDX-License-Identifier: Apache-2.0
"""Two ranks under torchrun, with local workers and with a pool: equal steps, agreed decisions, resume."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import siftd
from siftd._loop.distributed import own_state
from support import ROOT, Rows, Worker, toy_model

JOB = Path(__file__).with_name("ranks_job.py")


def torchrun(script: Path, *arguments: object, ranks: int = 2, ok: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", str(script)]
        + [str(a) for a in arguments],
        env=rank_environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def rank_environment() -> dict[str, str]:
    import os

    path = f"{ROOT / 'client' / 'python'}:{ROOT / 'tests' / 'python'}"
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def read(folder: Path, name: str, rank: int, batches: int | None = None) -> tuple[list[tuple[int, int]], Any]:
    """(epoch, id) of the rows trained, in order, and the closing line where there is one."""
    lines = [json.loads(line) for line in (folder / f"trained-{name}-{rank}.jsonl").read_text().splitlines()]
    end = lines.pop() if lines and isinstance(lines[-1], dict) else None
    rows = [(e, i) for epochs, ids in lines[:batches] for e, i in zip(epochs, ids, strict=True)]
    return rows, end


@pytest.mark.parametrize("how", ["local workers", "a pool", "local workers, FSDP2", "a pool, FSDP2"])
def test_two_ranks_make_equal_steps_over_their_own_shards(tmp_path: Path, pool: list[Worker], how: str) -> None:
    workers = ",".join(w.endpoint for w in pool) if "pool" in how else "auto"
    torchrun(JOB, tmp_path, workers, 6, "--epochs", 2, *(["--fsdp"] if "FSDP2" in how else []))
    ends, every = [], []
    for rank in range(2):
        rows, end = read(tmp_path, "first", rank)
        ends.append(end)
        every += rows
    assert [e["steps"] for e in ends] == [12, 12]
    assert len(every) == len(set(every)) == 2 * 12 * 16, "no row on both ranks, none twice"
    assert all(e["stats"]["unsifted"] == 0 for e in ends), "both ranks are sifted"
    assert all(e["stats"]["model_versions"] == 1 + 6 for e in ends)


def test_kill_and_resume_with_two_ranks_loses_and_repeats_nothing(tmp_path: Path, pool: list[Worker]) -> None:
    workers = ",".join(w.endpoint for w in pool)
    torchrun(JOB, tmp_path, workers, 8, "--epochs", 3, "--save-after", 5, "--die-after", 7, ok=False)
    torchrun(JOB, tmp_path, workers, 8, "--epochs", 3, "--resume")
    state = torch.load(tmp_path / "state.pt", weights_only=False)
    assert state["world"] == len(state["ranks"]) == 2
    trained: Counter[tuple[int, int]] = Counter()
    for rank in range(2):
        before, _ = read(tmp_path, "first", rank, batches=5)
        after, end = read(tmp_path, "resumed", rank)
        assert end["steps"] == 3 * 8 - 5, "the rest of the first epoch, then whole ones"
        trained.update(before + after)
    assert max(trained.values()) == 1
    first_pass = {k for k in trained if k[0] == 0}
    assert first_pass == kept_by_the_coin(pool[0], epoch=0), "the first pass is trained whole"


def kept_by_the_coin(worker: Worker, epoch: int) -> set[tuple[int, int]]:
    """What Uniform(0.6) with the job's seed keeps of all rows, whoever scores them."""
    loader = siftd.SiftingDataLoader(
        DataLoader(Rows(400), 16), model=toy_model(), workers=[worker.endpoint], policy=siftd.Uniform(0.6), seed=9
    )
    loader.set_epoch(epoch)
    kept: set[tuple[int, int]] = set()
    for _ in loader:
        assert loader.last_batch_info is not None
        kept |= {(epoch, int(i)) for i in loader.last_batch_info.ids}
    loader.close()
    return kept


def test_without_steps_per_epoch_several_ranks_are_refused(tmp_path: Path, pool: list[Worker]) -> None:
    script = tmp_path / "job.py"
    script.write_text(JOB.read_text().replace("steps_per_epoch=args.steps, ", ""))
    out = torchrun(script, tmp_path, pool[0].endpoint, 6, ok=False)
    assert "steps_per_epoch is None; allowed: given where there are several ranks (here 2)" in out


def test_an_error_of_one_rank_is_raised_on_all(tmp_path: Path, pool: list[Worker]) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        JOB.read_text().replace("siftd.Uniform(0.6)", "siftd.Uniform(0.6, modifiers=siftd.Modifiers(column='nope'))")
    )
    out = torchrun(script, tmp_path, pool[0].endpoint, 6, ok=False)
    assert "one that reads a column of the scorer" in out


def test_shards_are_disjoint_and_whole_without_padding() -> None:
    loader = DataLoader(Rows(101), 8, shuffle=True)
    shards = [siftd.distributed_loader(loader, rank=r, world=4, seed=2) for r in range(4)]
    seen: list[float] = []
    for epoch in range(2):
        ids = []
        for shard in shards:
            shard.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            assert len(list(shard.sampler)) == len(shard.sampler)
            ids += list(shard.sampler)
        assert sorted(ids) == list(range(101))
        seen.append(ids[0])
    assert seen[0] != seen[1], "shuffled anew each epoch"
    assert siftd.distributed_loader(shards[0], rank=0, world=4) is shards[0]
    with pytest.raises(siftd.ConfigError, match="can't be split"):
        weighted = torch.utils.data.WeightedRandomSampler([1.0] * 101, 101)
        siftd.distributed_loader(DataLoader(Rows(101), 8, sampler=weighted), rank=0, world=2)


def test_a_gathered_state_gives_each_rank_its_own() -> None:
    gathered = {"schema": 1, "world": 2, "ranks": [{"rank": 0, "world": 2}, {"rank": 1, "world": 2}]}
    assert own_state(gathered, 1, 2)["rank"] == 1
    with pytest.raises(siftd.StateError, match="saved by 2 ranks, this run has 4"):
        own_state(gathered, 1, 4)
    with pytest.raises(siftd.StateError, match="saved by 2 ranks, this run has 1"):
        own_state(gathered, 0, 1)
    with pytest.raises(siftd.StateError, match="that of rank 0 of 2, this is rank 1 of 2"):
        own_state(gathered["ranks"][0], 1, 2)  # type: ignore[index]
