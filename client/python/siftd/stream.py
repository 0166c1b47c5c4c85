# SPDX-License-Identifier: Apache-2.0
"""StreamLoader: a trainer rank that is fed by the workers. Loaders are other processes (siftd.CandidateLoader)."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from siftd import _checks
from siftd import policy as policies
from siftd._batches import structure
from siftd._batches.info import Stats
from siftd._batches.outbox import OnDecision, Outbox
from siftd._checks import in_range, seconds
from siftd._delivery.native_loader import available
from siftd._delivery.session import new_incarnation
from siftd._delivery.trainer_core import TrainerCore, TrainerOptions
from siftd._loop.distributed import own_state
from siftd._loop.native_engine import NativeBatchIo
from siftd._loop.native_stream_engine import NativeStreamEngine
from siftd._loop.sifted import Sifted
from siftd._loop.stream_engine import StreamEngine
from siftd._net.keys import key_files
from siftd._net.transport import IoThread
from siftd._scorer.sharded import is_sharded
from siftd._select.recent_scores import RecentScores, length_for
from siftd._weights.publisher import Publisher
from siftd._weights.sync import WeightsSync
from siftd._wire.codec import wire_pb2
from siftd.errors import ConfigError, SiftdError, SiftdTimeoutError, StateError, WorkerError
from siftd.export import Loss, Scorer, export_scorer

STATE_SCHEMA = 2
log = logging.getLogger("siftd")


class StreamLoader(Sifted):
    """Batches of kept rows, streamed by sifting workers.

        loader = siftd.StreamLoader(endpoints, batch_size=128, model=model, loss="cross_entropy", example_batch=batch)
        for epoch in range(10):
            for x, y in loader:
                ...
                opt.step()
                loader.step(model)

    World 1: an epoch ends exactly, when all loaders ended theirs and every row is handed out; the remainder is a short
    last batch. World > 1: an epoch is steps_per_epoch full batches on every rank.

    Args:
      endpoints: of the workers.
      batch_size: rows of a batch.
      rank, world: of this trainer process. Loader i feeds rank i % world.
      loader_count: loaders of the job; world 1 waits for all of them at the end of an epoch.
      model, loss, example_batch: rank 0 exports and publishes; or give a `scorer` from export_scorer. Where the model
        is sharded (FSDP2) every rank gives them, and the start and each sync step are collectives.
      run: run id shared by all ranks, newer at each start; default: the clock (world 1) or broadcast from rank 0
        through torch.distributed where that is initialised.
      window: candidate batches buffered per worker, [1, 1024]. Memory bound: batch_size - 1 + workers x window x the
        largest batch, in rows.
      keys, worker_key: as for SiftingDataLoader; the key needs the roles trainer and, on rank 0, publisher.
      on_decision: called on a background thread with each decision: (scores [n] float32, kept rows [k] int64, ids
        uint64 [k] of the kept rows).

    Use from one thread. The model's weights go out before the first batch.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        batch_size: int,
        *,
        rank: int = 0,
        world: int = 1,
        loader_count: int = 1,
        model: nn.Module | None = None,
        loss: Loss | nn.Module = "cross_entropy",
        example_batch: Any = None,
        scorer: Scorer | None = None,
        policy: policies.Policy | str = "auto",
        beta: float | None = None,
        keep: float | None = None,
        sync_every: int = 20,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        drop_last: bool = False,
        window: int = 2,
        prefetch: int = 2,
        device: torch.device | str | None = None,
        pin_memory: bool = False,
        timeout: float = 600.0,
        start_timeout: float = 120.0,
        linger: float = 10.0,
        seed: int = 0,
        run: int | None = None,
        pad: structure.Pad | None = None,
        max_staleness_steps: int = 0,
        job: str = "default",
        keys: str | os.PathLike[str] | None = None,
        worker_key: str | os.PathLike[str] | None = None,
        on_decision: OnDecision | None = None,
    ) -> None:
        super().__init__()
        in_range("batch_size", batch_size, 1, 1 << 20)
        in_range("world", world, 1, 65536)
        in_range("rank", rank, 0, world - 1)
        in_range("loader_count", loader_count, world, 65536)
        in_range("window", window, 1, 1024)
        in_range("prefetch", prefetch, 1, 1024)
        in_range("sync_every", sync_every, 1, 10**6)
        seconds(timeout=timeout, start_timeout=start_timeout)
        if world > 1 and steps_per_epoch is None:
            raise ConfigError("steps_per_epoch", None, "given where world > 1, so that all ranks make equal steps")
        if rank == 0 and scorer is None and (model is None or example_batch is None):
            raise ConfigError("model, example_batch", None, "given on rank 0, which publishes; or scorer=...")
        if rank == 0 and model is None:
            raise ConfigError("model", None, "the module in training, on rank 0")
        self._keys = key_files(keys, worker_key)
        self._endpoints, self._rank, self._world = _checks.endpoints(endpoints), rank, world
        self._model = model
        self._scorer = scorer
        if scorer is None and model is not None and example_batch is not None:
            self._scorer = export_scorer(model, loss, example_batch)
        self.policy = policies.resolve(
            policy,
            beta=beta,
            keep=keep,
            sees_logits=self._scorer is not None and self._scorer.sees_logits,
            total_steps=total_steps,
        )
        self._given_run, self._run = run, 0
        self._sync_every, self._steps_per_epoch = sync_every, steps_per_epoch
        self._device, self._pin_memory, self._prefetch = device, pin_memory, prefetch
        self._timeout, self._start_timeout, self._linger = timeout, start_timeout, linger
        self._seed, self._job, self._total_steps = seed, job, total_steps
        self._max_staleness_steps, self._window, self._loader_count = max_staleness_steps, window, loader_count
        self.batch_size = batch_size

        self._pad, self._drop_last, self._on_decision = dict(pad or {}), drop_last, on_decision
        history = RecentScores(length_for(self.policy))
        self._engine: StreamEngine | NativeStreamEngine = StreamEngine(
            batch_size, prefetch, steps_per_epoch is None, drop_last, self._pad, history, on_decision
        )
        self._io: IoThread | NativeBatchIo | None = None
        self._weights: WeightsSync | None = None
        self._closed = False
        self._resume: dict[str, Any] = {}

    # ------------------------------------------------------------ start
    def start(self) -> None:
        """Connects and, on rank 0, publishes the first weights. Called by the first next() if not before."""
        if self._io is not None:
            return
        if self._closed:
            raise WorkerError("this loader was closed")
        self._run = self._shared_run()
        self._io = self._background()
        sharded = self._model is not None and is_sharded(self._model)
        if self._rank == 0 or sharded:
            if self._scorer is None:
                raise ConfigError("example_batch", None, "given on every rank where the model is sharded (FSDP)")
            to = self._endpoints if self._rank == 0 else []  # the others take part in gathering a sharded model
            self._weights = WeightsSync(to, self._job, self._run, self._scorer, self._sync_every, keys=self._keys)
        publisher = None if self._weights is None else self._weights.publisher
        self._finalizer = weakref.finalize(self, _shut, self._io, publisher)
        if self._weights is not None:
            assert self._model is not None
            try:
                self._weights.start(self._model, self._steps, self._engine.recent_scores(), self._start_timeout)
            except SiftdError:
                self.close()
                raise
            self._engine.stats.model_versions = 1
        self._io.start()
        log.info("siftd: %s", self.memory_bound())

    def _background(self) -> IoThread | NativeBatchIo:
        """What runs the stream; `_engine` stands until then for what is known before."""
        options = TrainerOptions(
            job=self._job,
            name=f"trainer {os.getpid()}",
            run=self._run,
            rank=self._rank,
            world=self._world,
            job_spec=self._job_spec(wire_pb2.MODE_SAMPLES, self.policy),
            batch_size=self.batch_size,
            window=self._window,
            endless=self._steps_per_epoch is not None,
            loaders=self._loader_count,
        )
        before = self._engine
        assert isinstance(before, StreamEngine)
        if available() and not self._pad and self._on_decision is None:
            self._engine = NativeStreamEngine(
                options,
                self._endpoints,
                new_incarnation(),
                prefetch=self._prefetch,
                drop_last=self._drop_last,
                history_length=length_for(self.policy),
                history=before.history.sample(),
                state=self._resume,
                keys=self._keys,
            )
            self._engine.step_to(self._steps)
            if self._claims:
                self._engine.expect_claims()
            return NativeBatchIo(self._engine.link)
        core = before.core = TrainerCore(options, new_incarnation())
        before.step_to(self._steps)
        if self._resume:
            before.restore(self._resume)
        return IoThread("siftd-trainer", self._endpoints, core, before.turn, self._keys)

    def memory_bound(self) -> str:
        """Rows buffered on this rank at most (design rule 6), in words."""
        return (
            f"rank {self._rank} buffers at most {self.batch_size - 1} rows and {self._window} candidate batches of "
            f"each of {self._workers_known()} workers, besides {self._prefetch} assembled batches"
        )

    def _shared_run(self) -> int:
        if self._given_run is not None:
            return self._given_run
        if self._world == 1:
            return time.time_ns()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            box = [time.time_ns()]
            torch.distributed.broadcast_object_list(box, src=0)
            return box[0]
        raise ConfigError("run", None, "one number for all ranks, newer at each start; or initialise torch.distributed")

    # ------------------------------------------------------------ iteration
    def __iter__(self) -> Iterator[Any]:
        self.start()
        self._forget_unclaimed()
        self._epoch_steps, self._epoch_done = self._epoch_done, 0
        while self._steps_per_epoch is None or self._epoch_steps < self._steps_per_epoch:
            batch = self._next_batch()
            if batch is None:
                return
            self._epoch_steps += 1
            yield batch
            self._asks_again(self._engine)

    def _next_batch(self) -> Any:
        began = time.monotonic()
        assert self._io is not None
        engine = self._engine
        while (item := engine.take()) is None:
            self._check(began)
            engine.wait(0.5)
        if engine.took():
            self._io.wake()
        if item.error is not None:
            raise item.error
        if item.flat is None or item.info is None:
            engine.state.epoch_over()
            return None
        self._handed_out(item.info)
        batch = structure.hand_out(item.flat, self._device, self._pin_memory)
        self._left_at = time.monotonic()
        engine.stats.wait_seconds += self._left_at - began
        return batch

    def _check(self, began: float) -> None:
        assert self._io is not None
        if not self._io.alive:
            raise WorkerError(f"siftd's I/O thread ended: {self._io.error}")
        if self._engine.failure:
            raise WorkerError(self._engine.failure)
        if time.monotonic() - began > self._timeout:
            peer, stage = self._engine.waiting_for()
            raise SiftdTimeoutError(
                peer, stage, self._timeout,
                f"Are all {self._loader_count} loaders running? See `siftd status`, or raise timeout=...",
            )  # fmt: skip

    # ------------------------------------------------------------ weights
    def step(self, model: nn.Module | None = None, *, ordinal: int | None = None) -> None:
        """Call on every rank after opt.step(); rank 0 publishes every sync_every steps, in the background.

        `ordinal`: of the newest batch that this step trained; default: all that were handed out.
        """
        self._stepped(self._engine, ordinal)
        if self._weights is not None and self._weights.due(self._steps):
            with self._engine.lock:
                history = self._engine.recent_scores()
                self._engine.stats.model_versions += 1
            trained = self._model if model is None else model
            assert trained is not None
            self._weights.publish(trained, self._steps, history)

    # ------------------------------------------------------------ what it tells
    def stats(self) -> Stats:
        with self._engine.lock:
            self._engine.sync()
            return Stats(**self._engine.stats.__dict__)

    def _outbox(self) -> Outbox | None:
        return self._engine

    def _workers_known(self) -> int:
        return self._engine.workers

    # ------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        """The position: what this rank trained, per loader and pass. Picklable; the batch in hand counts as trained."""
        engine = self._engine
        if self.last_batch_info is not None and not self._claims:
            engine.mark_trained(self.last_batch_info.ordinal)
        with engine.lock:
            epoch_steps = 0 if self._steps_per_epoch is None else self._trained_of_epoch(engine)
        return {
            "schema": STATE_SCHEMA,
            "rank": self._rank,
            "world": self._world,
            "loader_count": self._loader_count,
            "batch_size": self.batch_size,
            "steps": self._steps,
            "epoch_steps": epoch_steps,
            **engine.position(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Before the first batch. {} does nothing. Takes what siftd.gather_state gave, too."""
        if not state:
            return
        state = own_state(state, self._rank, self._world)
        if state.get("schema") != STATE_SCHEMA:
            raise StateError(f"schema is {state.get('schema')!r}; allowed: {STATE_SCHEMA}")
        if self._io is not None:
            raise StateError("load_state_dict comes before the first batch; make a new StreamLoader to go back")
        for name, mine in (
            ("rank", self._rank),
            ("world", self._world),
            ("loader_count", self._loader_count),
            ("batch_size", self.batch_size),
        ):
            if state[name] != mine:
                raise StateError(f"the state was saved with {name} {state[name]}, this loader has {mine}")
        self._resume = state
        self._steps = state["steps"]
        done = state["epoch_steps"]
        self._epoch_done = 0 if self._steps_per_epoch is None or done >= self._steps_per_epoch else done
        assert isinstance(self._engine, StreamEngine)
        self._engine.history = RecentScores(length_for(self.policy), state["history"])

    # ------------------------------------------------------------ end
    def close(self) -> None:
        """Tells the loaders that the run is over and ends. Acks are served for `linger` seconds at most.

        A `with` block that ends by an exception, or a process that just ends, does not say so: the loaders keep what
        was not trained, for the run that resumes.
        """
        if self._closed:
            return
        self._closed = True
        if self._io is not None and self._io.alive:
            if isinstance(self._engine, NativeStreamEngine):
                self._engine.finish(self._linger)
            elif isinstance(self._io, IoThread):
                self._engine.finish(self._linger, self._io)
        self._leave()

    def _leave(self) -> None:
        self._closed = True
        if hasattr(self, "_finalizer"):
            self._finalizer()


def _shut(io: IoThread | NativeBatchIo, publisher: Publisher | None) -> None:
    if publisher is not None:
        publisher.close()
    io.stop()
