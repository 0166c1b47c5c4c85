# SPDX-License-Identifier: Apache-2.0
"""MosaicML Composer: its SelectiveBackprop as a policy, and a callback that drives a loader in its Trainer.

    rule = siftd.composer.SelectiveBackprop(start=0.5, end=0.9, keep=0.5, interrupt=2)
    loader = siftd.SiftingDataLoader(
        train_loader, model=model, loss=siftd.composer.batch_loss(), steps_per_epoch=len(train_loader),
        **rule.loader_options(total_steps=10 * len(train_loader)),
    )
    trainer = Trainer(
        model=model, train_dataloader=loader, max_duration="10ep",
        callbacks=[siftd.composer.SiftingCallback(loader)],  # and no SelectiveBackprop in algorithms
    )

The rule alone needs no Composer. Composer 0.32 asks for torch 2.6 to 2.7.0 and siftd for 2.7 or newer, so the two
install together with torch 2.7.0; with --no-deps it also runs on torch 2.13.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from siftd import policy as policies
from siftd._loop.distributed import gather_state
from siftd.errors import ConfigError

if TYPE_CHECKING:
    from siftd.dropin import SiftingDataLoader
    from siftd.losses import BatchLoss

_missing: BaseException | None = None
try:
    from composer.core import Callback
except Exception as error:  # not installed, or it does not go with the installed torch
    _missing = error
    Callback = object


@dataclass(frozen=True)
class SelectiveBackprop:
    """Arguments and rule of composer.algorithms.SelectiveBackprop (Jiang et al., arXiv 1910.00762).

    From `start` to `end` of the run, of each candidate batch of n rows exactly int(keep * n) are kept, drawn without
    replacement with weight ((rank + 0.5) / n)^(1 / keep - 1), rank by ascending loss; of every `interrupt` batches the
    last stays whole.

    What differs: progress is trainer steps over total_steps (Composer's counts whole epochs where max_duration is in
    epochs); kept rows are gathered into batches of the full size; losses are taken in eval mode; `input_key` and
    `target_key` are not needed, the batch's structure is found. Values that Composer takes and that sift nothing or
    fail later (interrupt=1, start >= end, keep=0, scale_factor > 1) raise ConfigError at once.

    Args:
      start, end: fractions of the run, [0, 1], start < end.
      keep: fraction kept, (0, 1].
      scale_factor: shrinks images for the scoring pass only, (0, 1].
      interrupt: every n-th candidate batch stays whole; 0 = never, else >= 2.
    """

    start: float = 0.5
    end: float = 0.9
    keep: float = 0.5
    scale_factor: float = 1.0
    interrupt: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.scale_factor <= 1:
            raise ConfigError("scale_factor", self.scale_factor, "(0, 1]")
        _ = self.policy  # checks the others

    @property
    def policy(self) -> policies.ComposerRank:
        modifiers = policies.Modifiers(start=self.start, end=self.end, interrupt=self.interrupt)
        return policies.ComposerRank(self.keep, modifiers=modifiers)

    def loader_options(self, total_steps: int) -> dict[str, Any]:
        """For SiftingDataLoader(**...). `total_steps`: of the whole run, which start and end are fractions of."""
        return {"policy": self.policy, "total_steps": total_steps, "scale_factor": self.scale_factor}


def batch_loss() -> BatchLoss:
    """The loss of a ComposerModel, row by row: model.loss(model(batch), batch, reduction="none").

    That is what Composer's own SelectiveBackprop asks of a model. Give a siftd.BatchLoss of your own where the model's
    loss takes no `reduction`.
    """
    from siftd.losses import BatchLoss

    return BatchLoss(_rows_of_loss)


def _rows_of_loss(model: nn.Module, batch: Any) -> torch.Tensor:
    losses: torch.Tensor = model.loss(model(batch), batch, reduction="none")  # type: ignore[operator]
    return losses


class SiftingCallback(Callback):  # type: ignore[misc]
    """Drives a SiftingDataLoader in Composer's Trainer: one loader.step() a batch, its state in the checkpoints, its
    figures in the logs, its end.

    Resuming: Composer brings a loader to where it stood by iterating over it ("spinning"), which would train nothing on
    what it skips. This loader resumes by its own state, so the callback tells the Trainer not to spin it
    (State.dataset_resumption, Composer >= 0.14; older ones need spin_dataloaders=False). As for Composer's own
    streaming datasets, a run that resumes within an epoch does not restore the random state of the checkpoint.

    `max_duration` in epochs needs a loader with steps_per_epoch, and so do several ranks.

    Args:
      loader: the Trainer's train_dataloader.
      log_every: batches between two entries in the logs; 0 = none.
      close_after_fit: ends the loader's workers when fit() ends; False: at trainer.close(), for several fits.

    Raises ImportError where Composer can't be imported; ConfigError in fit() when the Trainer has another loader, or
    Composer's SelectiveBackprop too.
    """

    def __init__(self, loader: SiftingDataLoader, *, log_every: int = 20, close_after_fit: bool = True) -> None:
        if _missing is not None:
            raise ImportError(f"Composer can't be imported ({_missing}): pip install mosaicml") from _missing
        if log_every < 0:
            raise ConfigError("log_every", log_every, ">= 0 batches")
        super().__init__()
        self.loader = loader
        self._log_every, self._close_after_fit = log_every, close_after_fit
        self._last: dict[str, Any] | None = None  # state of the loader when it was closed

    def fit_start(self, state: Any, logger: Any) -> None:
        if state.dataloader is not self.loader and not isinstance(state.dataloader, _FromNextEpoch):
            raise ConfigError(
                "train_dataloader", type(state.dataloader).__name__, "the loader given to SiftingCallback"
            )
        if any(type(a).__name__ == "SelectiveBackprop" for a in _each(state.algorithms)):
            raise ConfigError("algorithms", "SelectiveBackprop", "without it: siftd.composer.SelectiveBackprop sifts")
        state.dataset_resumption["train"] = True
        steps = state.dataloader_len
        if steps is not None and 0 < int(steps) <= int(state.timestamp.batch_in_epoch):
            state.set_dataloader(_FromNextEpoch(self.loader), state.dataloader_label, int(steps))

    def batch_end(self, state: Any, logger: Any) -> None:
        # After the optimizer's step and before checkpoints are written.
        self.loader.step()
        if self._log_every and int(state.timestamp.batch) % self._log_every == 0:
            logger.log_metrics(self.loader.metrics())

    def fit_end(self, state: Any, logger: Any) -> None:
        if self._log_every:
            logger.log_metrics(self.loader.metrics())
        if self._close_after_fit:
            self._last = gather_state(self.loader)  # a checkpoint may still be written
            self.loader.close()

    def close(self, state: Any, logger: Any) -> None:
        # Also after an exception, on one rank maybe: nothing collective here.
        self.loader.close()

    def state_dict(self) -> dict[str, Any]:
        """A collective where there are several ranks, as the Trainer's own checkpoints are."""
        return {"loader": gather_state(self.loader) if self._last is None else self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(state["loader"])


class _FromNextEpoch:
    """The loader after a checkpoint of an epoch's last batch: the Trainer has that epoch's end still before it, and
    first asks for the rest of the epoch, which is empty."""

    def __init__(self, loader: SiftingDataLoader) -> None:
        self._loader, self._first = loader, True

    def __iter__(self) -> Iterator[Any]:
        first, self._first = self._first, False
        return iter(()) if first else iter(self._loader)

    def __len__(self) -> int:
        return len(self._loader)


def _each(algorithms: Any) -> Iterator[Any]:
    return iter(algorithms or ())
