# SPDX-License-Identifier: Apache-2.0
"""SiftingDataLoader: the drop-in around a user's DataLoader."""

from __future__ import annotations

import logging
import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from siftd import policy as policies
from siftd._batches import structure
from siftd._batches.handed import Ready
from siftd._batches.info import Stats
from siftd._batches.outbox import OnDecision, Outbox
from siftd._batches.passes import Passes
from siftd._batches.source import Source
from siftd._checks import in_range, seconds
from siftd._delivery.loader_core import LoaderOptions
from siftd._delivery.score_cache import MOST_EVERY, ScoreCache
from siftd._loop import background
from siftd._loop.background import AnyEngine, Io
from siftd._loop.bring_up import BringUp, Running, Wishes
from siftd._loop.distributed import Ranks, own_state, rank_and_world
from siftd._loop.engine import EngineOptions
from siftd._loop.inline import InlineCore, InlineIo
from siftd._loop.sifted import Sifted
from siftd._net.keys import key_files
from siftd._select.recent_scores import length_for
from siftd._select.score_cost import ScoreCost
from siftd._wire.codec import wire_pb2
from siftd.errors import ConfigError, SiftdTimeoutError, StateError, WorkerError
from siftd.export import Loss, Scorer
from siftd.python_scorer import PythonScorer

STATE_SCHEMA = 2
log = logging.getLogger("siftd")
WAIT_EVERY = 0.5  # seconds between two looks at what a wait is for
CAPACITY_AFTER = 100  # steps before f and the needed number of workers are told


class _Sampler:
    """What trainers look for to announce an epoch."""

    def __init__(self, set_epoch: Callable[[int], None]) -> None:
        self.set_epoch = set_epoch


class SiftingDataLoader(Sifted):
    """Wraps a DataLoader and hands out batches of the samples that are worth a training step.

        loader = siftd.SiftingDataLoader(loader, model=model, loss="cross_entropy", workers="auto")
        for epoch in range(30):
            for x, y in loader:
                ...                    # the loop stays as it was
                opt.step()
                loader.step(model)     # returns at once; publishes every sync_every steps in the background

    Separate sifting workers score candidate batches with a copy of the model; the verdicts come back, and the kept
    rows of several candidates make up batches of the user's size and structure. A plain iterable: not a DataLoader.

    Args:
      loader: any iterable of batches (tensor, tuple, list, dict, nested), usually a DataLoader.
      model: the model in training; its weights are published.
      loss: a name ("cross_entropy", "mse", ...) or a callable giving one loss per row; see siftd.export_scorer.
      workers: "auto" (local ones on spare devices or cores), a number of local ones, a list of endpoints, or "inline":
        scored in this process, inside the loop, as SageMaker smart sifting and Composer do.
      policy: "auto" or a policy of siftd.policy; or `beta` or `keep` for SageMaker's rule.
      sync_every: trainer steps between published versions, [1, 1e6].
      total_steps: of the whole run; where known, its last 20 % stay unsifted.
      steps_per_epoch: makes an epoch exactly this many full batches; passes over the data follow each other. Needed
        where torch.distributed has several ranks, so that all make equal steps.
      batch_size: rows of a batch; default: the loader's.
      drop_last: carry an epoch's remainder into the next one; default: the loader's.
      prefetch: batches ready ahead of the loop, [1, 1024].
      timeout: seconds that `next` may wait for a batch before it raises SiftdTimeoutError.
      starve_timeout: seconds without a verdict after which batches go out unsifted.
      start_timeout: seconds for the workers to come up and take the first weights.
      max_staleness_steps: rows scored by an older model are handed out unsifted; 0 = no bound.
      seed: of the coin; default: drawn from torch's seed.
      ids: callable(batch) -> sample ids; default: the dataset index where the sampler shows it.
      pad: by field name, for batches with different trailing sizes: the fill value, or (value, "left").
      targets: fields that are targets, where the names don't tell.
      scorer: an export of this model and loss, as workers that take none over the wire were started with
        (siftd.Scorer.load(FILE)), or a PythonScorer; default: exported at the first batch.
      scale_factor: shrinks images for the scoring pass only, (0, 1]; see siftd.export_scorer.
      score_dtype: "bf16": the scoring pass computes in bfloat16; "float32": as the model does. For workers that
        start here; others have their own flag, `siftd worker --score-dtype`, as for the next one.
      score_resolution: image inputs [n, c, h, w] larger than N are scaled to N x N for the scoring pass; 0 = never.
      score_optimize: fold and fuse the scorer for the workers' CPU at each version: faster convolutions; the last bits
        of scores differ. For workers that start here and run an exported scorer.
      rescore_every: score a sample on every n-th visit only, [1, 254], and decide by that score in between: from the
        second epoch on scoring costs about 1 / n. Needs ids that name samples (see `ids`).
      step_on_next: each `next` counts as an optimizer step on the batch before it, for loops that don't call step().
      feeder_process: pull the loader in a process of its own, outside of this one's GIL.
      keys: secret key file of this client, for workers that were started with keys; its key needs the roles loader and
        publisher. Made by `siftd keygen client`. Default: SIFTD_KEYS.
      worker_key: public key file of those workers; default: SIFTD_WORKER_KEY, or worker.key beside `keys`.
      on_decision: called on a background thread with each decision: (scores [n] float32, kept rows [k] int64, ids
        uint64 [n]).

    With torch.distributed initialised every rank makes its own, around its own shard (siftd.distributed_loader); the
    first `next` is then a collective, and so is `step` for sharded models. Ranks agree on run, seed and scorer; local
    workers are spawned and fed with weights by the first rank of each node, a pool is fed by rank 0.

    Use from one thread, the training loop's. Raises ConfigError for arguments out of range, ExportError at the first
    batch when the model can't be exported for a pool, WorkerError when no worker can be had.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        model: nn.Module,
        loss: Loss | nn.Module = "cross_entropy",
        workers: str | int | Sequence[str] = "auto",
        policy: policies.Policy | str = "auto",
        beta: float | None = None,
        keep: float | None = None,
        sync_every: int = 20,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        batch_size: int | None = None,
        drop_last: bool | None = None,
        pin_memory: bool = False,
        device: torch.device | str | None = None,
        prefetch: int = 2,
        timeout: float = 600.0,
        starve_timeout: float = 5.0,
        start_timeout: float = 120.0,
        max_staleness_steps: int = 0,
        seed: int | None = None,
        ids: Callable[[Any], Sequence[int]] | None = None,
        pad: structure.Pad | None = None,
        targets: Sequence[str] | None = None,
        scorer: Scorer | PythonScorer | None = None,
        scale_factor: float = 1.0,
        score_dtype: str = "float32",
        score_resolution: int = 0,
        score_optimize: bool = False,
        rescore_every: int = 1,
        step_on_next: bool = False,
        feeder_process: bool = False,
        job: str = "default",
        keys: str | os.PathLike[str] | None = None,
        worker_key: str | os.PathLike[str] | None = None,
        on_decision: OnDecision | None = None,
    ) -> None:
        super().__init__()
        in_range("sync_every", sync_every, 1, 10**6)
        in_range("prefetch", prefetch, 1, 1024)
        in_range("max_staleness_steps", max_staleness_steps, 0, 10**9)
        for name, value, most in (
            ("total_steps", total_steps, 10**12),
            ("steps_per_epoch", steps_per_epoch, 10**12),
            ("batch_size", batch_size, 1 << 20),
        ):
            if value is not None:
                in_range(name, value, 1, most)
        seconds(timeout=timeout, starve_timeout=starve_timeout, start_timeout=start_timeout)
        policies.resolve(policy, beta=beta, keep=keep, total_steps=total_steps)  # fails here, not at the first batch
        if not isinstance(model, nn.Module):
            raise ConfigError("model", type(model).__name__, "a torch.nn.Module")
        if isinstance(workers, str) and workers not in ("auto", "inline"):
            raise ConfigError("workers", workers, '"auto", "inline", a number, or a list of endpoints')
        if not isinstance(workers, str | int) and not workers:
            raise ConfigError("workers", workers, "at least one endpoint")
        if not 0 < scale_factor <= 1:
            raise ConfigError("scale_factor", scale_factor, "(0, 1]")
        in_range("rescore_every", rescore_every, 1, MOST_EVERY)
        cost = ScoreCost(score_dtype, score_resolution, score_optimize)
        if score_optimize and (workers == "inline" or score_dtype != "float32"):
            raise ConfigError("score_optimize", True, 'False with workers="inline", and with score_dtype="bf16"')
        if not isinstance(workers, str | int) and not cost.full:
            raise ConfigError(
                "score_dtype, score_resolution, score_optimize",
                f"{score_dtype}, {score_resolution}, {score_optimize}",
                f'"float32", 0, False where the workers run already: start those with `{" ".join(cost.flags())}`',
            )
        if isinstance(workers, str | int):
            if keys is not None or worker_key is not None:
                raise ConfigError("keys", keys or worker_key, "None where workers start here: nobody else reaches those")
            files = None
        else:
            files = key_files(keys, worker_key)
        self._source = Source(loader, ids)
        self._source.check_rescoring(rescore_every)
        self._rescore_every = rescore_every
        self._passes = Passes(self._source, feeder_process)
        self._seed = torch.initial_seed() & 0xFFFFFFFFFFFFFFFF if seed is None else seed
        self._wishes = Wishes(
            model, loss, workers, policy, beta, keep, total_steps, sync_every, scorer, targets, scale_factor, job,
            self._seed, start_timeout, cost, files,
        )  # fmt: skip
        self._model = model
        self._sync_every, self._total_steps, self._steps_per_epoch = sync_every, total_steps, steps_per_epoch
        self.batch_size = batch_size or self._source.batch_size
        self._drop_last = self._source.drop_last if drop_last is None else drop_last
        self._pin_memory, self._device, self._prefetch = pin_memory, device, prefetch
        self._timeout, self._starve_timeout = timeout, starve_timeout
        self._max_staleness_steps, self._step_on_next = max_staleness_steps, step_on_next
        self._pad = structure.infer_pad(self._source.collate_fn) | dict(pad or {})
        self._job, self._on_decision = job, on_decision
        self.sampler = _Sampler(self.set_epoch)
        self.scorer = scorer
        self.policy: policies.Policy | None = None

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
        ranks = Ranks.find(self._wishes.start_timeout)
        self.control_group = ranks.group
        bring_up = BringUp(self._wishes, ranks)
        r = self._running = bring_up.run(structure.rebuild(example))
        self.scorer, self.policy, self._seed = r.scorer, r.policy, r.seed
        options = EngineOptions(
            batch_size=self.batch_size,
            prefetch=self._prefetch,
            starve_timeout=math.inf if r.module is not None else self._starve_timeout,
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
        self._io.start()

    def _background(
        self, r: Running, options: EngineOptions, example: structure.Flat, history: Sequence[float]
    ) -> tuple[AnyEngine, Io]:
        if r.module is None:
            loader = self._loader_options(r)
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
            with self._engine.lock:
                history = self._engine.recent_scores()
                self._engine.stats.model_versions += 1
            weights.publish(self._model if model is None else model, self._steps, history)
        if not self._told_capacity and self._steps >= CAPACITY_AFTER:
            self._told_capacity = True
            text = self.stats().capacity(self._workers_known())
            if text:
                log.info("siftd: %s", text)

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

    # ------------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        """The position: what is trained. Picklable; small but for at most one batch of tensors.

        The batch in hand counts as trained. Take it on the training loop's thread.
        """
        rank, world = rank_and_world()
        state: dict[str, Any] = {
            "schema": STATE_SCHEMA,
            "rank": rank,
            "world": world,
            "steps": self._steps,
            "epoch_steps": 0,
            "seed": self._seed,
            "data_size": self._source.data_size,
            "batch_size": self.batch_size or 0,
            "trained": [],
            "rows": [],
            "history": [],
            **self._passes.saved(ended_is_open=False)[1],
        }
        if self._engine is None:
            return self._passes.resume or state
        engine = self._engine
        with engine.lock:
            if self.last_batch_info is not None and not self._claims:
                engine.ledger.mark_trained(self.last_batch_info.ordinal)
            now, about = self._passes.saved(ended_is_open=len(engine.handed) > 0)
            state |= about
            if now is not None:
                intervals = engine.ledger.trained.get(now.number)
                state["trained"] = intervals.pairs() if intervals is not None else []
            if self._steps_per_epoch is not None:
                state["epoch_steps"] = self._trained_of_epoch(engine)
            state["rows"] = engine.rows_to_save(None if now is None else now.number, self._pad)
            state["history"] = engine.recent_scores()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Acts on the next iter(). {} does nothing. Takes what siftd.gather_state gave, too.

        Raises StateError when the state is another loader's, or of another number of ranks.
        """
        if not state:
            return
        state = own_state(state, *rank_and_world())
        if state.get("schema") != STATE_SCHEMA:
            raise StateError(f"schema is {state.get('schema')!r}; allowed: {STATE_SCHEMA}")
        for name, mine in (("data_size", self._source.data_size), ("batch_size", self.batch_size or 0)):
            if state[name] and mine and state[name] != mine:
                raise StateError(f"the state was saved with {name} {state[name]}, this loader has {mine}")
        self._cancel_pass()
        self._passes.load(state)
        self._seed = state["seed"]
        self._steps = state["steps"]
        self._wishes = replace(self._wishes, seed=self._seed)
        self.batch_size = self.batch_size or state["batch_size"] or None
        done = state["epoch_steps"]
        self._epoch_done = 0 if self._steps_per_epoch is None or done >= self._steps_per_epoch else done
        self._unclaimed.clear()

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
