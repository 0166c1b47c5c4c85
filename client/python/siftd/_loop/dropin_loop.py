# SPDX-License-Identifier: Apache-2.0
"""The drop-in's loop: passes, batches, waits, the start at the first batch, the steps that publish."""

from __future__ import annotations

import logging
import math
import os
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from siftd import policy as policies
from siftd._batches import structure
from siftd._batches.handed import Ready
from siftd._batches.info import Stats
from siftd._batches.outbox import OnDecision, Outbox
from siftd._batches.passes import Passes
from siftd._batches.rounds import Rounds
from siftd._batches.source import Source
from siftd._checks import in_range
from siftd._delivery.loader_core import LoaderOptions
from siftd._delivery.score_cache import ScoreCache
from siftd._loop import background
from siftd._loop.background import AnyEngine, Io
from siftd._loop.bring_up import BringUp, Running, Wishes
from siftd._loop.distributed import Ranks, rank_and_world
from siftd._loop.dropin_checks import check_one_rank
from siftd._loop.engine import EngineOptions
from siftd._loop.exact_engine import ExactEngine
from siftd._loop.inline import InlineCore, InlineIo
from siftd._loop.sifted import Sifted
from siftd._select.recent_scores import length_for
from siftd._wire.codec import wire_pb2
from siftd.errors import ConfigError, SiftdTimeoutError, WorkerError
from siftd.export import Scorer
from siftd.python_scorer import PythonScorer

log = logging.getLogger("siftd")
WAIT_EVERY = 0.5  # seconds between two looks at what a wait is for
CAPACITY_AFTER = 100  # steps before f and the needed number of workers are told


class DropInLoop(Sifted):
    """Base of SiftingDataLoader, which says what the options are. One thread, the training loop's."""

    # Options.
    _wishes: Wishes
    _model: nn.Module
    _source: Source
    _drop_last: bool
    _pin_memory: bool
    _device: torch.device | str | None
    _prefetch: int
    _timeout: float
    _starve_timeout: float
    _step_on_next: bool
    _pad: dict[str, float | tuple[float, str]]
    _job: str
    _on_decision: OnDecision | None
    _deterministic: bool
    _rescore_every: int
    batch_size: int | None

    def __init__(self) -> None:
        super().__init__()
        self.scorer: Scorer | PythonScorer | None = None
        self.policy: policies.Policy | None = None
        self._passes: Passes
        self._pid = os.getpid()
        self._running: Running | None = None
        self._engine: AnyEngine | None = None
        self._io: Io | None = None
        self._closed = False
        self._told_capacity = False

    # ------------------------------------------------------------------ iteration
    def set_epoch(self, epoch: int) -> None:
        """Epoch number of the next pass: feeds the coin, and the loader's own sampler."""
        in_range("epoch", epoch, 0, (1 << 32) - 1)
        self._passes.next_epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        # A generator: nothing happens before the first next().
        if self._closed:
            raise WorkerError("this loader was closed")
        if os.getpid() != self._pid:
            raise WorkerError("this loader belongs to another process; make one in each process, after the fork")
        _, world = rank_and_world()
        if world > 1 and self._steps_per_epoch is None:
            several = f"given where there are several ranks (here {world}), so that all make equal steps"
            raise ConfigError("steps_per_epoch", None, several)
        self._forget_unclaimed()
        if self._steps_per_epoch is None or self._passes.current is None:
            self.cancel_pass()
            # A pass that was resumed at its very end is over at once; with steps_per_epoch the next one follows.
            if not self._begin_pass() and (self._steps_per_epoch is None or not self._begin_pass()):
                return
        self._epoch_steps, self._epoch_done = self._epoch_done, 0
        finished = False
        try:
            while self._steps_per_epoch is None or self._epoch_steps < self._steps_per_epoch:
                batch = self._next_batch()
                if batch is None:
                    finished = True
                    return
                self._epoch_steps += 1
                yield batch
                assert self._engine is not None
                self._asks_again(self._engine)
                if self._step_on_next and not self._claims:
                    self.step()
            finished = True
        finally:
            if not finished and self._steps_per_epoch is None:
                self.cancel_pass()  # break, an exception in the loop, or garbage collection

    def _begin_pass(self) -> bool:
        opened = self._passes.open(want_example=self._engine is None)
        if opened is None:
            return False
        if self._engine is None:
            assert opened.example is not None
            self._start(opened.example, opened.history)
        now = self._passes.current
        assert self._engine is not None and self._io is not None and now is not None
        if opened.resumed:
            self._engine.restore(now.number, opened.trained, opened.rows)
        self._passes.pulled_by(self._engine.begin_pass(now.number, now.epoch, opened.candidates, self._io.wake))
        self._io.wake()
        return True

    def cancel_pass(self) -> None:
        """Gives up the pass in progress, as a `break` out of the loop does: its late verdicts and buffered rows are
        dropped and counted as `cancelled`. With steps_per_epoch: nothing, the next iter() goes on in the pass."""
        if self._steps_per_epoch is None:
            if isinstance(self._engine, ExactEngine) and self._passes.current is not None:
                self._wait_round(self._engine)  # how far the pass got must not depend on who was quicker
            self._cancel_pass()

    def _cancel_pass(self) -> None:
        if self._engine is not None and self._passes.current is not None:
            self._engine.cancel()
            self._passes.cancel()

    def _next_batch(self) -> Any:
        assert self._engine is not None and self._io is not None
        began = time.monotonic()
        while True:
            item = self._wait(began)
            if item.flat is not None and item.info is not None:
                break
            self._passes.end()
            if item.error is not None:
                raise item.error
            if self._steps_per_epoch is None:
                return None
            self._begin_pass()
        self._handed_out(item.info)
        batch = structure.hand_out(item.flat, self._device, self._pin_memory)
        self._left_at = time.monotonic()
        self._engine.stats.wait_seconds += self._left_at - began
        return batch

    def _wait(self, began: float) -> Ready:
        assert self._engine is not None and self._io is not None
        engine, io = self._engine, self._io
        while True:
            if isinstance(io, InlineIo):
                io.drive(WAIT_EVERY)
            item = engine.take()
            if item is not None:
                if engine.took():
                    io.wake()  # there is room for one more
                return item
            self._check_waiting(engine, time.monotonic() - began)
            if not isinstance(io, InlineIo):
                if engine.asks():
                    io.wake()
                engine.wait(WAIT_EVERY)

    def _check_waiting(self, engine: AnyEngine, waited: float) -> None:
        assert self._io is not None
        if not self._io.alive:
            raise WorkerError(f"siftd's I/O thread ended: {self._io.error}")
        if engine.failure and not engine.breaker_open:
            raise WorkerError(engine.failure)
        if waited <= self._timeout:
            return
        if engine.outstanding == 0:
            raise SiftdTimeoutError(
                "your loader", "giving the next candidate batch", self._timeout,
                "Raise timeout=..., or look into the dataset's workers",
            )  # fmt: skip
        raise SiftdTimeoutError(
            f"{engine.workers} sifting workers", "deciding candidates", self._timeout,
            "See `siftd status`, or raise timeout=...",
        )  # fmt: skip

    # ------------------------------------------------------------------ start
    def _start(self, example: structure.Flat, history: Sequence[float]) -> None:
        """Exports the model with an example, brings up workers and gives them the first weights."""
        self.batch_size = self.batch_size or example.rows
        if self._deterministic:
            check_one_rank()
        ranks = Ranks.find(self._wishes.start_timeout)
        self.control_group = ranks.group
        bring_up = BringUp(self._wishes, ranks)
        r = self._running = bring_up.run(structure.rebuild(example))
        self.scorer, self.policy, self._seed = r.scorer, r.policy, r.seed
        options = EngineOptions(
            batch_size=self.batch_size,
            prefetch=self._prefetch,
            starve_timeout=math.inf if r.module is not None or self._deterministic else self._starve_timeout,
            fields=() if r.module is not None else r.scorer.fields,
            drop_last=self._drop_last,
            endless=self._steps_per_epoch is not None,
            history_length=length_for(r.policy),
            on_decision=self._on_decision,
        )
        self._engine, self._io = self._background(r, options, example, history)
        self._engine.step_to(self._steps)
        if self._claims:
            self._engine.expect_claims()
        # What must end with this object, also when it is forgotten; none of it refers back to it.
        self._finalizer = weakref.finalize(self, _shut, self._io, r)
        try:
            bring_up.publish_first(r, self._steps, self._engine.recent_scores())
        except Exception:
            self.close()
            raise
        self._engine.stats.model_versions = 1
        if isinstance(self._engine, ExactEngine) and r.weights is not None:
            self._engine.begin_round(r.weights.version, self._steps)
        self._io.start()

    def _background(
        self, r: Running, options: EngineOptions, example: structure.Flat, history: Sequence[float]
    ) -> tuple[AnyEngine, Io]:
        if r.module is None:
            loader = self._loader_options(r)
            if self._deterministic:
                lead = max(self._prefetch, self._sync_every // 4)
                rounds = Rounds(options.batch_size, self._sync_every, lead, example.rows)
                return background.exact(options, loader, r.endpoints, self._pad, rounds, history, self._wishes.keys)
            return background.with_workers(options, loader, r.endpoints, example, self._pad, history, self._wishes.keys)
        cache = ScoreCache(self._rescore_every, self._source.data_size)
        core = InlineCore(
            r.module, r.scorer.fields, r.policy, r.seed, self._total_steps or 0, history, self._wishes.cost, cache
        )
        return background.inline(core, options, self._pad, history)

    def _loader_options(self, r: Running) -> LoaderOptions:
        return LoaderOptions(
            mode=wire_pb2.MODE_VERDICTS,
            job=self._job,
            name=f"drop-in {os.getpid()}",
            index=r.index,
            count=r.count,
            run=r.run,
            job_spec=self._job_spec(wire_pb2.MODE_VERDICTS, r.policy, r.scorer.sha256),
            data_size=self._source.data_size,
            batch_size=self._source.batch_size or 0,
            seed=r.seed,
            rescore_every=self._rescore_every,
        )

    # ------------------------------------------------------------------ weights
    def step(self, model: nn.Module | None = None, *, ordinal: int | None = None) -> None:
        """Call after opt.step(), on every rank. Marks batches as trained; every sync_every steps publishes the weights.

        Returns after one flat copy of the weights; digests and sending happen in the background. For sharded models
        (FSDP) each sync step is a collective; which steps those are depends on the step count only.

        Args:
          model: the module in training; default: the one given at the start.
          ordinal: of the newest batch that this step trained (BatchInfo.ordinal); default: all that were handed out.
        """
        if self._engine is None or self._running is None:
            raise ConfigError("step()", "before the first batch", "inside the loop over the loader")
        self._stepped(self._engine, ordinal)
        weights = self._running.weights
        if weights is None:
            self._engine.stats.model_versions = self._steps + 1  # inline: every step is seen at once
            return
        if weights.due(self._steps):
            exact = self._engine if isinstance(self._engine, ExactEngine) else None
            if exact is not None:
                self._wait_round(exact)
            with self._engine.lock:
                history = self._engine.recent_scores()
                self._engine.stats.model_versions += 1
            weights.publish(self._model if model is None else model, self._steps, history)
            if exact is not None and self._io is not None:
                exact.begin_round(weights.version, self._steps)
                self._io.wake()
        if not self._told_capacity and self._steps >= CAPACITY_AFTER:
            self._told_capacity = True
            text = self.stats().capacity(self._workers_known())
            if text:
                log.info("siftd: %s", text)

    def _wait_round(self, engine: ExactEngine) -> None:
        """Deterministic mode: until all candidates of the version in force are decided."""
        assert self._io is not None
        began = time.monotonic()
        with engine.lock:
            while not engine.round_over():
                self._check_waiting(engine, time.monotonic() - began)
                engine.lock.wait(WAIT_EVERY)

    # ------------------------------------------------------------------ what it tells
    def stats(self) -> Stats:
        """A copy of the counts so far."""
        if self._engine is None:
            return Stats()
        with self._engine.lock:
            self._engine.sync()
            return Stats(**self._engine.stats.__dict__)

    def _outbox(self) -> Outbox | None:
        return self._engine

    def _workers_known(self) -> int:
        return 0 if self._engine is None else self._engine.workers

    # ------------------------------------------------------------------ end
    def close(self) -> None:
        """Ends threads and local workers. The loader can't be iterated afterwards. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._engine is not None:
            self._cancel_pass()
            self._finalizer()


def _shut(io: Io, running: Running) -> None:
    """Ends what a loader started; runs on close(), garbage collection or at exit."""
    io.stop()
    running.close()
