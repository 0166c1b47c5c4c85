# SPDX-License-Identifier: Apache-2.0
"""Exact resume: a trainer is killed at exact points and started again; what its line of checkpoints trained is what an
undisturbed run trains, each row once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from test_stream import loaders
from torch.utils.data import DataLoader

import siftd
from support import ROOT, Rows, Worker, binary, toy_model

JOB = Path(__file__).with_name("resume_job.py")
TESTS = JOB.parents[1]
SIGKILLED = -signal.SIGKILL


def run(mode: str, folder: Path, policy: str, pool: list[Worker], die: str = "") -> int:
    """The job once; its exit code."""
    path = os.pathsep.join([str(ROOT / "client" / "python"), str(TESTS)])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "DIE": die}
    command = [sys.executable, str(JOB), mode, str(folder), policy, *(w.endpoint for w in pool)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, SIGKILLED), done.stderr
    assert done.returncode == 0 or die, done.stderr
    return done.returncode


def line_of_checkpoints(mode: str, folder: Path, policy: str, pools: list[list[Worker]], deaths: list[str]) -> Any:
    """(epoch, id) of all that was trained. Each run but the last dies, on its own pool."""
    folder.mkdir()
    for n, die in enumerate([*deaths, ""]):
        assert run(mode, folder, policy, pools[n % len(pools)], die) == (SIGKILLED if die else 0), die
    return Counter(torch.load(folder / "end.pt", weights_only=True))


# A death of each kind; each client dies of half of them, in one line of checkpoints.
DEATHS = {"compiled": ["next:9", "stepped:2", "write:2"], "in Python": ["trained:8", "state:3", "saved:1"]}


def test_killed_drop_ins_train_what_an_undisturbed_one_does(
    tmp_path: Path, pool: list[Worker], either_client: str
) -> None:
    undisturbed = line_of_checkpoints("dropin", tmp_path / "whole", "uniform", [pool], [])
    assert max(undisturbed.values()) == 1
    # The pool changes in size from run to run.
    killed = line_of_checkpoints("dropin", tmp_path / "killed", "uniform", [pool, pool[:1]], DEATHS[either_client])
    assert killed == undisturbed


def test_killed_stream_trainers_train_what_an_undisturbed_one_does(
    tmp_path: Path, pool: list[Worker], either_client: str
) -> None:
    def whole(folder: str, deaths: list[str]) -> Any:
        with loaders(pool, 600, 3):
            return line_of_checkpoints("stream", tmp_path / folder, "uniform", [pool], deaths)

    undisturbed = whole("whole", [])
    assert max(undisturbed.values()) == 1
    assert whole("killed", DEATHS[either_client]) == undisturbed


@pytest.mark.parametrize(("mode", "drop_last"), [("stream", False), ("stream", True), ("dropin", True)])
def test_a_death_at_an_epochs_last_batch_or_end_loses_and_repeats_nothing(
    tmp_path: Path, pool: list[Worker], either_client: str, mode: str, drop_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: where rows of one loader alone were left of an epoch, a stream's state sent that loader back and left the
    other ahead by an epoch, for good; and after a state of an epoch's last batch the epoch's end did not come."""
    monkeypatch.setenv("EVERY", "1")
    monkeypatch.setenv("DROP_LAST", str(int(drop_last)))

    def whole(folder: str, deaths: list[str]) -> Any:
        with loaders(pool, 600, 3) if mode == "stream" else contextlib.nullcontext():
            return line_of_checkpoints(mode, tmp_path / folder, "uniform", [pool], deaths)

    undisturbed = whole("whole", [])
    first, second, _ = torch.load(tmp_path / "whole" / "steps.pt", weights_only=True)
    # One batch before an epoch's last; at the last one, whose end is to come; at that end; at the end of the next.
    deaths = [f"saved:{first - 1}", "saved:1", "saved:1", f"saved:{second + 1}"]
    killed = whole("killed", deaths)
    assert max(killed.values()) == 1
    # With drop_last the order of arrival says which rows the run's end leaves over.
    assert killed == undisturbed if not drop_last else killed.total() == undisturbed.total()


@pytest.mark.parametrize("policy", ["confidence", "loss_cdf"])
def test_with_policies_that_read_the_model_nothing_is_trained_twice(
    tmp_path: Path, pool: list[Worker], policy: str
) -> None:
    trained = line_of_checkpoints("dropin", tmp_path / "killed", policy, [pool], ["next:12", "write:1"])
    assert max(trained.values()) == 1
    assert {epoch for epoch, _ in trained} == {0, 1, 2}


# ------------------------------------------------------------ states in files
@contextlib.contextmanager
def in_mid_pass(worker: Worker, path: Path) -> Iterator[tuple[dict[str, Any], siftd.SiftingDataLoader]]:
    """A loader after seven steps, and its state, which is in the file, too."""
    plain = DataLoader(Rows(400), 16, shuffle=True, generator=torch.Generator().manual_seed(5))
    with siftd.SiftingDataLoader(
        plain, model=toy_model(), workers=[worker.endpoint], policy=siftd.Uniform(0.5), seed=7
    ) as loader:
        batches = iter(loader)
        for _ in range(7):
            next(batches)
            loader.step()
        state = loader.state_dict()
        torch.save({"model": toy_model().state_dict(), "trainer": {"loader": state}}, path)
        yield state, loader


def test_a_state_is_json_and_at_most_a_batch_of_tensors(worker: Worker, tmp_path: Path) -> None:
    with in_mid_pass(worker, tmp_path / "checkpoint.pt") as (state, _):
        pass
    tensors: list[torch.Tensor] = []

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
            return "tensor"
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    json.dumps(plain(state))  # raises for anything else
    assert state["schema"] == 2
    assert sum(piece["rows"] for piece in state["rows"]) <= 16
    assert len(tensors) <= 2 + 2 * len(state["rows"])  # random states; x and y of a half-trained batch


def test_siftd_state_show_reads_a_checkpoint_without_running_it(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with in_mid_pass(worker, path) as (state, _):
        pass
    environment = os.environ | {"SIFTD_PYTHON": sys.executable, "PYTHONPATH": str(ROOT / "client" / "python")}
    shown = subprocess.run(
        [binary(), "state", "show", str(path)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == 0, shown.stderr
    told = json.loads(shown.stdout)["trainer.loader"]
    assert told["trained"] == state["trained"]
    assert told["steps"] == 7
    assert told["pass"]["rng"].startswith("uint8 [")

    (tmp_path / "other.pt").write_bytes(b"PK\x03\x04 no archive")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "none.pt")
    for name, text in (("other.pt", "no file of torch.save"), ("none.pt", "holds no state of a siftd loader")):
        shown = subprocess.run(
            [binary(), "state", "show", str(tmp_path / name)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (shown.returncode, text in shown.stderr) == (1, True), shown.stderr


def test_state_show_names_the_interpreter_that_it_lacks(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "checkpoint.pt")
    environment = os.environ | {"SIFTD_PYTHON": str(tmp_path / "no-python")}
    shown = subprocess.run(
        [binary(), "state", "show", str(tmp_path / "checkpoint.pt")],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert shown.returncode == 1
    assert "SIFTD_PYTHON" in shown.stderr


def test_a_round_trip_through_torch_distributed_checkpoint(worker: Worker, tmp_path: Path) -> None:
    seen: Counter[int] = Counter()
    with in_mid_pass(worker, tmp_path / "checkpoint.pt") as (state, first):
        dcp.save({"loader": siftd.Stateful(first)}, checkpoint_id=str(tmp_path / "dcp"), no_dist=True)
    plain = DataLoader(Rows(400), 16, shuffle=True, generator=torch.Generator().manual_seed(6))
    with siftd.SiftingDataLoader(
        plain, model=toy_model(), workers=[worker.endpoint], policy=siftd.Uniform(0.5), seed=1
    ) as second:
        dcp.load({"loader": siftd.Stateful(second)}, checkpoint_id=str(tmp_path / "dcp"), no_dist=True)
        assert second.state_dict()["trained"] == state["trained"]
        for _ in second:
            assert second.last_batch_info is not None
            seen.update(second.last_batch_info.ids.tolist())
    assert max(seen.values()) == 1
    assert sum(seen.values()) > 0
    with pytest.raises(siftd.StateError, match="no loader state 'rank0'"):
        siftd.Stateful(second).load_state_dict({"rank1": b""})
