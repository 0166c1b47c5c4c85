# SPDX-License-Identifier: Apache-2.0
"""Sifted Trainers on two ranks under torchrun, CPU and gloo."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, IterableDataset, Sampler
from transformers import TrainingArguments

import siftd
from hf_support import make_trainer
from launch import launch
from siftd._frameworks.hf_data import _shard
from siftd.transformers import enable_sifting


def flat(trained: list[list[int]]) -> list[int]:
    return [row for rows in trained for row in rows]


@pytest.mark.parametrize("length, sampling", [("steps_per_epoch", "random"), ("max_steps", "group_by_length")])
def test_ranks_step_alike_on_rows_of_their_own(tmp_path: Path, length: str, sampling: str) -> None:
    options: dict[str, Any] = {"max_steps": 6} if length == "max_steps" else {"num_train_epochs": 2}
    sifting: dict[str, Any] = {"workers": 1} | ({"steps_per_epoch": 3} if length == "steps_per_epoch" else {})
    ranks = launch(
        "hf_run.py", tmp_path / "out", ranks=2, folder=str(tmp_path / "f"), rows=320, sifting=sifting,
        options={"train_sampling_strategy": sampling, **options},
    )  # fmt: skip
    for rank in ranks:
        assert rank["steps"] == [1, 2, 3, 4, 5, 6]
        assert [len(rows) for rows in rank["trained"]] == [8] * 6
    both = flat(ranks[0]["trained"]) + flat(ranks[1]["trained"])
    assert max(Counter(both).values()) == 1  # 96 of the about 160 kept of the first pass


def test_a_killed_run_of_two_ranks_loses_and_repeats_nothing(tmp_path: Path) -> None:
    common: dict[str, Any] = {
        "ranks": 2,
        "rows": 120,
        "sifting": {"workers": 1, "steps_per_epoch": 6},
        "options": {
            "num_train_epochs": 3, "gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 4,
        },
    }  # fmt: skip
    whole = launch("hf_run.py", tmp_path / "whole", folder=str(tmp_path / "a"), **common)
    broken = launch("hf_run.py", tmp_path / "broken", folder=str(tmp_path / "b"), dies=True, die=5, **common)
    rest = launch("hf_run.py", tmp_path / "rest", folder=str(tmp_path / "b"), resume=True, **common)
    for rank in range(2):
        assert rest[rank]["steps"] == [5, 6, 7, 8, 9]
        kept = broken[rank]["trained"][:4]
        assert Counter(flat(kept + rest[rank]["trained"])) == Counter(flat(whole[rank]["trained"]))


def test_the_weights_of_a_sharded_model_are_published(tmp_path: Path) -> None:
    fsdp = {
        "version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "transformer_layer_cls_to_wrap": ["BertLayer"],
    }  # fmt: skip
    ranks = launch(
        "hf_run.py", tmp_path / "out", ranks=2, folder=str(tmp_path / "f"), rows=320,
        sifting={"workers": 1, "sync_every": 2}, options={"max_steps": 6, "fsdp": True, "fsdp_config": fsdp},
    )  # fmt: skip
    assert ranks[0]["steps"] == ranks[1]["steps"] == [1, 2, 3, 4, 5, 6]
    assert ranks[0]["versions"] == 4


def test_several_ranks_without_a_number_of_steps_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tmp_path, num_train_epochs=1)
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda self: 2))
    with pytest.raises(siftd.ConfigError) as refusal:
        enable_sifting(trainer, workers=1)
    assert "enable_sifting(steps_per_epoch=...) or TrainingArguments(max_steps=...)" in str(refusal.value)
    enable_sifting(trainer, workers=1, steps_per_epoch=5)
    trainer.args.max_steps = 10
    enable_sifting(trainer, workers=1)


@pytest.mark.parametrize("world", [2, 3])
def test_a_stream_is_split_by_rows(world: int) -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Any:
            return iter(range(20))

    shares = [
        [row for batch in _shard(DataLoader(Stream(), 4), rank, world, 0) for row in batch.tolist()]
        for rank in range(world)
    ]
    assert [share[0] for share in shares] == list(range(world))
    assert sorted(row for share in shares for row in share) == list(range(20))


def test_samplings_that_ranks_cannot_agree_on_are_refused() -> None:
    class Own(Sampler[int]):
        def __iter__(self) -> Any:
            return iter(range(20))

    loaders = [DataLoader(range(20), sampler=Own()), DataLoader(range(20), batch_sampler=[[0, 1], [2]])]  # type: ignore[arg-type]
    for loader, name in zip(loaders, ("Own", "list"), strict=True):
        with pytest.raises(siftd.ConfigError, match=f"sampler is '{name}'.*split over 2 ranks"):
            _shard(loader, 0, 2, 0)
