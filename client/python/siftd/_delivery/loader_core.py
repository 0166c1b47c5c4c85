# SPDX-License-Identifier: Apache-2.0
"""LoaderCore: a loader's side of the delivery rules in both modes: leases, credit, resending. Pure; one thread."""

from __future__ import annotations

import bisect
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from siftd._delivery.client_core import ClientCore
from siftd._delivery.score_cache import ScoreCache
from siftd._wire.codec import wire_pb2

PENDING_MOST = 2  # batches that wait for credit, for owners that offer while there is room
CAREFUL_AGAIN = 0.05  # seconds until a suspect is tried again at a worker that has another one
CLOSED_MOST = 4096  # leases given up whose verdicts are still waited for, to be timed

Key = tuple[int, int]  # (pass, seq); the loader index is this process's


@dataclass
class Lease:
    """A candidate batch that this loader answers for until it is settled."""

    key: Key
    epoch: int
    sample_ids: Sequence[int]
    tensors: list[Any]  # TensorDesc
    payload: Sequence[Any]
    occurrence: Sequence[int] = ()
    nbytes: int = 0
    prior: Any = ()  # float32 [n] or empty: scores of earlier visits, NaN = score it
    attempt: int = 0
    worker: int = -1  # where it is; -1 = to be sent
    sent_at: float = 0.0
    suspect: bool = False
    unscored: bool = False
    deaths_alone: int = 0
    version: int = 0  # of the model, that is to decide it; 0 = any
    step: int = 0  # with a version: the trainer's step that the decision sees
    context: Any = None  # the owner's


@dataclass
class Verdicted:
    """A lease that a verdict settled."""

    lease: Lease
    decision: Any
    seconds: float  # from sending to the verdict
    worker: int


@dataclass
class _Account:
    """Credit of one session, the sending half (rule 6)."""

    granted_batches: int = 0
    granted_bytes: int = 0
    sent_batches: int = 0
    sent_bytes: int = 0
    said_done: bool = False  # in this session; all its Settled came before

    @property
    def free(self) -> int:
        if self.sent_bytes >= self.granted_bytes:
            return 0
        return self.granted_batches - self.sent_batches


@dataclass
class LoaderOptions:
    mode: int
    job: str = "default"
    name: str = ""
    index: int = 0
    count: int = 1
    run: int = 0  # VERDICTS: this process's own
    job_spec: Any = None  # VERDICTS
    signature: list[Any] = field(default_factory=list)  # TensorSpec
    max_batch_bytes: int = 0
    data_size: int = 0
    batch_size: int = 0
    seed: int = 0
    rescore_every: int = 1  # a sample is scored on every n-th visit, and decided by its last score in between


class LoaderCore(ClientCore):
    def __init__(self, options: LoaderOptions, incarnation: int) -> None:
        super().__init__(incarnation)
        self.options = options
        self.run = options.run
        self.pending: deque[Lease] = deque()  # to be sent, by key
        self.leases: dict[Key, Lease] = {}  # sent
        self.verdicts: list[Verdicted] = []  # VERDICTS: for the owner to take
        self.settled: list[tuple[Lease, int]] = []  # SAMPLES: lease, rows kept; for the owner to take
        self.late_seconds: list[float] = []  # ages of verdicts on leases that were closed; for the owner to take
        self.position: Any = None  # SAMPLES: newest Position of a new run; for the owner to take
        self.done = False  # the trainers of this run said so
        self._done_run = 0  # newest run that is said to be done
        self.acked_ends: set[int] = set()  # SAMPLES: passes whose end was acked
        self.duplicates = 0
        self._closed: dict[Key, float] = {}  # given up while out: when they were sent
        self._accounts: list[_Account] = []
        self._ends: dict[int, Any] = {}  # SAMPLES: EpochEnd by pass, until acked
        self._held_at_loss: dict[int, list[Key]] = {}  # by worker
        self._careful = False  # there are suspects
        self._careful_again = 0.0  # none is sent before
        self._scores = ScoreCache(options.rescore_every, options.data_size)

    # ------------------------------------------------------------ the owner
    def offer(self, lease: Lease, now: float) -> None:
        """Takes a batch on as a lease and sends it as soon as a worker has credit."""
        lease.prior = self._scores.visit(lease.sample_ids)
        self.pending.append(lease)
        self.pump(now)

    @property
    def _verdicts(self) -> bool:
        """The mode; what belongs to the other one is dropped."""
        return bool(self.options.mode == wire_pb2.MODE_VERDICTS)

    @property
    def outstanding(self) -> int:
        return len(self.pending) + len(self.leases)

    @property
    def has_room(self) -> bool:
        return len(self.pending) < PENDING_MOST

    def undecided(self) -> list[Lease]:
        return [*self.pending, *self.leases.values()]

    @property
    def told(self) -> bool:
        """The run is done, and no worker that is there still owes a Settled."""
        return self.done and all(self._accounts[lease.worker].said_done for lease in self.leases.values())

    def oldest(self) -> Lease | None:
        """The undecided lease with the lowest key."""
        out = min(self.leases, default=None)
        waiting = self.pending[0] if self.pending else None
        if out is None or (waiting is not None and waiting.key < out):
            return waiting
        return self.leases[out]

    def close_lease(self, lease: Lease) -> None:
        """VERDICTS: the batch was handed out unsifted; a verdict on it is only timed."""
        if self.leases.pop(lease.key, None) is not None:
            self._closed[lease.key] = lease.sent_at
            while len(self._closed) > CLOSED_MOST:  # verdicts that a dead worker owes never come
                self._closed.pop(next(iter(self._closed)))
        else:
            self.pending.remove(lease)

    def may_have_sent(self, lease: Lease) -> bool:
        """Its tensors may still be read."""
        return lease.worker >= 0 or lease.attempt > 0

    def cancel(self) -> int:
        """VERDICTS: gives up all leases; their number."""
        count = self.outstanding
        self._closed.update({k: lease.sent_at for k, lease in self.leases.items()})
        self.leases.clear()
        self.pending.clear()
        return count

    def end_pass(self, number: int, epoch: int, batches: int, final: bool, now: float) -> None:
        """SAMPLES: all batches of the pass were offered. The end is held like a lease until it is acked."""
        self._ends[number] = wire_pb2.EpochEnd(
            run=self.run, loader=self.options.index, epoch=epoch, batches=batches, final=final
        )
        setattr(self._ends[number], "pass", number)
        for worker, session in enumerate(self.sessions):
            if session.open:
                self.send(worker, _copy(self._ends[number]), (), now)

    @property
    def free_credit(self) -> int:
        return sum(a.free for a, s in zip(self._accounts, self.sessions, strict=True) if s.open)

    # ------------------------------------------------------------ the role
    def make_hello(self) -> Any:
        o = self.options
        hello = wire_pb2.Hello(
            role=wire_pb2.ROLE_LOADER,
            job=o.job,
            name=o.name,
            run=o.run,
            loader_index=o.index,
            loader_count=o.count,
            signature=o.signature,
            max_batch_bytes=o.max_batch_bytes,
        )
        hello.fingerprint.data_size = o.data_size
        hello.fingerprint.batch_size = o.batch_size
        hello.fingerprint.seed = o.seed
        if o.job_spec is not None:
            hello.job_spec.CopyFrom(o.job_spec)
        return hello

    def add_worker(self, now: float, name: str = "") -> None:
        super().add_worker(now, name)
        self._accounts.append(_Account())

    def heartbeat(self) -> Any:
        return wire_pb2.Heartbeat(run=self.run, step=self.step)

    def on_open(self, worker: int, died: bool, now: float) -> None:
        self._accounts[worker] = _Account()
        held = self._held_at_loss.pop(worker, [])
        if died:
            self._suspect(held)
        for end in self._ends.values():
            self.send(worker, _copy(end), (), now)
        self.pump(now)

    def on_lost(self, worker: int, now: float) -> None:
        self._accounts[worker] = _Account()
        held = [lease for lease in self.leases.values() if lease.worker == worker]
        self._held_at_loss[worker] = [lease.key for lease in held]
        self._take_back(held)
        self.pump(now)

    def on_time(self, now: float) -> None:
        if self._careful:
            self.pump(now)

    def _suspect(self, keys: list[Key]) -> None:
        """Rule 11: batches held when a worker died are scored alone; two deaths alone, and they are not scored."""
        for lease in [*self.pending, *self.leases.values()]:
            if lease.key not in keys:
                continue
            if lease.suspect:
                lease.deaths_alone += 1
            lease.suspect = self._careful = True
            if lease.deaths_alone >= 2 and not lease.unscored:
                lease.unscored = True
                self.actions.log.append(f"batch {lease.key} killed its worker twice: it is passed on unscored")

    def _take_back(self, leases: list[Lease]) -> None:
        for lease in leases:
            self.leases.pop(lease.key, None)
            lease.worker = -1
            lease.attempt += 1
            at = bisect.bisect_left([p.key for p in self.pending], lease.key)
            self.pending.insert(at, lease)

    def pump(self, now: float) -> None:
        """Sends what credit allows, oldest first, to the worker with most credit left; suspects alone (rule 11)."""
        while self.pending:
            lease, best = self._choose(now)
            if lease is None or best < 0:
                return
            self.pending.remove(lease)  # nearly always the first
            self.leases[lease.key] = lease
            lease.worker, lease.sent_at = best, now
            account = self._accounts[best]
            account.sent_batches += 1
            account.sent_bytes += lease.nbytes
            message = wire_pb2.Candidates(
                run=self.run,
                epoch=lease.epoch,
                attempt=lease.attempt,
                sample_id=lease.sample_ids,
                occurrence=lease.occurrence,
                # Relaying it killed a worker, too: without its tensors it is rejected, and decided all the same.
                tensor=() if lease.deaths_alone > 2 else lease.tensors,
                prior_score=np.asarray(lease.prior).tolist(),
                trainer_step=lease.step if lease.version else self.step,
                required_version=lease.version,
                suspect=lease.suspect,
                unscored=lease.unscored,
            )
            _set_key(message.key, self.options.index, lease.key)
            self.send(best, message, () if lease.deaths_alone > 2 else lease.payload, now)

    def _choose(self, now: float) -> tuple[Lease | None, int]:
        if not self._careful:
            return self.pending[0], self._best_worker(-1)
        out = Counter(lease.worker for lease in self.leases.values())
        alone = next((lease for lease in self.leases.values() if lease.suspect), None)
        reserved = -1 if alone is None else alone.worker
        waiting = next((lease for lease in self.pending if lease.suspect), None)
        self._careful = alone is not None or waiting is not None
        if alone is None and waiting is not None:
            usable = [w for w, session in enumerate(self.sessions) if session.open]
            reserved = min(usable, key=lambda w: out[w], default=-1)
            idle = reserved >= 0 and out[reserved] == 0 and self._accounts[reserved].free > 0
            if idle and now >= self._careful_again:
                return waiting, reserved
        # The reserved worker runs dry for the suspect, or holds it; the others go on.
        return next((lease for lease in self.pending if not lease.suspect), None), self._best_worker(reserved)

    def _best_worker(self, reserved: int) -> int:
        best, most = -1, 0
        for worker, account in enumerate(self._accounts):
            if worker != reserved and self.sessions[worker].open and account.free > most:
                best, most = worker, account.free
        return best

    def on_role_message(self, worker: int, message: Any, payload: list[memoryview], now: float) -> None:
        match message:
            case wire_pb2.Credit():
                account = self._accounts[worker]
                account.granted_batches = max(account.granted_batches, message.batches)
                account.granted_bytes = max(account.granted_bytes, message.bytes)
                self.pump(now)
            case wire_pb2.Verdict() if message.run == self.run and self._verdicts:
                self._on_verdict(worker, message, now)
                self.pump(now)
            case wire_pb2.Settled() if message.run == self.run and not self._verdicts:
                for key, kept, scores in _settled(message, self.options.index):
                    if (lease := self._forget(key)) is not None:
                        self._scores.take(lease.sample_ids, lease.prior, scores)
                        self.settled.append((lease, kept))
                self.pump(now)
            case wire_pb2.Return() if message.run == self.run:
                keys = {k for i, k in _keys(message.keys) if i == self.options.index}
                self._take_back([self.leases[k] for k in keys if k in self.leases and self.leases[k].worker == worker])
                if message.reason == wire_pb2.RETURN_LANE_HUNG:  # the worker has another loader's suspect
                    self._careful_again = now + CAREFUL_AGAIN
                self.pump(now)
            case wire_pb2.EpochAck() if message.run == self.run and not self._verdicts:
                number = getattr(message, "pass")
                if self._ends.pop(number, None) is not None:
                    self.acked_ends.add(number)
            case wire_pb2.Position() if message.run > self.run and not self._verdicts:
                if message.loader == self.options.index:
                    self._begin_run(message)
            case wire_pb2.Goodbye() if message.reason == wire_pb2.GOODBYE_DONE:
                self._done_run = max(self._done_run, message.run)
                self._accounts[worker].said_done |= message.run >= self.run
                # Without a position it is the end of a job before this one, which the workers still remember.
                self.done = self.run != 0 and self._done_run >= self.run

    def _begin_run(self, position: Any) -> None:
        """Rule 9: everything of the run before is void; the owner rewinds."""
        self.run = position.run
        self.position = position
        self.leases.clear()
        self.pending.clear()
        self._ends.clear()
        self.acked_ends.clear()
        self.done = self._done_run >= self.run

    def _on_verdict(self, worker: int, message: Any, now: float) -> None:
        key = (getattr(message.key, "pass"), message.key.seq)
        lease = self._forget(key) if message.key.loader == self.options.index else None
        if lease is not None and message.decision.rows != len(lease.sample_ids):
            self._take_back([lease])
            rows = f"decided {message.decision.rows} rows of batch {key}, which has {len(lease.sample_ids)}"
            self.lose(worker, rows, now)
        elif lease is not None:
            self._scores.take(lease.sample_ids, lease.prior, np.asarray(message.decision.score, np.float32))
            self.verdicts.append(Verdicted(lease, message.decision, now - lease.sent_at, worker))
        elif key in self._closed and message.key.loader == self.options.index:
            self.late_seconds.append(now - self._closed.pop(key))
        else:
            self.duplicates += 1

    def _forget(self, key: Key) -> Lease | None:
        lease = self.leases.pop(key, None)
        if lease is None:  # taken back, and decided by the worker that had it before
            for waiting in self.pending:
                if waiting.key == key:
                    self.pending.remove(waiting)
                    return waiting
        return lease


def _copy(end: Any) -> Any:
    copy = wire_pb2.EpochEnd()
    copy.CopyFrom(end)
    return copy


def _set_key(key: Any, loader: int, at: Key) -> None:
    key.loader = loader
    setattr(key, "pass", at[0])
    key.seq = at[1]


def _keys(keys: Any) -> list[tuple[int, Key]]:
    """Loader and key of each."""
    return list(zip(keys.loader, zip(getattr(keys, "pass"), keys.seq, strict=True), strict=True))


def _settled(message: Any, index: int) -> Iterator[tuple[Key, int, Any]]:
    """Key, rows kept, scores float32 of each of loader `index`."""
    scores, at = np.asarray(message.score, np.float32), 0
    for i, (loader, key) in enumerate(_keys(message.keys)):
        rows = message.rows[i] if message.rows else 0
        if loader == index:
            yield key, message.kept[i], scores[at : at + rows]
        at += rows
