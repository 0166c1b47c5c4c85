# SPDX-License-Identifier: Apache-2.0
"""What the cores of loader, trainer and publisher share: sessions to all workers, heartbeats, failures. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from siftd._delivery.session import ClientSession, State
from siftd._net.transport import Actions
from siftd._wire.codec import wire_pb2

_SESSION_ERRORS = frozenset(
    {
        wire_pb2.HELLO_REQUIRED,
        wire_pb2.SUPERSEDED,
        wire_pb2.PROTOCOL_VERSION,
        wire_pb2.JOB_MISMATCH,
        wire_pb2.RUN_OBSOLETE,
        wire_pb2.CREDIT_EXCEEDED,
        wire_pb2.DRAINING,
        wire_pb2.BUDGET_TOO_SMALL,
    }
)


class ClientCore:
    """Base of the cores. One thread, the I/O thread, makes every call."""

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.actions = Actions()
        self.sessions: list[ClientSession] = []
        self.names: list[str] = []  # how texts call the workers
        self.failure = ""  # nothing more will happen with any worker
        self.run = 0
        self.step = 0
        self._left = False
        self.errors: list[str] = []  # told by workers, newest last

    # What a role fills in.
    def make_hello(self) -> Any:
        raise TypeError("a role's")

    def heartbeat(self) -> Any:
        return wire_pb2.Heartbeat(step=self.step)

    def on_open(self, worker: int, died: bool, now: float) -> None:
        """A session came into force. `died`: the worker is a new process, and the old one did not drain."""

    def on_lost(self, worker: int, now: float) -> None:
        """A session that was in force is over."""

    def on_role_message(self, worker: int, message: Any, payload: list[memoryview], now: float) -> None:
        """A message of the session in force."""

    def on_time(self, now: float) -> None:
        """Each tick, after the sessions."""

    # Common.
    def add_worker(self, now: float, name: str = "") -> None:
        self.sessions.append(ClientSession(self.incarnation, now))
        self.names.append(name or f"worker {len(self.names)}")

    def send(self, worker: int, message: Any, payload: Sequence[Any], now: float) -> None:
        session = self.sessions[worker]
        message.session.CopyFrom(session.id())
        session.sent = now
        self.actions.sends.append((worker, message, payload))

    def _hello(self, worker: int, now: float) -> None:
        hello = self.make_hello()
        hello.protocol_min = hello.protocol_max = 1
        self.send(worker, hello, (), now)

    def lose(self, worker: int, why: str, now: float) -> None:
        session = self.sessions[worker]
        if session.open:
            self.actions.log.append(f"{self.names[worker]} lost: {why}")
            session.lost(now)
            self.on_lost(worker, now)
        else:
            session.not_sent(now)

    def on_link_lost(self, worker: int, why: str, now: float) -> None:
        self.lose(worker, why, now)

    def on_refused(self, worker: int, why: str, for_good: bool, now: float) -> None:
        """No connection comes about, and why. Where every worker said so, and none ever welcomed this process, nothing
        more will happen."""
        session = self.sessions[worker]
        if session.refused != why:
            self.actions.log.append(f"{self.names[worker]}: {why}")
        session.refused, session.refused_for_good = why, for_good
        if all(s.refused_for_good for s in self.sessions) and not any(s.was_welcomed for s in self.sessions):
            self.failure = f"{self.names[worker]}: {why}"

    def refusals_text(self) -> str:
        """What keeps workers from being connected, as far as it is known; for errors."""
        known = [f"{n}: {s.refused}. " for n, s in zip(self.names, self.sessions, strict=True) if s.refused]
        return "".join(known)

    def on_message(self, worker: int, message: Any, payload: list[memoryview], now: float) -> None:
        session = self.sessions[worker]
        if self._left or not session.is_mine(message.session):
            return  # an answer after Goodbye would be a message of no session
        session.heard = now
        if isinstance(message, wire_pb2.Welcome):
            if session.greeting:  # one to each Hello
                died = session.on_welcome(message, now)
                self.on_open(worker, died, now)
        elif isinstance(message, wire_pb2.Error):
            self._on_error(worker, message, now)
        elif session.open:
            if isinstance(message, wire_pb2.Drain):
                session.drained = True
            self.on_role_message(worker, message, payload, now)

    def _on_error(self, worker: int, error: Any, now: float) -> None:
        session = self.sessions[worker]
        name = wire_pb2.ErrorCode.Name(error.code)
        self.errors.append(f"{name}: {error.text}")
        del self.errors[:-100]
        # Of a Hello: this key may not, or not now.
        of_hello = error.code == wire_pb2.NOT_ALLOWED and (error.fatal or session.state is State.HELLO)
        if error.code not in _SESSION_ERRORS and not of_hello:
            self.actions.log.append(f"{self.names[worker]} says {name}: {error.text} {error.hint}")
            return
        was_open = session.open
        session.on_error(error, now)
        if session.failure:
            self.actions.log.append(f"{self.names[worker]} refused: {session.failure}")
            if all(s.failure for s in self.sessions):
                self.failure = session.failure
        if was_open:
            self.on_lost(worker, now)

    def on_tick(self, now: float) -> None:
        if self._left:
            return
        for worker, session in enumerate(self.sessions):
            if session.silent(now):
                self.lose(worker, "silent for too long", now)
            session.poll(now, partial(self.actions.reconnect.append, worker), partial(self._hello, worker, now))
            if session.heartbeat_due(now):
                self.send(worker, self.heartbeat(), (), now)
        self.on_time(now)

    def say_goodbye(self, reason: int, run: int, now: float) -> None:
        for worker, session in enumerate(self.sessions):
            if session.open:
                self.send(worker, wire_pb2.Goodbye(reason=reason, run=run), (), now)

    def leave(self, now: float) -> None:
        """Goodbye everywhere; nothing more is sent. This process ends, the run does not."""
        self.say_goodbye(wire_pb2.GOODBYE_LEAVING, self.run, now)
        self._left = True

    @property
    def workers(self) -> int:
        return len(self.sessions)

    @property
    def connected(self) -> int:
        return sum(s.open for s in self.sessions)
