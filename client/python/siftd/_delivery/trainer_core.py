# SPDX-License-Identifier: Apache-2.0
"""TrainerCore: a trainer rank's side of the delivery rules in SAMPLES mode. Pure; one thread, the I/O thread.

Accepts each key once, acks to every session that delivered it, grants credit, answers positions, keeps epochs apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from siftd._delivery.client_core import ClientCore
from siftd._delivery.kept_counts import KeptCounts
from siftd._delivery.ledger import IntervalSet
from siftd._net.transport import Actions
from siftd._wire.codec import wire_pb2

FullKey = tuple[int, int, int]  # (loader, pass, seq)


@dataclass
class TrainerOptions:
    job: str
    name: str
    run: int
    rank: int
    world: int
    job_spec: Any
    batch_size: int
    window: int = 2  # batches per session
    max_batch_bytes: int = 64 << 20
    endless: bool = False  # an epoch is a number of steps: passes mix
    loaders: int = 0  # world 1: how many must end an epoch; 0 = as many as were heard of


@dataclass(frozen=True)
class EpochMark:
    """Every row of this epoch was accepted before."""

    epoch: int


@dataclass
class _Grant:
    """Credit of one session, the receiving half (rule 6)."""

    granted: int = 0
    granted_bytes: int = 0
    received: int = 0
    received_bytes: int = 0


@dataclass
class _PassEnd:
    epoch: int
    batches: int
    final: bool
    acked: bool = False


@dataclass
class _LoaderState:
    passes: dict[int, IntervalSet] = field(default_factory=dict)  # decided seq by pass
    ends: dict[int, _PassEnd] = field(default_factory=dict)
    next_pass: int = 0  # a lower one is closed


class TrainerCore(ClientCore):
    def __init__(self, options: TrainerOptions, incarnation: int) -> None:
        super().__init__(incarnation)
        self.options = options
        self.run = options.run
        # Selected and payload, and in world 1 a mark where an epoch is complete; in order, for the owner to take.
        self.accepted: list[tuple[Any, list[memoryview]] | EpochMark] = []
        self.loaders: dict[int, _LoaderState] = defaultdict(_LoaderState)
        self.duplicates = 0
        self.decided = 0
        self.rows = 0  # buffered by the owner
        self.final = False  # all loaders ended their last pass
        self._grants: list[_Grant] = []
        self._kept = KeptCounts()
        self._buffered: Counter[int] = Counter()  # batches held by the owner, by the worker they came from
        self._source: dict[FullKey, int] = {}
        self._epoch = 0  # world 1: the one in progress
        self._finished = False
        self._starving = True  # rows do not make a batch; as it was at the last grants
        self._joint: dict[tuple[int, Any], Any] = {}  # by worker and class: messages in _joint_in that more may join
        self._joint_in: Actions | None = None

    # ------------------------------------------------------------ the owner
    def consumed(self, keys: list[FullKey], rows: int, now: float) -> None:
        """All rows of `keys` were handed out; the owner holds `rows` now."""
        self.rows = rows
        workers = set()
        for key in keys:
            worker = self._source.pop(key, None)
            if worker is not None:
                self._buffered[worker] -= 1
                workers.add(worker)
        was, self._starving = self._starving, self.rows < self.options.batch_size
        # Who has its window, or was let in while this rank starved, has it still.
        for worker in range(len(self.sessions)) if self._starving and not was else workers:
            self._grant(worker, now)

    def finish(self, now: float) -> None:
        """The run is over: the loaders are told through the workers. Acks go on."""
        if not self._finished:
            self._finished = True
            self.say_goodbye(wire_pb2.GOODBYE_DONE, self.options.run, now)

    def _grant(self, worker: int, now: float) -> None:
        """Rule 6: the window less what is buffered; at least one to each session while a batch can't be filled."""
        if not self.sessions[worker].open:
            return
        g = self._grants[worker]
        allow = max(self.options.window - self._buffered[worker], 1 if self._starving else 0)
        if g.received + allow > g.granted:
            g.granted = g.received + allow
            g.granted_bytes = max(g.granted_bytes, g.received_bytes + allow * self.options.max_batch_bytes)
            credit = self._joined(worker, wire_pb2.Credit, now)
            credit.batches, credit.bytes = g.granted, g.granted_bytes

    def is_decided(self, key: FullKey) -> bool:
        state = self.loaders[key[0]]
        return key[1] < state.next_pass or (key[1] in state.passes and key[2] in state.passes[key[1]])

    def decided_set(self, loader: int | None = None) -> Any:
        """The wire's Decided, of one loader or of all."""
        out = wire_pb2.Decided()
        top = max(self.loaders, default=-1)
        for index in range(top + 1):
            state = self.loaders.get(index)
            out.next_pass.append(0 if state is None else state.next_pass)
            if state is None or (loader is not None and index != loader):
                continue
            for number in sorted(state.passes):
                for begin, end in state.passes[number].pairs():
                    out.loader.append(index)
                    getattr(out, "pass").append(number)
                    out.begin.append(begin)
                    out.end.append(end)
        return out

    def restore(self, next_pass: dict[int, int], passes: dict[int, dict[int, list[list[int]]]], epoch: int) -> None:
        for index, number in next_pass.items():
            self.loaders[index].next_pass = number
        for index, by_pass in passes.items():
            self.loaders[index].passes = {n: IntervalSet(pairs) for n, pairs in by_pass.items()}
        self._epoch = epoch

    # ------------------------------------------------------------ the role
    def make_hello(self) -> Any:
        o = self.options
        hello = wire_pb2.Hello(
            role=wire_pb2.ROLE_TRAINER, job=o.job, name=o.name, run=o.run, rank=o.rank, world=o.world
        )
        hello.job_spec.CopyFrom(o.job_spec)
        hello.decided.CopyFrom(self.decided_set())
        return hello

    def heartbeat(self) -> Any:
        return wire_pb2.Heartbeat(run=self.options.run, step=self.step, decided=self.decided)

    def add_worker(self, now: float, name: str = "") -> None:
        super().add_worker(now, name)
        self._grants.append(_Grant())

    def on_open(self, worker: int, died: bool, now: float) -> None:
        self._grants[worker] = _Grant()
        if self._finished:
            self.send(worker, wire_pb2.Goodbye(reason=wire_pb2.GOODBYE_DONE, run=self.options.run), (), now)
        self._grant(worker, now)

    def on_lost(self, worker: int, now: float) -> None:
        self._grants[worker] = _Grant()
        self._joint_in = None  # the next session has messages of its own

    def on_role_message(self, worker: int, message: Any, payload: list[memoryview], now: float) -> None:
        if getattr(message, "run", self.options.run) != self.options.run:
            return
        match message:
            case wire_pb2.Selected():
                self._on_selected(worker, message, payload, now)
            case wire_pb2.EpochEnd():
                self._on_end(worker, message, now)
            case wire_pb2.PositionRequest():
                position = wire_pb2.Position(
                    run=self.options.run,
                    loader=message.loader,
                    decided=self.decided_set(message.loader),
                    world=self.options.world,
                    repeat=self.options.endless,
                )
                self.send(worker, position, (), now)

    def _on_selected(self, worker: int, m: Any, payload: list[memoryview], now: float) -> None:
        g = self._grants[worker]
        allowed = g.received < g.granted and g.received_bytes < g.granted_bytes
        g.received += 1
        g.received_bytes += sum(p.nbytes for p in payload)
        if not allowed:  # it could fill the memory
            self.lose(worker, "it sent rows without credit", now)
            return
        key = (m.key.loader, getattr(m.key, "pass"), m.key.seq)
        if self.is_decided(key):  # rule 5: dropped whole, acked with the count that took effect
            self.duplicates += 1
            kept = self._kept.get(key)
        else:
            kept = len(m.decision.kept)
            state = self.loaders[key[0]]
            state.passes.setdefault(key[1], IntervalSet()).add(key[2])
            self._kept.set(key, kept)
            self.decided += 1
            if kept > 0:
                self.rows += kept
                self._buffered[worker] += 1
                self._source[key] = worker
            self.accepted.append((m, payload))
            if state.ends:
                self._close_passes(now)
        ack = self._joined(worker, wire_pb2.Ack, now)
        ack.run = self.options.run
        ack.kept.append(kept)
        keys = ack.keys
        keys.loader.append(key[0])
        getattr(keys, "pass").append(key[1])
        keys.seq.append(key[2])
        self._starving = self.rows < self.options.batch_size
        self._grant(worker, now)

    def _joined(self, worker: int, cls: Any, now: float) -> Any:
        """The worker's one Ack or Credit of what happens until the I/O thread takes the actions."""
        if self._joint_in is not self.actions:
            self._joint_in = self.actions
            self._joint.clear()
        message = self._joint.get((worker, cls))
        if message is None:
            message = self._joint[worker, cls] = cls()
            self.send(worker, message, (), now)
        return message

    def _on_end(self, worker: int, m: Any, now: float) -> None:
        number, state = getattr(m, "pass"), self.loaders[m.loader]
        if number >= state.next_pass and number not in state.ends:
            state.ends[number] = _PassEnd(m.epoch, m.batches, m.final)
        self._close_passes(now)
        end = state.ends.get(number)
        # World 1: acked when the whole epoch is complete. Else at once, passes may mix.
        if number < state.next_pass or self.options.endless or (end is not None and end.acked):
            self._ack_end(worker, m.loader, number, now)

    def _ack_end(self, worker: int, loader: int, number: int, now: float) -> None:
        ack = wire_pb2.EpochAck(run=self.options.run, loader=loader)
        setattr(ack, "pass", number)
        self.send(worker, ack, (), now)

    def _mine(self) -> list[int]:
        """Loaders that feed this rank."""
        o = self.options
        return list(range(o.rank, o.loaders, o.world)) if o.loaders else sorted(self.loaders)

    def _close_passes(self, now: float) -> None:
        """Rule 8. World 1: an epoch is complete when all loaders ended it and every key of theirs is decided."""
        while True:
            ready = []
            for index in self._mine():
                state = self.loaders[index]
                number = state.next_pass
                end = state.ends.get(number)
                if end is None or len(state.passes.get(number, ())) < end.batches:
                    if not self.options.endless:
                        return
                    continue
                ready.append((index, number, end))
            if not ready:
                return
            for index, number, _end in ready:
                state = self.loaders[index]
                state.next_pass = number + 1
                state.passes.pop(number, None)
                state.ends.pop(number)
                for worker, session in enumerate(self.sessions):
                    if session.open:
                        self._ack_end(worker, index, number, now)
            if not self.options.endless:
                self.final = self.final or all(end.final for _, _, end in ready)
                self.accepted.append(EpochMark(ready[0][2].epoch))
