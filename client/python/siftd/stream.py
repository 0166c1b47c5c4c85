# SPDX-License-Identifier: Apache-2.0
"""StreamLoader: a trainer rank that is fed by the workers. Loaders are other processes (siftd.CandidateLoader)."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from siftd import _structure
from siftd import policy as policies
from siftd._assembler import Assembler
from siftd._engine import Ready, piece_info
from siftd._history import RecentScores, length_for
from siftd._info import BatchInfo, Piece, Stats
from siftd._ledger import IntervalSet, Ledger
from siftd._publisher import Publisher
from siftd._session import new_incarnation
from siftd._snapshot import Snapshotter, artifact_snapshot
from siftd._state import INFO_FIELDS, load_piece, save_piece
from siftd._trainer_core import EpochMark, TrainerCore, TrainerOptions
from siftd._transport import IoThread
from siftd._wire import wire_pb2
from siftd._wire_tensor import to_torch
from siftd.errors import ConfigError, SiftdTimeoutError, StateError, StructureError, WorkerError
from siftd.export import Loss, Scorer, export_scorer

STATE_SCHEMA = 1
log = logging.getLogger("siftd")


class StreamLoader:
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
      model, loss, example_batch: rank 0 exports and publishes; or give a `scorer` from export_scorer.
      run: run id shared by all ranks, newer at each start; default: the clock (world 1) or broadcast from rank 0
        through torch.distributed where that is initialised.
      window: candidate batches buffered per worker, [1, 1024]. Memory bound: batch_size - 1 + workers x window x the
        largest batch, in rows.
      on_decision: called on a background thread with (scores [n] float32, kept rows [k] int64) of each decision.

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
        pad: Mapping[str, float] | None = None,
        max_staleness_steps: int = 0,
        job: str = "default",
        on_decision: Callable[[Any, Any], None] | None = None,
    ) -> None:
        if isinstance(endpoints, str) or not endpoints:
            raise ConfigError("endpoints", endpoints, "a list with at least one endpoint")
        for name, value, least, most in (
            ("batch_size", batch_size, 1, 1 << 20),
            ("world", world, 1, 65536),
            ("rank", rank, 0, world - 1),
            ("loader_count", loader_count, world, 65536),
            ("window", window, 1, 1024),
            ("prefetch", prefetch, 1, 1024),
            ("sync_every", sync_every, 1, 10**6),
        ):
            if not least <= value <= most:
                raise ConfigError(name, value, f"[{least}, {most}]")
        if world > 1 and steps_per_epoch is None:
            raise ConfigError("steps_per_epoch", None, "given where world > 1, so that all ranks make equal steps")
        if rank == 0 and scorer is None and (model is None or example_batch is None):
            raise ConfigError("model, example_batch", None, "given on rank 0, which publishes; or scorer=...")
        if rank == 0 and model is None:
            raise ConfigError("model", None, "the module in training, on rank 0")
        self._endpoints, self._rank, self._world = list(endpoints), rank, world
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
        self._sync_every, self._steps_per_epoch, self._drop_last = sync_every, steps_per_epoch, drop_last
        self._prefetch, self._device, self._pin_memory = prefetch, device, pin_memory
        self._timeout, self._start_timeout, self._linger = timeout, start_timeout, linger
        self._seed, self._job, self._total_steps = seed, job, total_steps
        self._max_staleness_steps, self._window, self._loader_count = max_staleness_steps, window, loader_count
        self._pad = dict(pad or {})
        self._batch_size, self._on_decision = batch_size, on_decision

        self._lock = threading.Condition()
        self._assembler = Assembler(batch_size, self._pad)  # guarded by _lock, like all below
        self._ready: deque[Ready] = deque()
        self._ledger = Ledger()
        self._history = RecentScores(length_for(self.policy))
        self._stats = Stats()
        self._boundaries: deque[tuple[int, int]] = deque()  # (epoch, rows added when it was complete)
        self._added = 0  # rows, to the assembler
        self._ended_epochs = 0
        self._steps = 0
        self._finishing = False
        self._core: TrainerCore | None = None
        self._io: IoThread | None = None
        self._publisher: Publisher | None = None
        self._snapshotter: Snapshotter | None = None
        self._version = 0
        self._epoch_steps = 0
        self._step_called = False
        self._closed = False
        self._left_at = 0.0
        self._resume: dict[str, Any] = {}
        self._next_pass: dict[int, int] = {}
        self.last_batch_info: BatchInfo | None = None

    # ------------------------------------------------------------ start
    def start(self) -> None:
        """Connects and, on rank 0, publishes the first weights. Called by the first next() if not before."""
        if self._io is not None:
            return
        if self._closed:
            raise WorkerError("this loader was closed")
        self._run = self._shared_run()
        spec = wire_pb2.JobSpec(
            mode=wire_pb2.MODE_SAMPLES,
            policy=self.policy.to_proto(),
            seed=self._seed,
            total_steps=self._total_steps or 0,
            max_staleness_steps=self._max_staleness_steps,
            stale_unsifted=self._max_staleness_steps > 0,
        )
        self._core = TrainerCore(
            TrainerOptions(
                job=self._job,
                name=f"trainer {os.getpid()}",
                run=self._run,
                rank=self._rank,
                world=self._world,
                job_spec=spec,
                batch_size=self._batch_size,
                window=self._window,
                endless=self._steps_per_epoch is not None,
                loaders=self._loader_count,
            ),
            new_incarnation(),
        )
        if self._resume:
            self._restore()
        self._io = IoThread("siftd-trainer", self._endpoints, self._core, self._turn)
        if self._rank == 0:
            assert self._scorer is not None and self._model is not None
            self._snapshotter = Snapshotter(self._scorer.state)
            self._publisher = Publisher(
                self._endpoints, self._job, self._run, artifact_snapshot(self._scorer.archive, self._run)
            )
        self._finalizer = weakref.finalize(self, _shut, self._io, self._publisher)
        if self._publisher is not None:
            self._publish(self._model)
            self._publisher.start()
            if not self._publisher.wait(1, self._start_timeout):
                why = self._publisher.core.failure or "; ".join(self._publisher.core.refusals[-1:])
                self.close()
                if why:
                    raise WorkerError(why)
                raise SiftdTimeoutError(
                    ", ".join(self._endpoints), "taking the first weights", self._start_timeout,
                    "Check with `siftd status ENDPOINT` that workers run there, and their logs",
                )  # fmt: skip
        self._io.start()

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
    def __len__(self) -> int:
        if self._steps_per_epoch is None:
            raise TypeError("the length of a sifted epoch is not known; give steps_per_epoch=... to fix it")
        return self._steps_per_epoch

    def __iter__(self) -> Iterator[Any]:
        self.start()
        self._epoch_steps = 0
        while self._steps_per_epoch is None or self._epoch_steps < self._steps_per_epoch:
            batch = self._next_batch()
            if batch is None:
                return
            self._epoch_steps += 1
            yield batch
            spent = time.monotonic() - self._left_at
            with self._lock:
                self._stats.train_seconds += spent
            if not self._step_called and self.last_batch_info is not None:
                self._mark_trained(self.last_batch_info.ordinal)

    def _mark_trained(self, ordinal: int) -> None:
        with self._lock:
            self._stats.trained += self._ledger.mark_trained(ordinal)

    def _next_batch(self) -> Any:
        began = time.monotonic()
        assert self._io is not None and self._core is not None
        with self._lock:
            while not self._ready:
                self._check(began)
                self._lock.wait(0.5)
            item = self._ready.popleft()
            if item.error is not None:
                raise item.error
            if item.flat is None or item.info is None:
                self._ended_epochs += 1
                return None
            s = self._stats
            s.batches += 1
            s.handed_out += item.flat.rows
            item.info.ordinal = s.batches
            self._ledger.handed_out(s.batches, item.info.keys)
            scored = item.info.model_version > 0
            item.info.staleness = np.where(scored, np.maximum(0, self._steps - item.info.staleness), -1)
            if scored.any():
                s.staleness_sum += float(item.info.staleness[scored].mean())
                s.staleness_max = max(s.staleness_max, int(item.info.staleness.max()))
            now = time.monotonic()
            s.wait_seconds += now - began
        self._io.wake()
        self.last_batch_info = item.info
        flat = item.flat
        if self._pin_memory:
            flat.tensors = {n: t.pin_memory() for n, t in flat.tensors.items()}
        if self._device is not None:
            flat.tensors = {n: t.to(self._device, non_blocking=True) for n, t in flat.tensors.items()}
        self._left_at = time.monotonic()
        return _structure.rebuild(flat)

    def _check(self, began: float) -> None:
        assert self._io is not None and self._core is not None
        if not self._io.alive:
            raise WorkerError(f"siftd's I/O thread ended: {self._io.error}")
        if self._core.failure:
            raise WorkerError(self._core.failure)
        if time.monotonic() - began > self._timeout:
            ended = sorted(i for i, s in self._core.loaders.items() if s.ends)
            stage = f"giving a batch (loaders heard of: {sorted(self._core.loaders)}, at the end of a pass: {ended})"
            raise SiftdTimeoutError(
                f"{self._core.connected} of {len(self._core.sessions)} workers connected", stage, self._timeout,
                f"Are all {self._loader_count} loaders running? See `siftd status`, or raise timeout=...",
            )  # fmt: skip

    # ------------------------------------------------------------ the I/O thread
    def _turn(self, now: float) -> None:
        core = self._core
        assert core is not None
        with self._lock:
            accepted, core.accepted = core.accepted, []
        # Copies rows that are not aligned: not under the lock.
        pieces = [None if isinstance(a, EpochMark) else self._piece(*a) for a in accepted]
        with self._lock:
            for item, piece in zip(accepted, pieces, strict=True):
                if isinstance(item, EpochMark):
                    self._boundaries.append((item.epoch, self._added))
                elif piece is not None:
                    self._accept(item[0], piece)
            core.step = self._steps
            self._stats.duplicates, self._stats.workers = core.duplicates, core.connected
            emptied = self._assemble()
            core.consumed(emptied, self._assembler.rows, now)
            if self._finishing:
                core.finish(now)
            self._stats.ready = len(self._ready)
            if self._ready:
                self._lock.notify_all()

    def _piece(self, m: Any, payload: list[memoryview]) -> Piece:
        tensors = {d.name: to_torch(d, payload) for d in m.tensor}
        key = ((m.key.loader, getattr(m.key, "pass")), m.key.seq)
        rows = len(m.decision.kept)
        flat = _structure.Flat(_structure.spec_of(list(tensors)), rows, tensors, {}, {})
        kept = np.asarray(m.decision.kept, np.int64)
        return Piece(key, flat, piece_info(np.asarray(m.sample_id, np.uint64), kept, m.decision, m.epoch))

    def _accept(self, m: Any, piece: Piece) -> None:
        d, s = m.decision, self._stats
        s.candidates += d.rows
        s.decided += d.rows
        s.kept += len(d.kept)
        s.dropped += d.rows - len(d.kept)
        s.verdicts += 1
        if d.outcome == wire_pb2.OUTCOME_REJECTED:
            s.rejected_batches += 1
            self._warn_rejected(d.text)
        elif d.outcome == wire_pb2.OUTCOME_UNSIFTED:
            s.unsifted += d.rows
        if d.score_seconds > 0:
            s.score_seconds += d.score_seconds
            s.scored_rows += d.rows
        if d.score:
            scores = np.asarray(d.score, np.float32)
            self._history.add(scores)
            if self._on_decision is not None:
                self._on_decision(scores, np.asarray(d.kept, np.int64))
        self._ledger.decided(piece.key, piece.flat.rows)
        self._assembler.add(piece)
        self._added += piece.flat.rows

    def _warn_rejected(self, text: str) -> None:
        if self._stats.rejected_batches == 1:
            log.warning("siftd: a worker rejected a batch, which is not trained: %s", text)

    def _assemble(self) -> list[tuple[int, int, int]]:
        """Batches while there is room; none reaches over the end of an epoch. Keys that left the buffer."""
        before = {p[0] for p in self._assembler.unhanded()}
        try:
            while len(self._ready) < self._prefetch and self._make_one():
                pass
        except StructureError as error:
            self._ready.append(Ready(None, error=error))
        after = {p[0] for p in self._assembler.unhanded()}
        return [(key[0][0], key[0][1], key[1]) for key in before - after]

    def _make_one(self) -> bool:
        """A full batch, the remainder of an epoch, or its end. False: neither is due."""
        taken = self._added - self._assembler.rows
        rows = self._batch_size
        if self._boundaries:
            epoch, at = self._boundaries[0]
            left = at - taken
            if left < rows and (self._drop_last or left <= 0):
                self._boundaries.popleft()
                self._ready.append(Ready(None, end_of=epoch))
                return True
            rows = min(rows, left)
        if self._assembler.rows < rows:
            return False
        self._ready.append(Ready(*self._assembler.take(rows)))
        return True

    # ------------------------------------------------------------ weights
    def step(self, model: nn.Module | None = None) -> None:
        """Call on every rank after opt.step(); rank 0 publishes every sync_every steps, in the background."""
        self._steps += 1
        self._step_called = True
        self._stats.steps = self._steps
        if self.last_batch_info is not None:
            self._mark_trained(self.last_batch_info.ordinal)
        if self._publisher is not None:
            self._publisher.step = self._steps
            if self._steps % self._sync_every == 0:
                self._publish(self._model if model is None else model)

    def _publish(self, model: nn.Module | None) -> None:
        assert self._snapshotter is not None and self._publisher is not None and model is not None
        self._version += 1
        self._stats.model_versions = self._version
        snapshot = self._snapshotter.take(model, self._run, self._version, self._steps)
        with self._lock:
            snapshot.begin.history.extend(self._history.sample())
        self._publisher.offer(snapshot)

    # ------------------------------------------------------------ what it tells
    def stats(self) -> Stats:
        with self._lock:
            return Stats(**self._stats.__dict__)

    def progress_line(self) -> str:
        s = self.stats()
        wait = 1e3 * s.wait_seconds / max(1, s.batches)
        return (
            f"kept {s.keep_fraction:5.1%}  model v{s.model_versions}  stale {s.staleness:4.1f}  "
            f"wait {wait:5.2f} ms/step"
        )

    # ------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        """The position: what this rank trained, per loader and pass. Picklable; the batch in hand counts as trained."""
        with self._lock:
            if self.last_batch_info is not None:
                self._stats.trained += self._ledger.mark_trained(self.last_batch_info.ordinal)
            # A pass is behind us once its end was handed out; until then its trained keys are told one by one.
            next_pass = dict(self._next_pass)
            if self._core is not None:
                for index, state in self._core.loaders.items():
                    number = state.next_pass
                    while number > next_pass.get(index, 0) and self._pending_of(index, number - 1):
                        number -= 1
                    next_pass[index] = number
            trained: dict[str, dict[str, list[list[int]]]] = {}
            for (index, number), intervals in self._ledger.trained.items():
                if number >= next_pass.get(index, 0):
                    trained.setdefault(str(index), {})[str(number)] = intervals.pairs()
            return {
                "schema": STATE_SCHEMA,
                "rank": self._rank,
                "world": self._world,
                "loader_count": self._loader_count,
                "batch_size": self._batch_size,
                "steps": self._steps,
                "next_pass": {str(k): v for k, v in next_pass.items()},
                "trained": trained,
                "half": self._half_trained(),
                "history": self._history.sample(),
            }

    def _pending_of(self, index: int, number: int) -> bool:
        """Rows of this pass wait to be handed out. REQUIRES: the lock."""
        waiting = [p[0][0] for p in self._assembler.unhanded()]
        waiting += [k[0] for r in self._ready if r.info is not None for k in r.info.keys]
        return (index, number) in waiting

    def _half_trained(self) -> dict[str, Any] | None:
        if self.last_batch_info is None:
            return None
        where, seq, _ = self.last_batch_info.keys[-1]
        if self._ledger.untrained_of((where, seq)) == 0:
            return None
        flats, infos = [], []
        for item in self._ready:
            if item.flat is None or item.info is None:
                continue
            at = 0
            for w, s, rows in item.info.keys:
                if (w, s) == (where, seq):
                    flats.append(item.flat.slice(at, at + rows))
                    infos.append({n: getattr(item.info, n)[at : at + rows] for n in INFO_FIELDS})
                at += rows
        for key, _, flat, info in self._assembler.unhanded():
            if key == (where, seq):
                flats.append(flat)
                infos.append(info)
        return save_piece((where, seq), list(zip(flats, infos, strict=True)), self._pad)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Before the first batch. {} does nothing."""
        if not state:
            return
        if state.get("schema") != STATE_SCHEMA:
            raise StateError(f"schema is {state.get('schema')!r}; allowed: {STATE_SCHEMA}")
        if self._io is not None:
            raise StateError("load_state_dict comes before the first batch; make a new StreamLoader to go back")
        for name, mine in (
            ("rank", self._rank),
            ("world", self._world),
            ("loader_count", self._loader_count),
            ("batch_size", self._batch_size),
        ):
            if state[name] != mine:
                raise StateError(f"the state was saved with {name} {state[name]}, this loader has {mine}")
        self._resume = state
        self._steps = state["steps"]
        self._history = RecentScores(length_for(self.policy), state.get("history", ()))

    def _restore(self) -> None:
        assert self._core is not None
        state = self._resume
        self._next_pass = {int(k): v for k, v in state["next_pass"].items()}
        passes = {int(i): {int(n): pairs for n, pairs in by_pass.items()} for i, by_pass in state["trained"].items()}
        half = state["half"]
        for index, by_pass in passes.items():
            for number, pairs in by_pass.items():
                for begin, end in pairs:
                    for seq in range(begin, end):
                        self._ledger.decided(((index, number), seq), 0)
        if half is not None:
            piece = load_piece(half)
            (index, number), seq = piece.key
            self._ledger.decided(piece.key, piece.flat.rows)
            self._assembler.add(piece)
            self._added += piece.flat.rows
            # Decided, so that it is not sent again; its rows are the state's.
            merged = IntervalSet(passes.setdefault(index, {}).get(number, []))
            merged.add(seq)
            passes[index][number] = merged.pairs()
        self._core.restore(self._next_pass, passes, 0)

    # ------------------------------------------------------------ end
    def close(self) -> None:
        """Tells the loaders that the run is over and ends. Acks are served for `linger` seconds at most."""
        if self._closed:
            return
        self._closed = True
        if self._io is not None and self._io.alive:
            self._finishing = True
            self._io.wake()
            self._serve_until_loaders_left()
        if hasattr(self, "_finalizer"):
            self._finalizer()

    def _serve_until_loaders_left(self) -> None:
        """Rule 10: acks and credit go on until nothing new comes for a heartbeat."""
        deadline = time.monotonic() + self._linger
        assert self._core is not None and self._io is not None
        quiet_since, seen = time.monotonic(), -1
        while time.monotonic() < deadline and self._io.alive:
            with self._lock:
                count = self._core.decided + self._core.duplicates
                if count != seen:
                    quiet_since, seen = time.monotonic(), count
                if time.monotonic() - quiet_since > 1.0:
                    return
                self._ready.clear()  # room for what still comes
                self._lock.wait(0.1)
            self._io.wake()

    def __enter__(self) -> StreamLoader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _shut(io: IoThread, publisher: Publisher | None) -> None:
    if publisher is not None:
        publisher.close()
    io.stop()
