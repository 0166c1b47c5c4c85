# SPDX-License-Identifier: Apache-2.0
"""Sockets of a client: one DEALER per worker, all owned by one I/O thread, which runs one core.

A core is a pure state machine: it is told messages and the time and leaves `Actions`. The I/O thread wakes up for
messages, for `wake()` from other threads and for ticks; nothing else ever touches a socket.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import zmq

from siftd._net.handshake import HandshakeWatch
from siftd._net.keys import ClientKeys, KeyFiles
from siftd._net.threads import step_aside
from siftd._wire import codec
from siftd.errors import ConfigError

log = logging.getLogger("siftd")

HIGH_WATER_MARK = 128  # messages; a fuse above the credit windows
MAX_FRAME_BYTES = 256 << 20
COPY_BELOW = 256 << 10  # bytes; for larger frames pyzmq wakes a thread of its own, which takes the GIL, to free them
RESOLVE_EVERY = 10.0  # seconds
QUIET_MOST = 0.1  # seconds that messages may wait for
TICK_EVERY = 0.02  # seconds at least
MAX_SOCKETS = 16384  # three per worker while it connects
TRY_AGAIN = 2.0  # seconds after a refused handshake


@dataclass
class Actions:
    """What a core wants done, in this order."""

    reconnect: list[int] = field(default_factory=list)  # close the worker's socket and open a new one
    sends: list[tuple[int, Any, Sequence[Any]]] = field(default_factory=list)  # worker, message, payload
    log: list[str] = field(default_factory=list)


class Core(Protocol):
    """What an I/O thread runs. All calls on that thread."""

    actions: Actions

    def add_worker(self, now: float, name: str = "") -> None: ...
    def on_message(self, worker: int, message: Any, payload: list[memoryview], now: float) -> None: ...
    def on_link_lost(self, worker: int, why: str, now: float) -> None: ...
    def on_refused(self, worker: int, why: str, for_good: bool, now: float) -> None: ...
    def on_tick(self, now: float) -> None: ...
    def leave(self, now: float) -> None: ...


def resolve(endpoint: str) -> list[str]:
    """One endpoint per address of a tcp name: libzmq would use only the first."""
    if endpoint.startswith("ipc://"):
        return [endpoint]
    host, colon, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not endpoint.startswith("tcp://") or not colon or not port.isdigit():
        raise ConfigError("endpoint", endpoint, "tcp://ADDRESS:PORT or ipc://PATH")
    try:
        infos = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError("endpoint", endpoint, f"a name that resolves ({error})") from error
    found = {(f"[{a[0]}]" if f == socket.AF_INET6 else str(a[0])) for f, _, _, _, a in infos}
    if host == "localhost" and "127.0.0.1" in found:
        found = {"127.0.0.1"}
    return [f"tcp://{address}:{port}" for address in sorted(found)]


class IoThread:
    """Runs a core over sockets to `endpoints`. start, wake, stop: any thread."""

    def __init__(
        self,
        name: str,
        endpoints: Sequence[str],
        core: Core,
        turn: Callable[[float], bool | None],
        keys: KeyFiles | None = None,
    ) -> None:
        """`turn`: called on the I/O thread after each wake-up, before the core's actions are carried out. True:
        messages can wait for the next `wake`, or QUIET_MOST seconds, and are then taken together.
        `keys`: None: connections are not encrypted. Raises ConfigError for files that are not sound."""
        self._names = list(endpoints)
        self._keys = None if keys is None else ClientKeys(keys)
        self._watches: dict[int, HandshakeWatch] = {}  # by worker, until it is connected
        self._watches_made = 0
        self._open_again: dict[int, float] = {}  # by worker: when a refused one is tried again
        self._core = core
        self._turn = turn
        self._endpoints: list[str] = []
        self._sockets: list[zmq.Socket[bytes]] = []
        self._context: zmq.Context[Any] | None = None
        self._poller = zmq.Poller()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._wakes = select.poll()
        self._wakes.register(self._wake_fd, select.POLLIN)
        self._awake = False  # a wake-up is pending: no further write is needed
        self._quiet: bool | None = False
        self._tick_at = 0.0
        self._fd_lock = threading.Lock()  # nobody writes to the descriptor once it is closed
        self._stopping = False
        self._goodbye = True
        self._resolved = 0.0
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        for name in self._names:
            self._add(resolve(name))
        self._resolved = time.monotonic()
        self._thread.start()

    def _add(self, endpoints: list[str]) -> None:
        for endpoint in endpoints:
            if endpoint not in self._endpoints:
                self._endpoints.append(endpoint)
                self._core.add_worker(time.monotonic(), endpoint)

    def endpoint(self, worker: int) -> str:
        return self._endpoints[worker]

    def wake(self) -> None:
        if self._awake:
            return
        self._awake = True
        with self._fd_lock:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def stop(self, timeout: float = 5.0, goodbye: bool = True) -> None:
        """Says Goodbye, ends the thread and closes the sockets; messages that are not sent by then are lost."""
        self._goodbye = goodbye
        self._stopping = True
        self.wake()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            step_aside()
            self._context = zmq.Context(1)
            self._context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
            with contextlib.suppress(AttributeError):
                self._context.set(zmq.THREAD_SCHED_POLICY, os.SCHED_BATCH)
            self._poller.register(self._wake_fd, zmq.POLLIN)
            while not self._stopping:
                self._once()
            self._core.leave(time.monotonic())
            if self._goodbye:
                self._once()
        except BaseException as error:
            self.error = error
            log.exception("siftd's I/O thread ended by an error")
        finally:
            for watch in self._watches.values():
                watch.close()
            for s in self._sockets:
                s.close(linger=200)
            if self._context is not None:
                self._context.term()
            with self._fd_lock:
                fd, self._wake_fd = self._wake_fd, -1
                os.close(fd)

    def _once(self) -> None:
        while len(self._sockets) < len(self._endpoints):
            self._sockets.append(self._open(len(self._sockets)))
        timeout = 0 if self._stopping or self._quiet else 100
        if self._quiet and not self._stopping:
            self._wakes.poll(1e3 * QUIET_MOST)
        sources = dict(self._poller.poll(timeout))
        if self._wake_fd in sources:
            os.eventfd_read(self._wake_fd)
        self._awake = False  # before the look at what it was for; one that is about to write makes one turn more
        now = time.monotonic()
        if len(sources) > (self._wake_fd in sources):
            for worker, link in enumerate(self._sockets):
                if link in sources:
                    self._receive(worker, link, now)
        self._quiet = self._turn(now)
        if now >= self._tick_at or self._stopping:
            self._tick_at = now + TICK_EVERY
            self._look(now)
            self._core.on_tick(now)
        self._act(now)
        if now - self._resolved > RESOLVE_EVERY:
            self._resolve_again(now)

    def _resolve_again(self, now: float) -> None:
        self._resolved = now
        for name in self._names:
            try:
                self._add(resolve(name))
            except ConfigError as error:
                log.warning("siftd: %s", error)

    def _look(self, now: float) -> None:
        """At handshakes that did not end well yet."""
        for worker, watch in list(self._watches.items()):
            refusal = watch.look()
            if watch.connected or watch.over:
                watch.close()
                del self._watches[worker]
            if watch.over:
                self._open_again[worker] = now + TRY_AGAIN
            if refusal is not None:
                self._core.on_refused(worker, refusal.why, refusal.for_good, now)
        for worker in [w for w, at in self._open_again.items() if now >= at]:
            self._reopen(worker)

    def _reopen(self, worker: int) -> None:
        self._open_again.pop(worker, None)
        watch = self._watches.pop(worker, None)
        if watch is not None:
            watch.close()
        self._poller.unregister(self._sockets[worker])
        self._sockets[worker].close(linger=0)
        self._sockets[worker] = self._open(worker)

    def _open(self, worker: int) -> zmq.Socket[bytes]:
        assert self._context is not None
        endpoint = self._endpoints[worker]
        link: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        link.linger = 0
        link.immediate = True
        link.maxmsgsize = MAX_FRAME_BYTES
        link.sndhwm = link.rcvhwm = HIGH_WATER_MARK
        link.copy_threshold = COPY_BELOW
        link.handshake_ivl = 5000
        link.connect_timeout = 3000
        link.reconnect_ivl = random.randint(100, 200)
        link.reconnect_ivl_max = 5000
        link.tcp_keepalive = 1
        link.tcp_keepalive_idle = 60
        link.ipv6 = "[" in endpoint
        if self._keys is not None:
            link.curve_serverkey = self._keys.worker
            link.curve_publickey = self._keys.public
            link.curve_secretkey = self._keys.secret
        self._watches_made += 1
        self._watches[worker] = HandshakeWatch(link, self._watches_made, self._keys)
        link.connect(endpoint)
        self._poller.register(link, zmq.POLLIN)
        return link

    def _receive(self, worker: int, link: zmq.Socket[bytes], now: float) -> None:
        for _ in range(64):
            try:
                frames = link.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            try:
                message, payload = codec.decode(frames)
            except codec.WireError as error:
                self._core.on_link_lost(worker, f"sent what is no message: {error}", now)
                return
            self._core.on_message(worker, message, payload, now)

    def _act(self, now: float) -> None:
        while True:
            actions, self._core.actions = self._core.actions, Actions()
            if not (actions.reconnect or actions.sends or actions.log):
                return
            for line in actions.log:
                log.info("siftd: %s", line)
            for worker in actions.reconnect:
                self._reopen(worker)
            for worker, message, payload in actions.sends:
                if worker < len(self._sockets):
                    self._send(worker, message, payload, now)

    def _send(self, worker: int, message: Any, payload: Sequence[Any], now: float) -> None:
        try:
            self._sockets[worker].send_multipart(codec.encode(message, payload), zmq.DONTWAIT, copy=False)
        except zmq.Again:
            self._core.on_link_lost(worker, "takes no more messages", now)
