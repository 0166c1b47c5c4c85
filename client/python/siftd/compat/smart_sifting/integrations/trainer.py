# SPDX-License-Identifier: Apache-2.0
"""enable_sifting: sifting in a Hugging Face Trainer."""

from __future__ import annotations

import math
from typing import Any

from siftd.compat.smart_sifting._log import log
from siftd.compat.smart_sifting._schedule import kept_batches
from siftd.compat.smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from siftd.compat.smart_sifting.exceptions import (
    LossImplementationNotProvidedException,
    SiftConfigValidationException,
)
from siftd.compat.smart_sifting.loss.abstract_sift_loss_module import loss_method
from siftd.compat.smart_sifting.sift_config.sift_configs import RelativeProbabilisticSiftConfig, made

__all__ = ["LossImplementationNotProvidedException", "SiftConfigValidationException", "enable_sifting"]


class _OfTrainer(SiftingDataloader):
    _sharded = True


def enable_sifting(
    trainer: Any,
    sift_config: RelativeProbabilisticSiftConfig | dict[str, Any],
    loss: Any = None,
    set_epochs: bool = False,
    batch_transforms: Any = None,
    batch_format_index: int | None = None,
    log_batch_data: bool = False,
    **options: Any,
) -> Any:
    """Sifts the training of a transformers.Trainer, from its next train() on.

    The number of steps follows max_steps where that is given. Otherwise, with set_epochs, num_train_epochs counts
    passes over the data (the learning rate is then scheduled as if nothing was dropped). With neither, where
    SageMaker's library stops with an error, num_train_epochs epochs have as many steps as that many passes keep in the
    long run, and the schedule fits them; so it is with several ranks, too.

    Args:
      loss: a Loss; the other arguments are SiftingDataloader's.

    Returns:
      siftd.transformers.Sifting: `.loader` is the loader of the train() in progress, `.detach()` undoes this.
    """
    from siftd._frameworks.hf_data import padding
    from siftd.transformers import attach

    config = made(RelativeProbabilisticSiftConfig, "sift_config", sift_config)
    loss_method(loss)

    def make_loader(plain: Any) -> SiftingDataloader:
        args = trainer.args
        settings = {
            # Where a transform makes the batch, the Trainer moves it.
            "device": args.device if batch_transforms is None else None,
            "pin_memory": batch_transforms is None and args.dataloader_pin_memory and args.device.type == "cuda",
            "seed": args.seed if args.data_seed is None else args.data_seed,
            "steps_per_epoch": _steps(args, plain, config, set_epochs),
        }
        merged = {**settings, **options, "pad": {**padding(trainer), **(options.get("pad") or {})}}
        return _OfTrainer(
            config, plain, loss, trainer.model, batch_transforms, batch_format_index, log_batch_data, **merged
        )

    return attach(trainer, make_loader, set_epochs)


def _steps(args: Any, plain: Any, config: RelativeProbabilisticSiftConfig, set_epochs: bool) -> int | None:
    """Batches of an epoch; None: a pass, or as the Trainer says."""
    if args.max_steps > 0:
        return None if args.world_size == 1 else int(args.max_steps * args.gradient_accumulation_steps)
    if set_epochs and args.world_size == 1:
        return None
    try:
        batches = len(plain)
    except TypeError:
        return None  # the Trainer asks for max_steps
    epochs = float(args.num_train_epochs)
    total = max(1, math.ceil(epochs * batches))
    base = config.base
    delayed = epochs * min(base.sift_delay, batches) if base.repeat_delay_per_epoch else min(base.sift_delay, total)
    steps = math.ceil(kept_batches(total, math.ceil(delayed), config.keep) / max(epochs, 1e-9) - 1e-9)
    log.info(
        "siftd: max_steps is not given: each of %g epochs has %d steps, as many as one pass over %d batches keeps in "
        "the long run",
        epochs, steps, batches,
    )  # fmt: skip
    return max(1, steps)
