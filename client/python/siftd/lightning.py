# SPDX-License-Identifier: Apache-2.0
"""Sifting for PyTorch Lightning (lightning.pytorch and pytorch_lightning, 2.x).

    trainer = Trainer(max_epochs=10, callbacks=[siftd.lightning.Sifting(workers="auto")])
    trainer.fit(model, train_loader)

That is the whole change: the training dataloader is wrapped, wherever it comes from, and the callback publishes the
weights, keeps the loader's position in the checkpoints, and logs.

The other way is to return a siftd.SiftingDataLoader (or StreamLoader, or the SageMaker names' SiftingDataloader) from
train_dataloader(), or to give it to fit(); `Sifting()` without options then drives it. Such a loader works without the
callback, too, but then nobody publishes weights (except for step_on_next=True), nothing is logged, schedules can't
learn the number of steps, a checkpoint within an epoch counts the batch that Lightning fetched ahead as trained, and
with several ranks it holds the position of rank 0 only.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import sys
from collections.abc import Sequence
from typing import Any

from torch import nn

from siftd._frameworks.lightning_estimate import lend_estimate, take_estimate_back
from siftd._frameworks.lightning_feed import LightningFeed
from siftd._frameworks.lightning_wrap import KNOWN, batches_at_most, find_sifted, wrap
from siftd._loop.distributed import gather_state, own_state, rank_and_world
from siftd.errors import ConfigError, SiftdError
from siftd.losses import Loss

log = logging.getLogger("siftd")
_LIGHTNINGS = ("lightning.pytorch", "pytorch_lightning")
# Put over a loader's state: its counters and history, for a loader of other data.
_NO_POSITION: dict[str, Any] = {
    "pass": None,
    "trained": [],
    "rows": [],
    "epoch_steps": 0,
    "data_size": 0,
    "batch_size": 0,
}


def _callback_class() -> Any:
    """Callback of the Lightning that the program imported (of both, where it has both), else of an installed one."""
    loaded = [sys.modules[name].Callback for name in _LIGHTNINGS if name in sys.modules]
    if loaded:
        return loaded[0] if len(loaded) == 1 else type("Callback", tuple(loaded), {})
    for name in _LIGHTNINGS:
        try:
            return importlib.import_module(name).Callback
        except ModuleNotFoundError:
            continue
    raise ImportError("siftd.lightning needs Lightning 2: pip install lightning (or pytorch-lightning)")


Callback: Any = _callback_class()


class Sifting(Callback):  # type: ignore[misc]
    """Trains on the samples that are worth a step.

    An epoch ends when every candidate was decided, so its length is not known beforehand: a schedule that is built from
    trainer.estimated_stepping_batches gets an upper bound, and decays only by about the share of rows kept. With
    `steps_per_epoch` the length is known and schedules are exact. Trainer(limit_train_batches=N) means it, too, with at
    most the batches that the loader has. Several ranks need one of the two, so that all make equal steps.

    Scoring sees batches as the loader gives them, before the batch-transfer hooks of the module.

    Args:
      workers: as SiftingDataLoader's: "auto", a number of local ones, a list of endpoints, or "inline".
      loss: a name, a callable(output, *targets) -> [n], or siftd.BatchLoss(fn(module, batch) -> [n]). Default: the
        module's method `sifting_loss(batch) -> [n]` where it has one, else "cross_entropy" of its forward on the batch.
      model: the module that scores, where it is not the LightningModule: a module in it, or its name ("net.encoder").
      prog_bar: shows the kept share in the progress bar, as "kept".
      options: of SiftingDataLoader: policy, beta, keep, sync_every, steps_per_epoch, ids, ...

    Attributes:
      loader: the sifting loader in use; None outside of fit.
      batch_info: siftd.BatchInfo of the batch in training: ids, scores, weights, ... of its rows.

    Metrics go to the trainer's loggers each log_every_n_steps, under "sifting/"; with several ranks they are rank 0's.
    Checkpoints hold the position of every rank: nothing is lost or repeated when fit goes on from one. Only in a
    checkpoint saved on an exception with several ranks it is missing, and the epoch begins anew.
    (Lightning before 2.5 trains an epoch more when it goes on from a checkpoint of an epoch's last batch.)
    With Trainer(overfit_batches=...) nothing is sifted.
    """

    def __init__(
        self,
        workers: str | int | Sequence[str] = "auto",
        *,
        loss: Loss | nn.Module | None = None,
        model: nn.Module | str | None = None,
        prog_bar: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        unknown = sorted(set(options) - KNOWN)
        if unknown:
            raise ConfigError("options", ", ".join(unknown), f"those of SiftingDataLoader: {', '.join(sorted(KNOWN))}")
        self._loss, self._model, self._options = loss, model, {"workers": workers} | options
        self._plain = (loss, model, self._options) == (None, None, {"workers": "auto"})
        self._prog_bar = prog_bar
        self.loader: Any = None
        self.batch_info: Any = None
        self._trainer: Any = None  # in fit
        self._feed: LightningFeed | None = None
        self._given: Any = None  # what the feed was made of
        self._owned = False
        self._resume: dict[str, Any] = {}  # from a checkpoint, until a loader is there
        self._left: dict[str, Any] = {}  # when fit ended
        self._before: dict[str, Any] = {}  # when the fit before ended
        self._stepped_at = 0  # global_step
        self._logged_at = -1
        self._told: set[str] = set()

    # ------------------------------------------------------------ the loader
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        self._end()
        self._trainer, self._resume = trainer, {}
        self._before, self._left = self._left, {}
        source = trainer.fit_loop._data_source
        source.dataloader = functools.partial(self._train_dataloader, source.dataloader)
        lend_estimate(trainer, lambda: batches_at_most(self.loader), self._tell)

    def _train_dataloader(self, request: Any) -> Any:
        """In place of Lightning's own request for the training data, whichever hook or argument it comes from."""
        given = request()
        if self._trainer.overfit_batches:
            self._tell("overfit_batches is set: nothing is sifted")
            return given
        if self._feed is None or given is not self._given:
            before = {} if self._feed is None or not self._owned else self.loader.state_dict()
            self._let_go()
            if self._before and self._owned and self._trainer.global_step > 0:  # the training goes on in a second fit
                before = own_state(self._before["loader"], *rank_and_world())
            self._before = {}
            feed = self._drive(given)
            self._feed = self._wrap(given, before) if feed is None else feed
            self.loader, self._given = self._feed.loader, given
            self.loader.expect_claims()
        self._check(self._feed)
        self._place(self._feed)
        return self._feed

    def _drive(self, given: Any) -> LightningFeed | None:
        """Around the user's own sifting loader."""
        loader = find_sifted(given)
        if loader is None:
            return None
        if not self._plain:
            raise ConfigError("Sifting(...)", "given options", "Sifting(), since the sifting loader has its own")
        self._owned = False
        return LightningFeed(given, loader)

    def _wrap(self, given: Any, before: dict[str, Any]) -> LightningFeed:
        """Around the user's plain loader. `before`: state of the loader before this one in the same training."""
        loader = wrap(given, self._trainer, model=self._model, loss=self._loss, options=self._options, tell=self._tell)
        if before:
            loader.load_state_dict(before | _NO_POSITION)
        self._owned = True
        return LightningFeed(loader, loader)

    def _check(self, feed: LightningFeed) -> None:
        every = self._trainer.val_check_interval
        if not feed.fixed_length and isinstance(every, float) and every != 1.0:
            raise ConfigError(
                "val_check_interval", every, "1.0, a number of batches or a time, since the length of a sifted epoch "
                "is not known; any with steps_per_epoch",
            )  # fmt: skip
        if "dataloader_iter" in inspect.signature(self._trainer.lightning_module.training_step).parameters:
            raise ConfigError("training_step", "dataloader_iter", "training_step(batch, ...), one batch at a time")

    def _place(self, feed: LightningFeed) -> None:
        """Where the loader begins. Lightning may fetch the first batch before it announces the epoch."""
        epoch = self._trainer.fit_loop.epoch_progress.current.processed
        if self._resume:
            feed.restart()
            feed.loader.load_state_dict(self._resume["loader"])
            epoch, self._resume, feed.restored = self._resume["epoch"], {}, True
        feed.set_epoch(epoch)

    # ------------------------------------------------------------ steps
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._stepped_at, self._logged_at = trainer.global_step, -1
        if self._feed is None:
            return
        if self._resume:
            # This strategy restores after it has set up, and configure_optimizers had the data set up already.
            self._place(self._feed)
            iter(trainer.fit_loop._data_fetcher)
        if trainer.ckpt_path and not self._feed.restored:
            self._tell("the checkpoint does not hold the loader's position: its epoch begins anew")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._feed is not None:
            self.batch_info = self._feed.claim()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self._step(trainer):
            return
        if trainer.loggers and trainer._logger_connector.should_update_logs:
            self._log(trainer)
        if self._prog_bar:
            kept = self.loader.stats().keep_fraction
            pl_module.log("kept", kept, prog_bar=True, logger=False, on_step=True, on_epoch=False, batch_size=1)

    def _step(self, trainer: Any) -> bool:
        """After an optimizer step: all that was begun is trained."""
        if self._feed is None or self.batch_info is None or trainer.global_step == self._stepped_at:
            return False
        self._stepped_at = trainer.global_step
        self.loader.step(ordinal=self.batch_info.ordinal)
        return True

    def _log(self, trainer: Any) -> None:
        metrics, step = self.loader.metrics(), trainer.fit_loop.epoch_loop._batches_that_stepped
        self._logged_at = trainer.global_step
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)

    # ------------------------------------------------------------ checkpoints
    def state_dict(self) -> dict[str, Any]:
        """The position of all ranks: Lightning calls this on every rank, and so it is a collective."""
        trainer = self._trainer
        if trainer is None or self._feed is None:
            return self._left or self._resume
        if trainer.interrupted and trainer.world_size > 1:
            return {}  # the other ranks may not come
        self._step(trainer)  # a callback before this one may save
        progress = trainer.fit_loop.epoch_progress.current
        ended = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch and progress.started == progress.ready
        epoch = progress.ready if ended else max(0, progress.ready - 1)  # of the next batch
        return {"loader": gather_state(self.loader), "epoch": epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resume = state_dict  # setup() forgets what validate and test loaded

    # ------------------------------------------------------------ end
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._feed is None:
            return
        self._left = self.state_dict()
        if trainer.loggers and self._logged_at != trainer.global_step and self.batch_info is not None:
            self._log(trainer)
        if trainer.is_global_zero:
            log.info("siftd: %s", self.loader.summary())

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self._feed is not None and trainer.world_size == 1:
            try:
                self._left = self.state_dict()  # for a checkpoint that is saved after this
            except SiftdError as error:
                log.warning("siftd: the loader's position is lost: %s", error)
        self._end()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._end()

    def _let_go(self) -> None:
        """Of the loader, which ends if the callback made it."""
        feed, self._feed, self._given, self.loader, self.batch_info = self._feed, None, None, None, None
        if feed is not None:
            feed.restart()
            if self._owned:
                feed.loader.close()

    def _end(self) -> None:
        self._let_go()
        trainer, self._trainer = self._trainer, None
        if trainer is not None:
            vars(trainer.fit_loop._data_source).pop("dataloader", None)
            take_estimate_back(trainer)

    def _tell(self, text: str) -> None:
        if text not in self._told and self._trainer.is_global_zero:
            self._told.add(text)
            log.warning("siftd: %s", text)
