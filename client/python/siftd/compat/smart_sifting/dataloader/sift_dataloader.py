# SPDX-License-Identifier: Apache-2.0
"""SiftingDataloader: SageMaker's data loader wrapper, on siftd."""

from __future__ import annotations

import inspect
import logging
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.utils.data import default_collate

from siftd._loop.distributed import distributed_loader, rank_and_world
from siftd.compat.smart_sifting import _log
from siftd.compat.smart_sifting._adapter import Adapter, ScoringLoss
from siftd.compat.smart_sifting._environment import workers_wanted
from siftd.compat.smart_sifting._schedule import batches_per_epoch
from siftd.compat.smart_sifting.exceptions import (
    LossImplementationNotProvidedException,
    SiftConfigValidationException,
    UnsupportedDataFormatException,
)
from siftd.compat.smart_sifting.loss.abstract_sift_loss_module import loss_method
from siftd.compat.smart_sifting.sift_config.sift_configs import RelativeProbabilisticSiftConfig, made
from siftd.dropin import SiftingDataLoader
from siftd.errors import ConfigError
from siftd.losses import BatchLoss

__all__ = [
    "LossImplementationNotProvidedException",
    "SiftConfigValidationException",
    "SiftingDataloader",
    "UnsupportedDataFormatException",
]

# Set here; or, feeder_process, in the way of the batches' form, which is found where they are pulled.
_MINE = {"loader", "model", "loss", "policy", "beta", "keep", "step_on_next", "on_decision", "feeder_process"}


class SiftingDataloader:
    """Wraps a DataLoader; iterating gives full batches of the samples that were kept, in the DataLoader's own form.

    Local worker processes score the samples, beside the training loop. SIFTD_WORKERS=tcp://HOST:PORT,... sends them to
    a pool, SIFTD_INLINE=1 scores in this process.

    An epoch is one pass over the data, of unknown length. With several ranks of torch.distributed each rank sifts its
    own share of the data, and an epoch has as many batches as a pass keeps in the long run, the same on all ranks.

    Args:
      sift_config: a RelativeProbabilisticSiftConfig, or a dict of its arguments.
      orig_dataloader: the DataLoader, or any iterable of batches.
      loss_impl: an object with loss(model, transformed_batch, original_batch) -> [n], a Loss.
      model: the module in training, whose weights the workers follow.
      batch_transforms: a SiftingBatchTransform; needed where batches are no tensors, lists, tuples or dicts.
      batch_format_index: of a list or tuple that could be either: 0 = batch[i] is a sample, 1 = batch[i] is one field
        of all samples.
      log_batch_data: logs what was kept and dropped (ids, losses, shapes) at level INFO. Losses tell about the data.
      **options: further ones of siftd.SiftingDataLoader (workers, sync_every, pad, seed, timeout, ...).

    Attributes:
      loader: the siftd.SiftingDataLoader that does the work; made when it is first used. Its methods and attributes
        are this object's, too: stats(), summary(), state_dict(), last_batch_info, close(), ...

    Raises:
      SiftConfigValidationException, LossImplementationNotProvidedException, ConfigError: an argument is not allowed.
      UnsupportedDataFormatException: at the first batch.
    """

    _sharded = False  # orig_dataloader is this rank's part already

    def __init__(
        self,
        sift_config: RelativeProbabilisticSiftConfig | dict[str, Any],
        orig_dataloader: Iterable[Any],
        loss_impl: Any = None,
        model: nn.Module | None = None,
        batch_transforms: Any = None,
        batch_format_index: int | None = None,
        log_batch_data: bool = False,
        **options: Any,
    ) -> None:
        self.sift_config = made(RelativeProbabilisticSiftConfig, "sift_config", sift_config)
        if batch_format_index not in (None, 0, 1):
            raise SiftConfigValidationException(
                "batch_format_index", batch_format_index, "0 (by sample), 1 (by feature) or None"
            )
        if not isinstance(model, nn.Module):
            raise SiftConfigValidationException("model", type(model).__name__, "a torch.nn.Module")
        pair = [getattr(batch_transforms, name, None) for name in ("transform", "reverse_transform")]
        if batch_transforms is not None and (isinstance(batch_transforms, type) or not all(map(callable, pair))):
            raise SiftConfigValidationException(
                "batch_transforms", batch_transforms, "an object of a SiftingBatchTransform class"
            )
        loss_method(loss_impl)
        known = set(inspect.signature(SiftingDataLoader).parameters) - _MINE
        if unknown := sorted(set(options) - known):
            raise ConfigError("options", ", ".join(unknown), f"those of siftd.SiftingDataLoader: {sorted(known)}")
        self.orig_dataloader, self.model, self.loss_impl = orig_dataloader, model, loss_impl
        self.batch_transforms, self.batch_format_index = batch_transforms, batch_format_index
        self.log_batch_data = log_batch_data
        self._options = {"workers": workers_wanted(), **options} if "workers" not in options else options
        self._adapter: Adapter | None = None
        self._loader: SiftingDataLoader | None = None
        self._made_for = 0  # ranks

    @property
    def loader(self) -> SiftingDataLoader:
        # Made late: the process group may be newer than this object, and even than the first look at it.
        world = rank_and_world()[1]
        if self._loader is None or (self._made_for != world and self._loader.scorer is None):
            self._loader, self._made_for = self._make(), world
        return self._loader

    def _make(self) -> SiftingDataLoader:
        options, config = dict(self._options), self.sift_config
        source = self._share(options)
        rank, world = rank_and_world()
        adapter = self._adapter = Adapter(
            self.batch_transforms,
            self.batch_format_index,
            _batch_size(source),
            getattr(source, "collate_fn", None) is default_collate,
        )
        decisions = _log.Decisions(self.log_batch_data)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "beta is ")  # the user's own choice; the line below tells what it does
            loader = SiftingDataLoader(
                source,
                model=self.model,
                loss=BatchLoss(ScoringLoss(self.loss_impl, adapter)),
                policy=config.policy(),
                step_on_next=True,
                on_decision=decisions if decisions.wanted else None,
                **options,
            )
        loader._source.adapt = _TakeApart(adapter, loader._pad)
        _warn_in_lightning(self.model)
        if rank == 0:
            steps = options.get("steps_per_epoch")
            _log.log.info(
                "siftd: beta_value %g keeps %.3g%% of the samples after %d steps, scored by %s%s",
                config.beta_value, 100 * config.keep, config.base.sift_delay,
                "this process" if options["workers"] == "inline" else "workers",
                "" if steps is None else f"; an epoch is {steps} steps on each of {world} ranks",
            )  # fmt: skip
        return loader

    def _share(self, options: dict[str, Any]) -> Any:
        """This rank's part of the data. Completes `options` by what follows from it."""
        source: Any = self.orig_dataloader
        prepared = type(source).__module__.startswith("accelerate.")  # sharded, and moves batches to the device
        if prepared:
            options.setdefault("device", getattr(source, "device", None))
            source = getattr(source, "base_dataloader", source)
        world = rank_and_world()[1]
        if world == 1:
            return source
        whole = not prepared and not self._sharded
        steps = options.get("steps_per_epoch")
        if steps is None:
            options["steps_per_epoch"] = batches_per_epoch(source, self.sift_config, world if whole else 1)
        if not whole:
            return source
        try:
            return distributed_loader(source)
        except ConfigError:
            if steps is None:
                raise
            return source  # of the user's own making, split by the user

    def __iter__(self) -> Iterator[Any]:
        # A generator: nothing happens before the first next().
        loader = self.loader
        adapter = self._adapter
        assert adapter is not None
        debug = _log.log.isEnabledFor(logging.DEBUG)
        began = time.perf_counter()
        for base in loader:
            got = time.perf_counter()
            batch = adapter.put_together(base)
            info = loader.last_batch_info
            if debug and info is not None:
                _log.batch_made(loader.stats(), len(info.ids), got - began, time.perf_counter() - got)
            if self.log_batch_data and info is not None:
                _log.batch_data(base, info)
            yield batch
            began = time.perf_counter()

    def __len__(self) -> int:
        """Batches of an epoch with several ranks. Raises TypeError for one: it is not known."""
        return len(self.loader)

    def __bool__(self) -> bool:
        return True  # `if loader:` is not a question of length

    def __enter__(self) -> SiftingDataloader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends threads and local workers. Safe to call twice."""
        if self._loader is not None:
            self._loader.close()

    def __getattr__(self, name: str) -> Any:
        # Not `dataset`, which trainers take for a DataLoader's.
        if name.startswith("_") or name == "dataset":
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        return getattr(self.loader, name)


def _warn_in_lightning(model: Any) -> None:
    """Where a Lightning Trainer runs `model` and none of its callbacks drives the sifting."""
    callbacks = getattr(getattr(model, "_trainer", None), "callbacks", None)
    ours = sys.modules.get("siftd.lightning")
    if callbacks is not None and not (ours and any(isinstance(c, ours.Sifting) for c in callbacks)):
        _log.log.warning(
            "siftd: this Trainer has no TrainingMetricsRecorder() (siftd.compat.smart_sifting.metrics.lightning) among "
            "its callbacks: its estimated_stepping_batches is -1, with which linear schedules have a learning rate of 0"
        )


def _batch_size(source: Any) -> int | None:
    """Where the loader tells it."""
    for owner in (source, getattr(source, "batch_sampler", None)):
        if isinstance(size := getattr(owner, "batch_size", None), int):
            return size
    return None


class _TakeApart:
    """What the loader calls with each of the user's batches, on the thread that pulls them."""

    def __init__(self, adapter: Adapter, pad: dict[str, Any]) -> None:
        self._adapter, self._pad = adapter, pad

    def __call__(self, batch: Any) -> Any:
        began = time.perf_counter()
        base = self._adapter.take_apart(batch)
        assert self._adapter.form is not None
        for name in self._adapter.form.padded:
            self._pad.setdefault(name, 0.0)
        if self._adapter.transforms is not None:
            _log.transformed(time.perf_counter() - began)
        return base
