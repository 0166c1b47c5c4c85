# SPDX-License-Identifier: Apache-2.0
"""Ranks of a torch.distributed job, as siftd sees them: who spawns, who publishes, and what all must agree on.

Every function that talks to other ranks is a collective: all ranks call it, in the same order, on the training loop's
thread. Objects travel over a gloo group, so that NCCL's streams are left alone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch.distributed as dist
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from siftd.errors import ConfigError, StateError, WorkerError

T = TypeVar("T")
GATHERED_SCHEMA = 1


def rank_and_world() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def check_world(processes: int, remedy: str) -> None:
    """Raises ConfigError where a framework trains `processes` together, and torch.distributed has other ranks: each
    would train alone, on its share of the data."""
    _, world = rank_and_world()
    if world > 1 and processes != world:
        raise ConfigError("num_processes", processes, f"{world}, the ranks of torch.distributed; {remedy}")


@dataclass(frozen=True)
class Ranks:
    """This process among all. `node`: the ranks of this host, ascending; the first one leads it."""

    rank: int = 0
    world: int = 1
    node: tuple[int, ...] = (0,)
    group: Any = field(default=None, repr=False)

    @classmethod
    def find(cls, timeout: float) -> Ranks:
        """A collective where world > 1. `timeout`: seconds that a rank waits for the others."""
        rank, world = rank_and_world()
        if world == 1:
            return cls()
        group = dist.group.WORLD
        if dist.get_backend() != "gloo":
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        # torchrun numbers the nodes; elsewhere the host's name tells them apart.
        here = os.environ.get("GROUP_RANK") or socket.gethostname()
        hosts = _all_gather(here, world, group)
        return cls(rank, world, tuple(r for r in range(world) if hosts[r] == here), group)

    @property
    def leader(self) -> int:
        return self.node[0]

    @property
    def leads(self) -> bool:
        return self.rank == self.leader

    def together(self, stage: str, act: Callable[[], T]) -> list[T]:
        """Runs `act` on every rank; the results by rank. An error of one rank is raised on all, so that none waits."""
        if self.world == 1:
            return [act()]
        result, error = None, None
        try:
            result = act()
        except Exception as e:
            error = e
        text = None if error is None else f"{type(error).__name__}: {error}"
        told = _all_gather((result, text), self.world, self.group)
        if error is not None:
            raise error
        for rank, (_, text) in enumerate(told):
            if text is not None:
                raise WorkerError(f"rank {rank} failed at {stage}: {text}")
        return [r for r, _ in told]


def _all_gather(value: Any, world: int, group: Any) -> list[Any]:
    out: list[Any] = [None] * world
    dist.all_gather_object(out, value, group=group)
    return out


class ShardSampler(DistributedSampler[Any]):
    """DistributedSampler that neither repeats rows to make the shards equal nor drops any: siftd's ranks make equal
    steps by steps_per_epoch, so shards need not be equal."""

    def __init__(self, dataset: Dataset[Any], num_replicas: int, rank: int, shuffle: bool, seed: int = 0) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=shuffle, seed=seed)
        self.total_size = len(dataset)  # type: ignore[arg-type]
        self.num_samples = len(range(rank, self.total_size, num_replicas))
        self.drop_last = True  # the base class would pad up to total_size

    def __iter__(self) -> Iterator[Any]:
        if not self.shuffle:
            return iter(range(self.rank, self.total_size, self.num_replicas))
        import torch

        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.total_size, generator=generator)
        return iter(order[self.rank :: self.num_replicas].tolist())


def distributed_loader(
    loader: DataLoader[Any], rank: int | None = None, world: int | None = None, seed: int = 0
) -> DataLoader[Any]:
    """The same DataLoader over this rank's shard of the data: each row on one rank, none twice, none left out.

    Unchanged where world is 1 or the loader has a DistributedSampler already. Shuffles anew each epoch where the loader
    shuffled; siftd calls set_epoch for each pass. Raises ConfigError for loaders whose sampling can't be split.
    """
    here, size = rank_and_world()
    rank, world = here if rank is None else rank, size if world is None else world
    sampler = getattr(loader, "sampler", None)
    if world == 1 or isinstance(sampler, DistributedSampler):
        return loader
    batches = getattr(loader, "batch_sampler", None)
    plain = (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and loader.batch_size is not None
        and type(batches) is BatchSampler
        and type(sampler) in (SequentialSampler, RandomSampler)
        and not getattr(sampler, "replacement", False)
    )
    if not plain:
        raise ConfigError(
            "loader", type(batches if type(batches) is not BatchSampler else sampler).__name__,
            f"a DataLoader with a DistributedSampler, or one that each of the {world} ranks shards for itself, since "
            "this one's sampling can't be split",
        )  # fmt: skip
    shard = ShardSampler(loader.dataset, world, rank, isinstance(sampler, RandomSampler), seed)
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=shard,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )


def gather_state(loader: Any) -> dict[str, Any]:
    """The states of all ranks' loaders, on every rank: a collective. Without torch.distributed, the loader's own.

    Save it once, from rank 0, beside the model; `load_state_dict` of each rank's loader takes its part. All ranks must
    stand at the same optimizer step.
    """
    state: dict[str, Any] = loader.state_dict()
    rank, world = rank_and_world()
    if world == 1:
        return state
    group = getattr(loader, "control_group", None) or (dist.group.WORLD if dist.get_backend() == "gloo" else None)
    return {"schema": GATHERED_SCHEMA, "world": world, "ranks": _all_gather(state, world, group)}


def own_state(state: dict[str, Any], rank: int, world: int) -> dict[str, Any]:
    """This rank's part of what gather_state gave, or `state` itself where it is one rank's."""
    if "ranks" in state:
        if state["world"] != world or len(state["ranks"]) != world:
            raise StateError(
                f"the state was saved by {state['world']} ranks, this run has {world}; resume with as many ranks, or "
                "begin the epoch anew without the loader's state"
            )
        return cast(dict[str, Any], state["ranks"][rank])
    saved = (state.get("rank", 0), state.get("world", 1))
    if state and saved != (rank, world):
        raise StateError(
            f"the state is that of rank {saved[0]} of {saved[1]}, this is rank {rank} of {world}; save "
            "siftd.gather_state(loader), which holds every rank's"
        )
    return state
