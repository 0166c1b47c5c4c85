# SPDX-License-Identifier: Apache-2.0
"""Sifting in Hugging Face's Trainer (transformers >= 5.3).

    trainer = Trainer(model, args, train_dataset=..., data_collator=...)
    siftd.transformers.enable_sifting(trainer, workers="auto")
    trainer.train()                       # also with resume_from_checkpoint=True

The train loader is sifted; evaluation, prediction, logging and checkpoints stay the Trainer's. Figures of the sifting
stand in each training log entry under "sifting/...". A checkpoint folder gets one more file, siftd_state.pt: a resumed
run trains each row that was to be trained once, none twice.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import transformers

from siftd import policy as policies
from siftd._frameworks.hf_data import padding, plain_loader
from siftd._frameworks.hf_loop import STATE_FILE, SiftingCallback, StepsInEpoch, TrainLoader, length_of
from siftd._frameworks.hf_loss import loss_of
from siftd._loop.distributed import check_world
from siftd.dropin import SiftingDataLoader
from siftd.errors import ConfigError

__all__ = ["STATE_FILE", "Sifting", "attach", "enable_sifting", "epoch_steps"]

log = logging.getLogger("siftd")
_HOOKS = (
    "get_train_dataloader",
    "set_initial_training_values",
    "_inner_training_loop",
    "_init_training_state",
    "_save_checkpoint",
    "log",
)


def enable_sifting(
    trainer: Any,
    *,
    workers: str | int | Sequence[str] = "auto",
    loss: Any = None,
    policy: policies.Policy | str = "auto",
    beta: float | None = None,
    keep: float | None = None,
    steps_per_epoch: int | None = None,
    **options: Any,
) -> Sifting:
    """Sifts the training of `trainer`, from its next train() on.

    Args:
      trainer: a transformers.Trainer or subclass; its own get_train_dataloader, sampler and collator are used.
      workers: as in siftd.SiftingDataLoader.
      loss: one loss per row, as in siftd.SiftingDataLoader; default: what the model's class computes as .loss.
      steps_per_epoch: batches of an epoch on each rank; gives the Trainer a length to plan with. Without it and without
        max_steps, num_train_epochs counts passes over the data, and the learning rate is scheduled for as many steps as
        if nothing was dropped. With several ranks either this or max_steps is needed.
      policy, beta, keep: as in siftd.SiftingDataLoader.
      **options: further ones of siftd.SiftingDataLoader. Defaults that differ from its own: device, pin_memory, seed,
        pad and targets are the Trainer's; total_steps is known from max_steps or steps_per_epoch.

    Returns:
      What detaches it again, and holds the SiftingDataLoader of the current or last train() as `.loader`.

    Raises:
      ConfigError: the loss of this model is not known; an option is out of range; a setting that can't be sifted.
    """
    if loss is None:
        loss = _default_loss(trainer) if options.get("scorer") is None else "cross_entropy"  # then never used
    options |= {"policy": policy, "beta": beta, "keep": keep}
    # Refused here, not in train().
    inspect.signature(SiftingDataLoader).bind(
        None, model=None, loss=loss, workers=workers, steps_per_epoch=None, **options
    )
    planned = _total_steps(trainer.args, epoch_steps(trainer, steps_per_epoch))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the loader warns itself
        policies.resolve(policy, beta=beta, keep=keep, total_steps=options.get("total_steps", planned))

    def make_loader(loader: Any) -> SiftingDataLoader:
        args = trainer.args
        steps = epoch_steps(trainer, steps_per_epoch)
        settings = {
            "device": args.device,
            "pin_memory": args.dataloader_pin_memory and args.device.type == "cuda",
            "seed": args.seed if args.data_seed is None else args.data_seed,
            "targets": args.label_names,
            "total_steps": _total_steps(args, steps),
        }
        merged = {**settings, **options, "pad": {**padding(trainer), **(options.get("pad") or {})}}
        return SiftingDataLoader(
            loader, model=trainer.model, loss=loss, workers=workers, steps_per_epoch=steps, **merged
        )

    return attach(trainer, make_loader, set_epochs=True)


def attach(trainer: Any, make_loader: Callable[[Any], Any], set_epochs: bool = True) -> Sifting:
    """enable_sifting around any loader with SiftingDataLoader's interface.

    Args:
      make_loader: called in each train() with the Trainer's plain loader, this rank's share where there are several.
      set_epochs: num_train_epochs counts passes over the data where the loader has no length and max_steps is not set;
        False: the Trainer then asks for max_steps.
    """
    check_world(int(trainer.args.world_size), "TrainingArguments(use_cpu=True) on hosts without accelerators")
    before = getattr(trainer, "_siftd", None)
    if before is not None:
        before.detach()
    return Sifting(trainer, make_loader, set_epochs)


def epoch_steps(trainer: Any, steps_per_epoch: int | None = None) -> int | None:
    """steps_per_epoch as SiftingDataLoader needs it in this Trainer. Raises ConfigError for several ranks without."""
    args = trainer.args
    if steps_per_epoch is not None or int(args.world_size) == 1:
        return steps_per_epoch
    if args.max_steps > 0:
        return int(args.max_steps * args.gradient_accumulation_steps)
    raise ConfigError(
        "steps_per_epoch, max_steps", (None, args.max_steps),
        f"one of the two given with several ranks (here {args.world_size}), so that all make equal steps: "
        "enable_sifting(steps_per_epoch=...) or TrainingArguments(max_steps=...)",
    )  # fmt: skip


def _total_steps(args: Any, steps_per_epoch: int | None) -> int | None:
    if args.max_steps > 0:
        return int(args.max_steps)
    if steps_per_epoch is None:
        return None
    updates: int = math.ceil(steps_per_epoch / args.gradient_accumulation_steps)
    return int(math.ceil(args.num_train_epochs * updates))


def _default_loss(trainer: Any) -> Any:
    found = loss_of(trainer.model)
    own = type(trainer).compute_loss is not transformers.Trainer.compute_loss
    if own or trainer.compute_loss_func is not None:
        log.warning(
            "siftd: this Trainer computes its own loss; samples are scored by the model's usual one. Give loss=... to "
            "score them by yours"
        )
    return found


class Sifting:
    """A Trainer's sifting, until `detach`."""

    def __init__(self, trainer: Any, make_loader: Callable[[Any], Any], set_epochs: bool) -> None:
        missing = [name for name in _HOOKS if not hasattr(trainer, name)]
        if missing:
            raise ConfigError("transformers", transformers.__version__, f"5.3 or later (Trainer lacks {missing})")
        _refuse_what_shares_batches(trainer)
        self.trainer = trainer
        self.run: TrainLoader | None = None
        self._last: Any = None
        self.saved_at = -1  # global step
        self._make_loader, self._set_epochs = make_loader, set_epochs
        self._training = False
        self._ignored_skip = trainer.args.ignore_data_skip
        trainer.args.ignore_data_skip = True  # the loader's state skips what is trained
        self._before = {name: vars(trainer).get(name) for name in _HOOKS}
        self._was = {name: getattr(trainer, name) for name in _HOOKS}  # of the class, or of whoever hooked in before
        for name in _HOOKS:
            setattr(trainer, name, getattr(self, name.lstrip("_")))
        self._callback = SiftingCallback(self)
        trainer.callback_handler.callbacks.insert(0, self._callback)
        trainer._siftd = self

    def detach(self) -> None:
        """The Trainer as it was."""
        for name, before in self._before.items():
            if before is None:
                delattr(self.trainer, name)
            else:
                setattr(self.trainer, name, before)
        self.trainer.remove_callback(self._callback)
        self.trainer.args.ignore_data_skip = self._ignored_skip
        self.trainer._siftd = None

    @property
    def loader(self) -> Any:
        """The sifting loader of the train() in progress, else of the last one; None before the first."""
        return self._last if self.run is None else self.run.loader

    @property
    def by_passes(self) -> bool:
        """num_train_epochs counts passes over the data."""
        return (
            self._set_epochs
            and self.trainer.args.max_steps <= 0
            and self.run is not None
            and length_of(self.run) is None
        )

    # ------------------------------------------------------------ in place of the Trainer's methods
    def get_train_dataloader(self) -> TrainLoader:
        plain = plain_loader(self.trainer, self._was["get_train_dataloader"])
        run = TrainLoader(self.trainer, plain, self._make_loader)
        if self._training and self.run is None:
            self.run = run
        return run

    def inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._training, self.run, self.saved_at = True, None, -1
        try:
            return self._was["_inner_training_loop"](*args, **kwargs)
        finally:  # also after an exception, or before another try with a smaller batch
            run, self.run, self._training = self.run, None, False
            if run is not None:
                self._last = run.loader
                run.loader.close()

    def set_initial_training_values(self, args: Any, dataloader: Any) -> tuple[Any, ...]:
        plans = dataloader
        if dataloader is self.run and self.by_passes and self.run is not None:
            plans = _Unsifted(self.run.plain) if self.run.plain_batches is not None else self.run.plain
            if args.lr_scheduler_type not in ("constant", "constant_with_warmup"):
                log.warning(
                    "siftd: the learning rate is scheduled for as many steps as if no row was dropped, so the run ends "
                    "before it has decayed; give steps_per_epoch=... or max_steps for a schedule that fits"
                )
        *values, in_epoch, most = self._was["set_initial_training_values"](args, plans)
        if dataloader is self.run and self.run is not None:
            in_epoch = self.run.steps = StepsInEpoch(in_epoch)
        return (*values, in_epoch, most)

    def init_training_state(self, most: Any, updates: int, epochs: int, resume: str | None, trial: Any) -> Any:
        trained, skip = self._was["_init_training_state"](most, updates, epochs, resume, trial)
        run = self.run
        if run is None or resume is None:
            return trained, skip
        if not run.restore(resume):
            log.warning(
                "siftd: %s holds no %s, as it was saved without sifting: training begins a whole pass",
                resume,
                STATE_FILE,
            )
            run.finished = trained
        elif length_of(run) is not None:
            run.finished = trained
            run.before = self.trainer.state.global_step % updates * self.trainer.args.gradient_accumulation_steps
        return run.finished, skip

    def save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.trainer.state.global_step
        if self.run is not None:
            folder = os.path.join(self.trainer._get_output_dir(trial=trial), f"checkpoint-{step}")
            # First: the Trainer then uploads it with its own files, and deletes old checkpoints last.
            self.run.save(folder, self.trainer.args.should_save)
        self._was["_save_checkpoint"](model, trial)
        self.saved_at = step

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self.run is not None and "loss" in logs:
            logs.update(self.run.loader.metrics())
        self._was["log"](logs, *args, **kwargs)


class _Unsifted:
    """The most batches that a pass may give; with drop_last the remainders of earlier passes make up one more."""

    def __init__(self, loader: Any) -> None:
        self.dataset = getattr(loader, "dataset", None)  # None: the Trainer then counts batches
        self._batches = len(loader) + bool(getattr(loader, "drop_last", False))

    def __len__(self) -> int:
        return self._batches


def _refuse_what_shares_batches(trainer: Any) -> None:
    if getattr(trainer, "is_deepspeed_enabled", False) and trainer.accelerator.state.deepspeed_plugin.zero_stage == 3:
        raise ConfigError("deepspeed", "ZeRO stage 3", "stages 1 and 2, DDP or FSDP, whose weights can be published")
    alike = trainer.get_tp_size() * trainer.get_cp_size() * trainer.get_sp_size()
    if alike > 1:
        raise ConfigError("parallelism_config", f"{alike} ranks with the same batch", "data parallel ranks only")
