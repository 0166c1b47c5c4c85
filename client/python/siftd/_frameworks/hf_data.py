# SPDX-License-Identifier: Apache-2.0
"""The Trainer's own DataLoader as torch made it, before accelerate wraps it, and this rank's share of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard, DataLoaderDispatcher, DataLoaderShard, SeedableRandomSampler
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from siftd._batches import structure
from siftd._loop.distributed import distributed_loader
from siftd.errors import ConfigError


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of this object, for the time of the block."""
    there, before = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if there:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


def plain_loader(trainer: Any, make: Callable[[], Any]) -> Any:
    """What `make`, the Trainer's get_train_dataloader, gives when accelerate leaves its DataLoader alone; sharded.

    With a torch DataLoader siftd sees the sampler: it knows the sample ids, and skips on resume without loading.
    """
    accelerator, args = trainer.accelerator, trainer.args
    prepare, sampler = accelerator.prepare, trainer._get_train_sampler
    seed = args.seed if args.data_seed is None else args.data_seed

    def untouched(*objects: Any, **options: Any) -> Any:
        if all(isinstance(o, DataLoader) for o in objects):
            return objects if len(objects) > 1 else objects[0]
        return prepare(*objects, **options)

    def seedable(*dataset: Any) -> Any:
        # As accelerate does: the order follows from seed and epoch, not from what else drew random numbers.
        found = sampler(*dataset)
        if type(found) is not RandomSampler or found.generator is not None or args.world_size > 1:
            return found
        if not accelerator.use_seedable_sampler:
            return found
        return SeedableRandomSampler(
            found.data_source, found.replacement, found._num_samples, generator=torch.Generator(), data_seed=seed
        )

    with replaced(accelerator, "prepare", untouched), replaced(trainer, "_get_train_sampler", seedable):
        loader = make()
    if isinstance(loader, DataLoaderDispatcher) and args.world_size > 1:
        raise ConfigError("dispatch_batches", True, "False: each rank reads its own share of the candidates")
    if isinstance(loader, DataLoaderShard | DataLoaderDispatcher):
        return loader.base_dataloader  # prepared, and sharded, where `prepare` was out of reach
    if not isinstance(loader, DataLoader):
        return loader
    loader.pin_memory = False  # most candidates never go to the device; siftd pins what does
    return loader if args.world_size == 1 else _shard(loader, args.process_index, args.world_size, seed)


def _shard(loader: DataLoader[Any], rank: int, world: int, seed: int) -> DataLoader[Any]:
    """This rank's share: rows where the sampler is torch's own, else batches, in the order that all ranks agree on."""
    sampler, batches = loader.sampler, loader.batch_sampler
    if isinstance(loader.dataset, IterableDataset):
        return _remade(
            loader, _RankRows(loader.dataset, rank, world), batch_size=loader.batch_size, drop_last=loader.drop_last
        )
    if isinstance(sampler, DistributedSampler):
        return loader
    if type(batches) is not BatchSampler:
        if type(batches).__name__ == "BatchRebalanceSampler":  # knows its rank
            return loader
        raise _cannot_split(type(batches).__name__, world)
    if type(sampler) in (SequentialSampler, RandomSampler) and not getattr(sampler, "replacement", False):
        return distributed_loader(loader, rank, world, seed)
    if not hasattr(sampler, "generator"):
        raise _cannot_split(type(sampler).__name__, world)
    if sampler.generator is None:
        sampler.generator = torch.Generator().manual_seed(seed)  # the same on all ranks
    return _remade(
        loader, loader.dataset, batch_sampler=BatchSamplerShard(batches, world, rank, even_batches=False),
        generator=sampler.generator,
    )  # fmt: skip


def _cannot_split(name: str, world: int) -> ConfigError:
    return ConfigError(
        "sampler", name,
        f"one that can be split over {world} ranks: torch's, one with a `generator`, or a DistributedSampler",
    )  # fmt: skip


def _remade(loader: DataLoader[Any], dataset: Any, **sampling: Any) -> DataLoader[Any]:
    sampling.setdefault("generator", loader.generator)
    return DataLoader(
        dataset,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
        **sampling,
    )


class _RankRows(IterableDataset[Any]):
    """Every world-th row of a dataset that all ranks read alike."""

    def __init__(self, dataset: IterableDataset[Any], rank: int, world: int) -> None:
        self.dataset, self.rank, self.world = dataset, rank, world

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.dataset), self.rank, None, self.world)

    def set_epoch(self, epoch: int) -> None:
        announce = getattr(self.dataset, "set_epoch", None)
        if announce is not None:
            announce(epoch)


def padding(trainer: Any) -> dict[str, float | tuple[float, str]]:
    """Pad values by field, from the Trainer's collator, else from its tokenizer."""
    known = structure.infer_pad(trainer.data_collator)
    if known or getattr(trainer.processing_class, "pad_token_id", None) is None:
        return known
    return structure.infer_pad(SimpleNamespace(tokenizer=trainer.processing_class))
