# SPDX-License-Identifier: Apache-2.0
"""SiftingDataLoader: the drop-in around a user's DataLoader."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from siftd import _structure
from siftd import policy as policies
from siftd._checks import in_range, seconds
from siftd._engine import Engine, EngineOptions, Ready
from siftd._feeder import FeederProcess
from siftd._history import length_for
from siftd._info import BatchInfo, Stats
from siftd._ledger import IntervalSet
from siftd._loader_core import LoaderCore, LoaderOptions
from siftd._publisher import Publisher
from siftd._session import new_incarnation
from siftd._sifted import Sifted
from siftd._source import Feed, PassState, Source
from siftd._spawn import LocalWorkers, plan
from siftd._state import load_piece
from siftd._transport import IoThread
from siftd._weights import WeightsSync
from siftd._wire import wire_pb2
from siftd.errors import ConfigError, SiftdError, SiftdTimeoutError, StateError, WorkerError
from siftd.export import Loss, Scorer, export_scorer

STATE_SCHEMA = 1
log = logging.getLogger("siftd")
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
      workers: "auto" (local ones on spare devices or cores), a number of local ones, or a list of endpoints.
      policy: "auto" or a policy of siftd.policy; or `beta` or `keep` for SageMaker's rule.
      sync_every: trainer steps between published versions, [1, 1e6].
      total_steps: of the whole run; where known, its last 20 % stay unsifted.
      steps_per_epoch: makes an epoch exactly this many full batches; passes over the data follow each other.
      batch_size: rows of a batch; default: the loader's.
      drop_last: carry an epoch's remainder into the next one; default: the loader's.
      prefetch: batches ready ahead of the loop, [1, 1024].
      timeout: seconds that `next` may wait for a batch before it raises SiftdTimeoutError.
      starve_timeout: seconds without a verdict after which batches go out unsifted.
      start_timeout: seconds for the workers to come up and take the first weights.
      max_staleness_steps: rows scored by an older model are handed out unsifted; 0 = no bound.
      seed: of the coin; default: drawn from torch's seed.
      ids: callable(batch) -> sample ids; default: the dataset index where the sampler shows it.
      pad: fill value by field name for batches with different trailing sizes.
      targets: fields that are targets, where the names don't tell.
      scorer: an export of this model and loss, as workers that take none over the wire were started with
        (siftd.Scorer.load(FILE)); default: exported at the first batch.
      feeder_process: pull the loader in a process of its own, outside of this one's GIL.
      on_decision: called on a background thread with (scores [n] float32, kept rows [k] int64) of each decision.

    Use from one thread, the training loop's. Raises ConfigError for arguments out of range, ExportError at the first
    batch when the model can't be exported, WorkerError when no worker can be had.
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
        pad: Mapping[str, float] | None = None,
        targets: Sequence[str] | None = None,
        scorer: Scorer | None = None,
        feeder_process: bool = False,
        job: str = "default",
        on_decision: Callable[[Any, Any], None] | None = None,
    ) -> None:
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
        if isinstance(workers, str) and workers != "auto":
            raise ConfigError("workers", workers, '"auto", a number, or a list of endpoints')
        if not isinstance(workers, str | int) and not workers:
            raise ConfigError("workers", workers, "at least one endpoint")
        self._source = Source(loader, ids)
        self._model, self._loss, self._workers = model, loss, workers
        self._policy_args = (policy, beta, keep)
        self._sync_every, self._total_steps, self._steps_per_epoch = sync_every, total_steps, steps_per_epoch
        self._batch_size = batch_size or self._source.batch_size
        self._drop_last = self._source.drop_last if drop_last is None else drop_last
        self._pin_memory, self._device, self._prefetch = pin_memory, device, prefetch
        self._timeout, self._starve_timeout, self._start_timeout = timeout, starve_timeout, start_timeout
        self._max_staleness_steps = max_staleness_steps
        self._seed = torch.initial_seed() & 0xFFFFFFFFFFFFFFFF if seed is None else seed
        self._pad = _structure.infer_pad(self._source.collate_fn) | dict(pad or {})
        self._targets, self._job, self._on_decision = targets, job, on_decision
        self._feeder_process = feeder_process
        self.sampler = _Sampler(self.set_epoch)
        self.last_batch_info: BatchInfo | None = None
        self.scorer = scorer
        self.policy: policies.Policy | None = None

        self._pid = os.getpid()
        self._run = 0
        self._engine: Engine | None = None
        self._io: IoThread | None = None
        self._local: LocalWorkers | None = None
        self._weights: WeightsSync | None = None
        self._feed: Feed | None = None
        self._closed = False
        self._steps = 0
        self._step_called = False
        self._next_pass = 0
        self._next_epoch: int | None = None
        self._pass: PassState | None = None  # in progress
        self._resume: dict[str, Any] | None = None
        self._left_at = 0.0  # when the loop got its last batch
        self._told_capacity = False
        self._epoch_steps = 0

    # ------------------------------------------------------------------ iteration
    def set_epoch(self, epoch: int) -> None:
        """Epoch number of the next pass: feeds the coin, and the loader's own sampler."""
        in_range("epoch", epoch, 0, (1 << 32) - 1)
        self._next_epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        # A generator: nothing happens before the first next().
        if self._closed:
            raise WorkerError("this loader was closed")
        if os.getpid() != self._pid:
            raise WorkerError("this loader belongs to another process; make one in each process, after the fork")
        if self._steps_per_epoch is None or self._pass is None:
            self._cancel_pass()
            self._begin_pass()
        self._epoch_steps = 0
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
            finished = True
        finally:
            if not finished and self._steps_per_epoch is None:
                self._cancel_pass()  # break, an exception in the loop, or garbage collection

    def _begin_pass(self) -> None:
        resume, self._resume = self._resume, None
        skip: Callable[[int], bool] | None = None
        trained = IntervalSet()
        saved = [] if resume is None else [load_piece(r) for r in resume["rows"]]
        if resume is not None and resume["pass"] is not None:
            was = resume["pass"]
            self._pass = PassState(was["number"], was["epoch"], was["rng"], was["generators"])
            trained = IntervalSet(resume["trained"])
            # The rows of these batches are in the state: they are not loaded again.
            here = {piece.key[1] for piece in saved if piece.key[0] == was["number"]}
            skip = lambda seq: seq in trained or seq in here  # noqa: E731
        else:
            number, self._next_pass = self._next_pass, self._next_pass + 1
            epoch = number if self._next_epoch is None else self._next_epoch
            self._next_epoch = None
            self._pass = PassState(number, epoch)
        self._source.set_epoch(self._pass.epoch)
        candidates = self._candidates(self._pass, skip)
        if self._engine is None:
            candidates = self._start(candidates, [] if resume is None else resume["history"])
        assert self._engine is not None and self._io is not None
        if resume is not None:
            self._engine.restore(self._pass.number, trained, saved)
        self._feed = Feed(candidates, 0, self._io.wake)
        self._engine.begin_pass(self._pass.number, self._pass.epoch, self._feed)
        self._io.wake()

    def _candidates(self, state: PassState, skip: Callable[[int], bool] | None) -> Iterator[Any]:
        if not self._feeder_process:
            return self._source.begin(state, skip)
        return iter(FeederProcess(self._source, state, skip))

    def _cancel_pass(self) -> None:
        if self._engine is None or self._pass is None:
            return
        feed = self._engine.cancel()
        self._pass = None
        for f in {feed, self._feed} - {None}:
            assert f is not None
            f.close()
        self._feed = None

    def _next_batch(self) -> Any:
        assert self._engine is not None and self._io is not None
        began = time.monotonic()
        while True:
            item = self._wait(began)
            if item.flat is not None and item.info is not None:
                break
            self._pass = None
            if self._feed is not None:
                self._feed.close()
                self._feed = None
            if item.error is not None:
                raise item.error
            if self._steps_per_epoch is None:
                return None
            self._begin_pass()
        self.last_batch_info = item.info
        batch = _structure.hand_out(item.flat, self._device, self._pin_memory)
        now = time.monotonic()
        with self._engine.lock:
            self._engine.stats.wait_seconds += now - began
        self._left_at = now
        self._io.wake()  # there is room for one more
        return batch

    def _wait(self, began: float) -> Ready:
        assert self._engine is not None and self._io is not None
        engine = self._engine
        with engine.lock:
            while True:
                item = engine.pop()
                if item is not None:
                    return item
                if not self._io.alive:
                    raise WorkerError(f"siftd's I/O thread ended: {self._io.error}")
                if engine.core.failure and not engine.breaker_open:
                    raise WorkerError(engine.core.failure)
                waited = time.monotonic() - began
                if waited > self._timeout:
                    loading = engine.core.outstanding == 0
                    raise SiftdTimeoutError(
                        "your loader" if loading else f"{len(engine.core.sessions)} sifting workers",
                        "giving the next candidate batch" if loading else "deciding candidates",
                        self._timeout,
                        "Raise timeout=..., or look into the dataset's workers"
                        if loading
                        else "See `siftd status`, or raise timeout=...",
                    )
                engine.lock.wait(min(0.5, self._timeout - waited + 0.01))

    # ------------------------------------------------------------------ start
    def _start(self, candidates: Iterator[Any], history: Sequence[float]) -> Iterator[Any]:
        """Exports the model with the first candidate, brings up workers and gives them the first weights."""
        first = next(candidates, None)
        if first is None:
            raise ConfigError("loader", "empty", "a loader that gives at least one batch")
        if self.scorer is None:
            example = _structure.rebuild(first.flat)
            self.scorer = export_scorer(self._model, self._loss, example, targets=self._targets)
        policy, beta, keep = self._policy_args
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if isinstance(policy, policies.Policy) else "default")
            self.policy = policies.resolve(
                policy, beta=beta, keep=keep, sees_logits=self.scorer.sees_logits, total_steps=self._total_steps
            )
        needs = self.policy.modifiers.column or (
            "confidence" if isinstance(self.policy, policies.Confidence) else "loss"
        )
        if needs not in self.scorer.columns:
            raise ConfigError(
                "policy", str(self.policy), f"one that reads a column of the scorer: {self.scorer.columns}"
            )
        endpoints = self._endpoints()
        self._run = time.time_ns()
        self._weights = WeightsSync(endpoints, self._job, self._run, self.scorer, self._sync_every)
        core = LoaderCore(self._loader_options(first), new_incarnation())
        self._engine = Engine(
            EngineOptions(
                batch_size=self._batch_size or first.flat.rows,
                prefetch=self._prefetch,
                starve_timeout=self._starve_timeout,
                fields=self.scorer.fields,
                drop_last=self._drop_last,
                endless=self._steps_per_epoch is not None,
                history_length=length_for(self.policy),
                on_decision=self._on_decision,
            ),
            core,
            self._pad,
            history,
        )
        self._io = IoThread("siftd-loader", endpoints, core, self._engine.turn)
        # What must end with this object, also when it is forgotten; none of it refers back to it.
        publisher = self._weights.publisher
        self._finalizer = weakref.finalize(self, _shut, self._io, publisher, self._local, threading.get_ident())
        try:
            self._weights.start(self._model, self._steps, self._engine.history.sample(), self._start_timeout)
        except SiftdError:
            self.close()
            raise
        self._engine.stats.model_versions = 1
        self._io.start()

        def again() -> Iterator[Any]:
            yield first
            yield from candidates

        return again()

    def _endpoints(self) -> list[str]:
        assert self.scorer is not None
        if not isinstance(self._workers, str | int):
            return list(self._workers)
        device = next((p.device for p in self._model.parameters()), torch.device("cpu"))
        self._local = LocalWorkers(self.scorer.archive, plan(self._workers, device))
        return self._local.wait_ready(self._start_timeout)

    def _loader_options(self, first: Any) -> LoaderOptions:
        assert self.scorer is not None and self.policy is not None
        spec = self._job_spec(wire_pb2.MODE_VERDICTS, self.policy, self.scorer.sha256)
        return LoaderOptions(
            mode=wire_pb2.MODE_VERDICTS,
            job=self._job,
            name=f"drop-in {os.getpid()}",
            run=self._run,
            job_spec=spec,
            data_size=self._source.data_size,
            batch_size=first.flat.rows,
            seed=self._seed,
        )

    # ------------------------------------------------------------------ weights
    def step(self, model: nn.Module | None = None) -> None:
        """Call after opt.step(). Marks what was handed out as trained; every sync_every steps publishes the weights.

        Returns after one flat copy of the weights; digests and sending happen in the background.
        """
        if self._engine is None:
            raise ConfigError("step()", "before the first batch", "inside the loop over the loader")
        self._steps += 1
        self._step_called = True
        self._engine.steps = self._steps
        self._engine.stats.steps = self._steps
        if self.last_batch_info is not None:
            self._engine.mark_trained(self.last_batch_info.ordinal)
        assert self._weights is not None
        if self._weights.due(self._steps):
            with self._engine.lock:
                history = self._engine.history.sample()
                self._engine.stats.model_versions += 1
            self._weights.publish(self._model if model is None else model, self._steps, history)
        if not self._told_capacity and self._steps >= CAPACITY_AFTER:
            self._told_capacity = True
            text = self._engine.stats.capacity(len(self._engine.core.sessions))
            if text:
                log.info("siftd: %s", text)

    # ------------------------------------------------------------------ what it tells
    def stats(self) -> Stats:
        """A copy of the counts so far."""
        if self._engine is None:
            return Stats()
        with self._engine.lock:
            return Stats(**self._engine.stats.__dict__)

    def _workers_known(self) -> int:
        return 0 if self._engine is None else len(self._engine.core.sessions)

    # ------------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        """The position: what is trained. Picklable; small but for at most one batch of tensors.

        The batch in hand counts as trained. Take it on the training loop's thread.
        """
        state: dict[str, Any] = {
            "schema": STATE_SCHEMA,
            "next_pass": self._next_pass,
            "steps": self._steps,
            "seed": self._seed,
            "data_size": self._source.data_size,
            "batch_size": self._batch_size or 0,
            "pass": None,
            "trained": [],
            "rows": [],
            "history": [],
        }
        if self._engine is None:
            return self._resume or state
        engine = self._engine
        with engine.lock:
            if self.last_batch_info is not None:
                engine.stats.trained += engine.ledger.mark_trained(self.last_batch_info.ordinal)
            if self._pass is not None:
                state["pass"] = {
                    "number": self._pass.number,
                    "epoch": self._pass.epoch,
                    "rng": self._pass.rng,
                    "generators": list(self._pass.generators),
                }
                intervals = engine.ledger.trained.get(self._pass.number)
                state["trained"] = intervals.pairs() if intervals is not None else []
            now = None if self._pass is None else self._pass.number
            state["rows"] = engine.rows_to_save(self.last_batch_info, now, self._pad)
            state["history"] = engine.history.sample()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Acts on the next iter(). {} does nothing. Raises StateError when the state is another loader's."""
        if not state:
            return
        if state.get("schema") != STATE_SCHEMA:
            raise StateError(f"schema is {state.get('schema')!r}; allowed: {STATE_SCHEMA}")
        for name, mine in (("data_size", self._source.data_size), ("batch_size", self._batch_size or 0)):
            if state[name] and mine and state[name] != mine:
                raise StateError(f"the state was saved with {name} {state[name]}, this loader has {mine}")
        self._cancel_pass()
        self._next_pass = state["next_pass"]
        self._seed = state["seed"]
        self._steps = state["steps"]
        self._resume = state

    # ------------------------------------------------------------------ end
    def close(self) -> None:
        """Ends threads and local workers. The loader can't be iterated afterwards. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._engine is not None:
            self._cancel_pass()
            self._finalizer()


def _shut(io: IoThread, publisher: Publisher, local: LocalWorkers | None, owner: int) -> None:
    """Ends what a loader started; runs on close(), garbage collection or at exit."""
    io.stop()
    publisher.close()
    if local is not None:
        local.close()
