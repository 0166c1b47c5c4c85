# SPDX-License-Identifier: Apache-2.0
"""ClientSession: the connecting side of design rule 1, for every role. Pure; one thread."""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable
from typing import Any

from siftd._wire.codec import LIMITS, wire_pb2

HELLO_DEADLINE = 5.0  # seconds from Hello to Welcome
HELLO_EVERY = 0.25  # while no connection takes it
BACKOFF = (0.1, 5.0)  # seconds between attempts, doubling
HEARTBEAT_MS = (10, 60_000)  # what of a Welcome is believed
LIVENESS_MOST_MS = 600_000


def new_incarnation() -> int:
    """Ordered over restarts of a process."""
    return time.time_ns()


class State(enum.Enum):
    WAITING = enum.auto()  # to try again
    HELLO = enum.auto()  # said, or about to be
    OPEN = enum.auto()
    FAILED = enum.auto()  # refused for good


class ClientSession:
    """One worker's session as a client sees it.

    The owner asks `poll` what to do, hands in every message and tells it of everything that it sends.
    """

    def __init__(self, incarnation: int, now: float) -> None:
        self.incarnation = incarnation
        self.counter = 0
        self.state = State.WAITING
        self.welcome: Any = None
        self.failure = ""
        self.worker_incarnation = 0  # of the last Welcome
        self.drained = False  # the worker said Drain in this session
        self._retry_at = now
        self._backoff = BACKOFF[0]
        self._deadline = 0.0
        self._hello_again = 0.0
        self.heard = now
        self.sent = now
        self.was_welcomed = False
        self.refused = ""  # why no connection came about since the last Welcome
        self.refused_for_good = False

    @property
    def open(self) -> bool:
        return self.state is State.OPEN

    @property
    def greeting(self) -> bool:
        """Hello was said, or is about to be, and not answered."""
        return self.state is State.HELLO

    def id(self) -> Any:
        return wire_pb2.Session(incarnation=self.incarnation, counter=self.counter)

    def is_mine(self, session: Any) -> bool:
        return bool(session.counter == self.counter and session.incarnation == self.incarnation)

    def poll(self, now: float, reconnect: Callable[[], None], hello: Callable[[], None]) -> None:
        """Drives the session: opens it when due, says Hello until Welcome, gives up a dead one."""
        if self.state is State.WAITING and now >= self._retry_at:
            if self.counter > 0:
                reconnect()
            self.counter += 1
            self.state = State.HELLO
            self._deadline = now + HELLO_DEADLINE
            self._hello_again = now
        if self.state is State.HELLO and now >= self._deadline:
            self.lost(now)
        elif self.state is State.HELLO and now >= self._hello_again:
            self._hello_again = math.inf  # once per socket; `not_sent` asks for another
            hello()

    def not_sent(self, now: float) -> None:
        """The Hello found no connection: it is tried again shortly, without a new socket."""
        self._hello_again = now + HELLO_EVERY
        self._deadline = max(self._deadline, now + HELLO_DEADLINE)

    def silent(self, now: float) -> bool:
        return self.open and now - self.heard > self.welcome.liveness_ms / 1e3

    def heartbeat_due(self, now: float) -> bool:
        return self.open and now - self.sent >= self.welcome.heartbeat_ms / 1e3 * 0.9

    def on_welcome(self, welcome: Any, now: float) -> bool:
        """True: the worker is another process than in the session before, which did not end in order: it died."""
        died = self.worker_incarnation not in (0, welcome.worker_incarnation) and not self.drained
        self.worker_incarnation = welcome.worker_incarnation
        welcome.heartbeat_ms = min(max(welcome.heartbeat_ms, HEARTBEAT_MS[0]), HEARTBEAT_MS[1])
        welcome.liveness_ms = min(max(welcome.liveness_ms, 2 * welcome.heartbeat_ms), LIVENESS_MOST_MS)
        self.welcome = welcome
        self.state = State.OPEN
        self.was_welcomed = True
        self.refused, self.refused_for_good = "", False
        self.drained = False
        self.heard = self.sent = now
        self._backoff = BACKOFF[0]
        return died

    def on_error(self, error: Any, now: float) -> None:
        """An Error that concerns the session. Afterwards it is lost, or failed for good."""
        text = f"{error.text}. {error.hint}" if error.hint else error.text
        if error.code == wire_pb2.SUPERSEDED and not self.was_welcomed and error.current < LIMITS.incarnation:
            self.incarnation = error.current + 1  # a clock may have gone back
            self.counter = 0
            self.lost(now)
        elif (error.fatal or error.code == wire_pb2.SUPERSEDED) and error.code != wire_pb2.HELLO_REQUIRED:
            self.state = State.FAILED
            self.failure = text
        elif error.fatal or error.code == wire_pb2.DRAINING or self.state is State.HELLO:
            self.lost(now)

    def lost(self, now: float) -> None:
        if self.state is not State.FAILED:
            self.state = State.WAITING
            self._retry_at = now + self._backoff
            self._backoff = min(BACKOFF[1], 2 * self._backoff)
