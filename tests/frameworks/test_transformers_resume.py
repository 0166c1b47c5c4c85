# SPDX-License-Identifier: Apache-2.0
"""Trainers that are killed and resumed: each row that was to be trained is trained once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

import hf_run
import siftd
from hf_support import RecordingTrainer, make_trainer
from launch import launch
from siftd._frameworks.hf_loop import read_state
from siftd.transformers import STATE_FILE, enable_sifting
from support import Worker


def run(tmp: Path, name: str, **settings: Any) -> dict[str, Any]:
    """In this process, but for a run that dies."""
    if settings.get("die"):
        return launch("hf_run.py", tmp / name, dies=True, **settings)[0]
    hf_run.run(out=str(tmp / name), **settings)
    result: dict[str, Any] = json.loads((tmp / f"{name}.0").read_text())
    return result


def flat(trained: list[list[int]]) -> Counter[int]:
    return Counter(row for rows in trained for row in rows)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "passes": ({"num_train_epochs": 3}, {}),
    "passes, accumulated": ({"num_train_epochs": 3, "gradient_accumulation_steps": 2}, {}),
    "passes, last batch dropped, loaded by a child": (
        {"num_train_epochs": 3, "dataloader_drop_last": True, "dataloader_num_workers": 1},
        {},
    ),
    "a length": ({"num_train_epochs": 3, "gradient_accumulation_steps": 2}, {"steps_per_epoch": 7}),
    "max_steps": ({"max_steps": 21}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_loses_and_repeats_nothing(tmp_path: Path, worker: Worker, case: str) -> None:
    options, sifting = CASES[case]
    step = 3 if "gradient_accumulation_steps" in options else 6
    options = {"save_strategy": "steps", "save_steps": step, **options}
    common: dict[str, Any] = {"sifting": {"workers": [worker.endpoint], **sifting}, "options": options}
    whole = run(tmp_path, "whole", folder=str(tmp_path / "a"), **common)
    broken = run(tmp_path, "broken", folder=str(tmp_path / "b"), die=step + 2, **common)
    rest = run(tmp_path, "rest", folder=str(tmp_path / "b"), resume=True, **common)
    assert broken["steps"][-1] == step + 2 and rest["steps"][0] == step + 1
    kept = [rows for at, rows in zip(broken["steps"], broken["trained"], strict=True) if at <= step]
    assert flat(kept + rest["trained"]) == flat(whole["trained"])
    assert rest["steps"][-1] == whole["steps"][-1]
    assert rest["epochs"] == pytest.approx(whole["epochs"][step:], abs=1e-6 if sifting else 0.1)


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_a_save_at_the_very_end_of_a_pass_is_resumed_with_the_next(
    tmp_path: Path, worker: Worker, strategy: str
) -> None:
    common: dict[str, Any] = {"sifting": {"workers": [worker.endpoint]}}
    options: dict[str, Any] = {"num_train_epochs": 3}
    whole = run(tmp_path, "whole", folder=str(tmp_path / "a"), options=options, **common)
    last = 1 + next(i for i, rows in enumerate(whole["trained"]) if len(rows) < 8)  # the short batch ends the pass
    assert max(flat(whole["trained"][:last]).values()) == 1
    options |= {"save_strategy": strategy, "save_steps": last}
    broken = run(tmp_path, "broken", folder=str(tmp_path / "b"), die=last + 2, options=options, **common)
    assert (tmp_path / "b" / f"checkpoint-{last}").is_dir()
    rest = run(tmp_path, "rest", folder=str(tmp_path / "b"), resume=True, options=options, **common)
    assert flat(broken["trained"][:last] + rest["trained"]) == flat(whole["trained"])
    assert rest["candidates"] == 240
    assert rest["state"] == 3.0


def test_a_checkpoint_between_micro_batches_holds_the_steps_done(tmp_path: Path, worker: Worker) -> None:
    class Preempted(TrainerCallback):
        """As JITCheckpointCallback does when SIGTERM arrives."""

        def __init__(self, trainer: RecordingTrainer) -> None:
            self.trainer = trainer

        def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                self.trainer._save_checkpoint(self.trainer.model, trial=None)
                raise KeyboardInterrupt

    trained: list[list[list[int]]] = []
    for end in ("none", "preempted", "resumed"):
        trainer = make_trainer(tmp_path, num_train_epochs=2, gradient_accumulation_steps=3)
        enable_sifting(trainer, workers=[worker.endpoint], policy=siftd.Uniform(0.5))
        trained.append(trainer.trained)
        if end == "preempted":
            trainer.add_callback(Preempted(trainer))
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
            assert trainer.steps == [1] and trainer.pending
        else:
            trainer.train(resume_from_checkpoint=end == "resumed")
    assert flat(trained[1] + trained[2]) == flat(trained[0])


def test_checkpoints_are_the_trainers_and_one_file_more(tmp_path: Path, worker: Worker) -> None:
    options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}
    files: dict[str, set[str]] = {}
    for name, more in (
        ("plain", {}), ("sifted", {}), ("model only", {"save_only_model": True}), ("two", {"save_total_limit": 2}),
    ):  # fmt: skip
        trainer = make_trainer(tmp_path / name, **options, **more)
        if name != "plain":
            enable_sifting(trainer, workers=[worker.endpoint], policy=siftd.Uniform(0.5))
        trainer.train()
        folders = sorted((tmp_path / name).glob("checkpoint-*"))
        files[name] = {p.name for p in folders[0].iterdir()}
        if name == "two":
            assert len(folders) == 2
    assert files["sifted"] == files["plain"] | {STATE_FILE}
    assert files["two"] == files["sifted"]
    assert STATE_FILE in files["model only"] and "optimizer.pt" not in files["model only"]


def test_a_state_that_is_no_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / STATE_FILE
    torch.save({"schema": 1, "loader": Path("a class that only code could make")}, path)
    with pytest.raises(siftd.StateError, match="siftd_state.pt can't be read: Weights only load failed"):
        read_state(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(siftd.StateError, match="can't be read"):
        read_state(path)
    torch.save({"schema": 2}, path)
    with pytest.raises(siftd.StateError, match="schema is 2; allowed: 1"):
        read_state(path)


def test_a_checkpoint_without_sifting_begins_a_whole_pass(
    tmp_path: Path, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"num_train_epochs": 1, "save_strategy": "steps", "save_steps": 10}
    make_trainer(tmp_path, **options).train()
    trainer = make_trainer(tmp_path, **{**options, "num_train_epochs": 2})
    sifting = enable_sifting(trainer, workers=[worker.endpoint], policy=siftd.Uniform(0.5))
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert "holds no siftd_state.pt" in caplog.text
    assert sifting.loader.stats().candidates == 240
    assert trainer.state.global_step > 10


def test_the_state_of_other_data_is_refused(tmp_path: Path, worker: Worker) -> None:
    options = {"num_train_epochs": 1, "save_strategy": "steps", "save_steps": 3}
    for rows in (120, 160):
        trainer = make_trainer(tmp_path, rows=rows, **options)
        enable_sifting(trainer, workers=[worker.endpoint], policy=siftd.Uniform(0.5))
        if rows == 120:
            trainer.train()
        else:
            with pytest.raises(siftd.StateError, match="data_size 120, this loader has 160"):
                trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
