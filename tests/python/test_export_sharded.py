# SPDX-License-Identifier: Apache-2.0
"""Exporting models of several ranks: two processes over gloo."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import siftd
from siftd.errors import ExportError
from support import toy_model

X, Y = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 5
DEADLINE = 120.0


def losses(model: nn.Module) -> torch.Tensor:
    scorer = siftd.export_scorer(model, "cross_entropy", (X, Y))
    assert [e.name for e in scorer.state if not e.is_buffer] == [n for n, _ in toy_model().named_parameters()]
    return torch.jit.load(io.BytesIO(scorer.archive))(X, Y)[0]  # type: ignore[no-any-return]


def rank_main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    plain = toy_model().eval()
    want = F.cross_entropy(plain(X), Y, reduction="none").detach()

    torch.testing.assert_close(losses(DistributedDataParallel(toy_model())), want)

    sharded = toy_model()
    fully_shard(sharded[0])
    fully_shard(sharded)
    torch.testing.assert_close(losses(sharded), want)
    assert isinstance(sharded, FSDPModule)
    assert all(isinstance(p, DTensor) and p.requires_grad for p in sharded.parameters()), "still sharded"
    loss = sharded.eval()(X).sum()
    torch.testing.assert_close(losses(sharded), want)  # the root's parameters are whole until the backward pass
    loss.backward()
    torch.testing.assert_close(losses(sharded), want)

    parallel: Any = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    whole = [p.detach().clone() for p in parallel.parameters()]
    for p in whole:
        dist.broadcast(p, 0)
    for p, w in zip(parallel.parameters(), whole, strict=True):
        p.data.copy_(w)
    expected = F.cross_entropy(parallel(X), Y, reduction="none").detach()
    mesh = dist.init_device_mesh("cpu", (2,))
    parallelize_module(parallel, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    scorer = siftd.export_scorer(parallel, "cross_entropy", (X, Y))
    torch.testing.assert_close(torch.jit.load(io.BytesIO(scorer.archive))(X, Y)[0], expected)

    with pytest.raises(ExportError, match="fully_shard"):
        siftd.export_scorer(FullyShardedDataParallel(toy_model(), device_id=torch.device("cpu")), "mse", (X, Y))
    dist.destroy_process_group()


def test_models_of_several_ranks_are_exported_whole(tmp_path: Path) -> None:
    context = torch.multiprocessing.spawn(rank_main, args=(str(tmp_path),), nprocs=2, join=False)
    try:
        deadline = time.monotonic() + DEADLINE
        while not context.join(max(0.0, deadline - time.monotonic())):  # true once both ended
            assert time.monotonic() < deadline, f"the ranks did not end within {DEADLINE} s"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
