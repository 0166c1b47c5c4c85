# SPDX-License-Identifier: Apache-2.0
"""One of two ranks for test_fsdp.py: publishes sharded models to nobody and keeps what would have been sent.

usage: fsdp_job.py FOLDER RANK. Writes FOLDER/RANK.pt: {case: what the case returned}.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from siftd._weights.snapshot import Snapshot, compose
from siftd._weights.sync import WeightsSync
from siftd._wire.tensor import dtype_number
from siftd.errors import ConfigError
from siftd.v1 import artifact_pb2

NOWHERE = ["tcp://127.0.0.1:9"]
Taken = tuple[int, dict[str, bytes]]  # kind, bytes by name


class Net(nn.Module):
    """Uneven shards, two types, a tied weight, buffers of both sorts."""

    def __init__(self, width: int = 7) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(6, width)
        self.low = nn.Linear(width, 5, dtype=torch.bfloat16)
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 3)
        self.again = nn.Linear(5, 3)
        self.again.weight = self.head.weight
        self.register_buffer("scale", torch.tensor([2.0]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.low(self.trunk(x).bfloat16()).float()) * self.scale
        out: torch.Tensor = self.head(h) + self.again(h)
        return out


class Exported:
    archive = b""
    sha256 = ""

    def __init__(self, model: nn.Module) -> None:
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        wide_first = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
        self.state = [artifact_pb2.StateEntry(name=n, dtype=dtype_number(t), shape=t.shape) for n, t in wide_first]


def change(model: nn.Module, times: int = 1) -> None:
    """The same for a model and its shards, exactly."""
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.mul_(1.5**times)
        for name, b in model.named_buffers():
            if name.endswith(("mean", "scale")):
                b.add_(times)


def use(model: nn.Module) -> None:
    """A step's forward and backward; parameters and buffers stay as they are."""
    model.eval()
    model(torch.randn(4, 6)).sum().backward()
    model.zero_grad()


def shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    fully_shard(model.low, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def sync_for(rank: int, everywhere: bool = False) -> WeightsSync:
    return WeightsSync(NOWHERE if rank == 0 or everywhere else [], "j", 5, Exported(Net()), 1, everywhere)


def publish(sync: WeightsSync, model: nn.Module) -> Snapshot | None:
    """What goes to the publisher; None on a rank that has none."""
    sync.publish(model, sync.version, [])
    if sync.publisher is None:
        return None
    snapshot, sync.publisher._offered = sync.publisher._offered, None
    assert snapshot is not None
    return snapshot


def taken(snapshot: Snapshot | None) -> Taken | None:
    if snapshot is None:
        return None
    data = b"".join(bytes(snapshot.chunk(i)) for i in range(snapshot.begin.chunks))
    at, entries = 0, {}
    for desc in snapshot.begin.manifest:
        size = torch.Size(desc.shape).numel() * {6: 8, 8: 2, 9: 4}[desc.dtype]
        entries[desc.name] = data[at : at + size]
        at += size
    assert at == len(data)
    return snapshot.begin.kind, entries


def trained(rank: int, mesh: DeviceMesh, wrap: Callable[[nn.Module], nn.Module], everywhere: bool = False) -> Any:
    """Before the first step, after it, and after a change."""
    model, sync, out = wrap(Net()), sync_for(rank, everywhere), []
    out.append(taken(publish(sync, model)))
    use(model)
    out.append(taken(publish(sync, model)))
    change(model)
    out.append(taken(publish(sync, model)))
    return out


def frozen(rank: int, mesh: DeviceMesh) -> Any:
    net = Net()
    net.trunk.requires_grad_(False)
    net.low.requires_grad_(False)
    model, sync, out = shard(net, mesh), sync_for(rank), []
    base = publish(sync, model)
    use(model)
    change(model)
    delta = publish(sync, model)
    out += [taken(base), taken(delta)]
    out.append(taken(compose(base, delta)) if base is not None and delta is not None else None)
    net.low.requires_grad_(True)
    out.append(taken(publish(sync, model)))
    change(model)
    out.append(taken(publish(sync, model)))
    for train in (True, False):
        net.trunk.requires_grad_(train)
        change(model)
        out.append(taken(publish(sync, model)))
    return out


def compiled(rank: int, mesh: DeviceMesh) -> Any:
    net = Net()
    net.head = torch.compile(net.head, backend="eager")  # type: ignore[assignment]
    return trained(rank, mesh, lambda _: torch.compile(shard(net, mesh), backend="eager"))  # type: ignore[return-value]


def linear() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(6, 3)


def evaluated(rank: int, mesh: DeviceMesh) -> Any:
    """A forward without a backward leaves fully_shard's root gathered, here in bfloat16."""
    model = linear()
    sync = WeightsSync(NOWHERE if rank == 0 else [], "j", 5, Exported(model), 1)
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    change(model)
    with torch.no_grad():
        model(torch.randn(4, 6))
    gathered = [p.dtype for p in model.parameters()] == [torch.bfloat16] * 2
    return gathered, taken(publish(sync, model))


def tensor_parallel(rank: int, mesh: DeviceMesh) -> Any:
    model = parallelize_module(Net(), mesh, {"trunk": ColwiseParallel()})
    sync = sync_for(rank)
    change(model)
    return [taken(publish(sync, model))]


def data_parallel(rank: int, mesh: DeviceMesh) -> Any:
    """Rank 1 makes its calls alone, then rank 0: neither waits for the other."""
    model, sync, out = DistributedDataParallel(Net()), sync_for(rank), []
    for turn in (1, 0):
        if turn == rank:
            out = [taken(publish(sync, model)), taken(publish(sync, model))]
        dist.barrier()
    return out


def refused(model: nn.Module, sync: WeightsSync) -> str:
    try:
        sync.publish(model, 1, [])
    except ConfigError as error:
        return str(error)
    return ""


def fsdp1(rank: int, mesh: DeviceMesh) -> Any:
    net = nn.Linear(6, 2)
    return refused(FullyShardedDataParallel(net, device_id=torch.device("cpu")), sync_for(rank))


def other_shape(rank: int, mesh: DeviceMesh) -> Any:
    """On every rank, before any waits for another."""
    model, out = shard(Net(width=8), mesh), ""
    for turn in (1, 0):
        if turn == rank:
            out = refused(model, sync_for(rank))
        dist.barrier()
    return out


def publisher_on_rank_1(rank: int, mesh: DeviceMesh) -> Any:
    model = shard(Net(), mesh)
    sync = WeightsSync(NOWHERE, "j", 5, Exported(Net()), 1)
    return refused(model, sync) if rank == 1 else ""


CASES: dict[str, Callable[[int, DeviceMesh], Any]] = {
    "fsdp2": lambda rank, mesh: trained(rank, mesh, lambda m: shard(m, mesh)),
    "everywhere": lambda rank, mesh: trained(rank, mesh, lambda m: shard(m, mesh), everywhere=True),
    "compiled": compiled,
    "frozen": frozen,
    "evaluated": evaluated,
    "tensor parallel": tensor_parallel,
    "data parallel": data_parallel,
    "fsdp1": fsdp1,
    "other shape": other_shape,
    "publisher on rank 1": publisher_on_rank_1,
}


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    results = {}
    for name, case in CASES.items():
        results[name] = case(rank, mesh)
        dist.barrier()
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
