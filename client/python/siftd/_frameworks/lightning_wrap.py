# SPDX-License-Identifier: Apache-2.0
"""A sifting loader around the training data of a Lightning trainer: shard, length of an epoch, loss, scored module."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

from torch import cuda, nn

import siftd
from siftd._loop.distributed import distributed_loader
from siftd._loop.sifted import Sifted
from siftd.dropin import SiftingDataLoader
from siftd.errors import ConfigError

KNOWN = frozenset(inspect.signature(SiftingDataLoader).parameters) - {"loader", "step_on_next"}


def length(loader: Any) -> int | None:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def find_sifted(given: Any) -> Sifted | None:
    """The sifting loader that `given` is, or holds as `.loader` (the SageMaker names do)."""
    for candidate in (given, getattr(given, "loader", None)):
        if isinstance(candidate, Sifted):
            return candidate
    return None


def batches_at_most(loader: Any) -> int | None:
    """Batches of an epoch when every row is kept; None where the loader underneath does not tell."""
    source = getattr(loader, "_source", None)
    batches = None if source is None else length(source.loader)
    mine: int | None = getattr(loader, "batch_size", None)
    theirs: int | None = getattr(source, "batch_size", None)
    return batches if batches is None or not mine or not theirs else -(-batches * theirs // mine)


def wrap(
    given: Any,
    trainer: Any,
    *,
    model: nn.Module | str | None,
    loss: Any,
    options: Mapping[str, Any],
    tell: Callable[[str], None],
) -> SiftingDataLoader:
    """`options`: of SiftingDataLoader. `tell`: for what the user should know."""
    if isinstance(given, list | tuple | Mapping) or hasattr(given, "flattened"):
        raise ConfigError(
            "train_dataloader", type(given).__name__, "one loader: rows of several loaders trained together can't be "
            "sifted by one model; make one of their data (torch.utils.data.ConcatDataset, StackDataset)",
        )  # fmt: skip
    given, batches = _shard(given, trainer)
    _seed_loading(given, trainer)
    options = {"steps_per_epoch": _steps_per_epoch(trainer, batches)} | dict(options)
    if options["steps_per_epoch"] is None and trainer.world_size > 1:
        raise ConfigError(
            "steps_per_epoch", None, f"given where there are several ranks (here {trainer.world_size}), so that all "
            "make equal steps: Sifting(steps_per_epoch=N) or Trainer(limit_train_batches=N)",
        )  # fmt: skip
    if cuda.is_available() and getattr(given, "pin_memory", False):
        options.setdefault("pin_memory", True)
    scored = _scored_module(model, trainer.lightning_module)
    if loss is None:
        loss = _default_loss(scored, trainer, tell)
    return SiftingDataLoader(given, model=scored, loss=loss, **options)


def _shard(given: Any, trainer: Any) -> tuple[Any, int | None]:
    """This rank's part of the data, and its batches: as many on all ranks."""
    batches, ranks = length(given), trainer.distributed_sampler_kwargs
    if ranks is None or ranks["num_replicas"] == 1 or not trainer._accelerator_connector.use_distributed_sampler:
        return given, batches
    seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # as Lightning seeds its own sampler
    shard = distributed_loader(given, ranks["rank"], ranks["num_replicas"], seed)
    if shard is not given and batches is not None:
        batches = max(1, batches // ranks["num_replicas"])
    return shard, batches


def _steps_per_epoch(trainer: Any, batches: int | None) -> int | None:
    limit = trainer.limit_train_batches
    if isinstance(limit, int):
        return limit if batches is None else min(limit, batches)
    return None if limit == 1.0 else batches  # Lightning takes its share of it


def _seed_loading(loader: Any, trainer: Any) -> None:
    """What Lightning does to a training DataLoader after seed_everything(workers=True)."""
    if int(os.environ.get("PL_SEED_WORKERS", 0)) and getattr(loader, "worker_init_fn", loader) is None:
        fabric = "lightning_fabric" if _home(type(trainer)) == "pytorch_lightning" else "lightning.fabric"
        seeded = importlib.import_module(f"{fabric}.utilities.seed").pl_worker_init_function
        loader.worker_init_fn = functools.partial(seeded, rank=trainer.global_rank)


def _home(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _scored_module(model: nn.Module | str | None, module: nn.Module) -> nn.Module:
    if isinstance(model, str):
        try:
            return module.get_submodule(model)
        except AttributeError as error:
            raise ConfigError("model", model, f"the name of a module in {type(module).__name__}") from error
    return module if model is None else model


def _default_loss(scored: nn.Module, trainer: Any, tell: Callable[[str], None]) -> Any:
    if hasattr(scored, "sifting_loss"):
        return siftd.BatchLoss(_sifting_loss)
    for owner in (trainer.lightning_module, trainer.datamodule):
        for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):
            if owner is not None and _overrides(owner, hook):
                tell(
                    f"{type(owner).__name__}.{hook} changes batches after the loader gave them, and scoring does not "
                    "see it: move it into the dataset, or do it in a method sifting_loss(batch) of the module, too"
                )
    return "cross_entropy"


def _sifting_loss(module: Any, batch: Any) -> Any:
    return module.sifting_loss(batch)


def _overrides(owner: Any, hook: str) -> bool:
    """Whether a class of the user's defines the hook."""
    return any(hook in vars(c) and _home(c) not in ("lightning", "pytorch_lightning") for c in type(owner).__mro__)
