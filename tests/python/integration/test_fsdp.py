# SPDX-License-Identifier: Apache-2.0
"""Models that are spread over two ranks: what rank 0 would send is, to the byte, what the whole model holds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fsdp_job import Net, change, linear
from torch import nn

from siftd._wire.codec import wire_pb2
from support import ROOT

FULL, DELTA = wire_pb2.MODEL_KIND_FULL, wire_pb2.MODEL_KIND_DELTA
JOB = Path(__file__).with_name("fsdp_job.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """What each of two ranks took, by case."""
    folder = tmp_path_factory.mktemp("fsdp")
    path = f"{ROOT / 'client' / 'python'}:{ROOT / 'tests' / 'python'}"
    processes = []
    for rank in range(2):
        with open(folder / f"{rank}.log", "wb") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(JOB), str(folder), str(rank)],
                    env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        codes = [p.wait(240) for p in processes]
    finally:
        for p in processes:
            p.kill()
            p.wait()
    logs = "\n".join((folder / f"{rank}.log").read_text()[-4000:] for rank in range(2))
    assert codes == [0, 0], logs
    yield [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def bytes_of(model: nn.Module) -> dict[str, bytes]:
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {n: t.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() for n, t in state.items()}


def expected(changes: int) -> dict[str, bytes]:
    model = Net()
    change(model, changes)
    return bytes_of(model)


@pytest.mark.parametrize("case", ["fsdp2", "compiled", "everywhere"])
def test_a_sharded_model_is_published_whole(ranks: list[dict[str, Any]], case: str) -> None:
    assert ranks[0][case] == [(FULL, expected(0)), (FULL, expected(0)), (FULL, expected(1))]


def test_ranks_without_endpoints_take_part_and_take_nothing(ranks: list[dict[str, Any]]) -> None:
    assert ranks[1]["fsdp2"] == [None, None, None]
    assert ranks[1]["frozen"] == [None] * 7


def test_every_rank_can_publish(ranks: list[dict[str, Any]]) -> None:
    assert ranks[1]["everywhere"] == ranks[0]["everywhere"]


def test_of_a_sharded_model_with_a_frozen_trunk_only_the_rest_follows_the_base(ranks: list[dict[str, Any]]) -> None:
    base, delta, composed, unfrozen, after, all_trained, frozen_again = ranks[0]["frozen"]
    model = Net()
    trunk = {f"{layer}.{what}" for layer in ("trunk", "low") for what in ("weight", "bias")}
    assert base == (FULL, bytes_of(model))
    model.trunk.requires_grad_(False)
    model.low.requires_grad_(False)
    change(model)
    assert delta == (DELTA, {n: b for n, b in bytes_of(model).items() if n not in trunk})
    assert composed == (FULL, bytes_of(model))
    model.low.requires_grad_(True)
    assert unfrozen == (FULL, bytes_of(model))
    change(model)
    assert after == (DELTA, {n: b for n, b in bytes_of(model).items() if not n.startswith("trunk")})
    for train, seen in ((True, all_trained), (False, frozen_again)):
        model.trunk.requires_grad_(train)
        change(model)
        assert seen == (FULL, bytes_of(model))


def test_a_model_that_a_validation_left_gathered_is_published_from_its_shards(ranks: list[dict[str, Any]]) -> None:
    model = linear()
    change(model)
    assert ranks[0]["evaluated"] == (True, (FULL, bytes_of(model)))
    assert ranks[1]["evaluated"] == (True, None)


def test_tensor_parallel_layers_are_published_whole(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["tensor parallel"] == [(FULL, expected(1))]


def test_ranks_of_a_replicated_model_do_not_wait_for_each_other(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["data parallel"] == [(FULL, expected(0))] * 2
    assert ranks[1]["data parallel"] == [None, None]


def test_fsdp1_is_refused_on_every_rank_with_what_is_supported(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "FSDP1" in rank["fsdp1"]
        assert "fully_shard" in rank["fsdp1"]


def test_another_model_is_refused_on_every_rank_by_name(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "model's 'trunk.weight' is [8, 6]; allowed: shape [7, 6]" in rank["other shape"]


def test_a_publisher_that_would_get_nothing_is_told_how(ranks: list[dict[str, Any]]) -> None:
    assert "everywhere is False; allowed: True where rank 1 publishes" in ranks[1]["publisher on rank 1"]
