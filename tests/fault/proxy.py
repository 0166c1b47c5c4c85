# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy that spoils the link it carries: cuts, holes without a reset, delay, narrow bandwidth, flipped bytes.

"up" is from the client to the target, "down" the way back. All methods: any thread.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

UP, DOWN = "up", "down"
CHUNK = 64 << 10


@dataclass
class _Way:
    """One direction, over all connections."""

    bytes: int = 0  # forwarded
    held: bool = False  # nothing is read or forwarded
    delay: float = 0.0  # seconds, of each piece
    rate: float = 0.0  # bytes per second; 0: no bound
    cut_at: int = -1  # once: cut where `bytes` would go beyond
    flip_at: int = -1  # once: flip a bit of this byte
    cuts: int = 0  # that `cut_at` made
    flips: int = 0


@dataclass
class _Link:
    client: socket.socket
    target: socket.socket
    threads: list[threading.Thread] = field(default_factory=list)


class Proxy:
    """Listens on a free port of the loopback and forwards to `target`, "tcp://HOST:PORT"; "" refuses everyone."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._changed = threading.Condition()
        self._ways = {UP: _Way(), DOWN: _Way()}
        self._links: list[_Link] = []
        self._closed = False
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._acceptor = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._acceptor.start()

    # What goes over it.

    def bytes(self, way: str) -> int:
        """Forwarded so far."""
        with self._changed:
            return self._ways[way].bytes

    def wait_bytes(self, way: str, count: int, timeout: float = 30.0) -> None:
        """Until `count` bytes were forwarded in all."""
        self._wait(lambda: self._ways[way].bytes >= count, f"{count} bytes went {way}", timeout)

    def wait_cut(self, way: str, count: int = 1, timeout: float = 30.0) -> None:
        """Until `cut_inside` has cut so many times."""
        self._wait(lambda: self._ways[way].cuts >= count, f"the link was cut on its way {way}", timeout)

    def wait_flip(self, way: str, timeout: float = 30.0) -> None:
        """Until `flip` has flipped a bit."""
        self._wait(lambda: self._ways[way].flips > 0, f"a bit was flipped on its way {way}", timeout)

    # Faults.

    def cut(self) -> None:
        """Resets every connection; new ones are forwarded."""
        with self._changed:
            links, self._links = self._links, []
        for link in links:
            _reset(link)

    def cut_inside(self, way: str, after: int) -> None:
        """Resets the connection that carries the `after`th byte from now on, behind that byte."""
        with self._changed:
            self._ways[way].cut_at = self._ways[way].bytes + after

    def flip(self, way: str, after: int) -> None:
        """Flips a bit of the `after`th byte from now on."""
        with self._changed:
            self._ways[way].flip_at = self._ways[way].bytes + after

    def hole(self, *ways: str) -> None:
        """Nothing goes these ways (both, if none is named), and nobody is told: connections stay open."""
        self._set(ways, held=True)

    def mend(self) -> None:
        """Ends hole, delay and rate."""
        self._set((), held=False, delay=0.0, rate=0.0)

    def delay(self, seconds: float, *ways: str) -> None:
        """Each piece arrives later by this, in its order."""
        self._set(ways, delay=seconds)

    def throttle(self, bytes_per_second: float, *ways: str) -> None:
        self._set(ways, rate=bytes_per_second)

    def retarget(self, target: str) -> None:
        """New connections go to `target`; "": they are closed at once."""
        with self._changed:
            self._target = target

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._acceptor.join(10)

    def _set(self, ways: tuple[str, ...], **fields: object) -> None:
        with self._changed:
            for way in ways or (UP, DOWN):
                for name, value in fields.items():
                    setattr(self._ways[way], name, value)
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool], what: str, timeout: float) -> None:
        with self._changed:
            assert self._changed.wait_for(ready, timeout), f"not within {timeout} s: {what}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                target = self._target
            try:
                host, port = target.removeprefix("tcp://").rsplit(":", 1)
                link = _Link(client, socket.create_connection((host, int(port)), timeout=5))
            except (OSError, ValueError):  # nobody there
                client.close()
                continue
            link.target.settimeout(None)
            with self._changed:
                closed = self._closed
                self.connections += 1
                self._links.append(link)
            if closed:
                _reset(link)
                return
            for source, sink, way in ((link.client, link.target, UP), (link.target, link.client, DOWN)):
                thread = threading.Thread(target=self._carry, args=(link, source, sink, way), daemon=True)
                thread.start()

    def _carry(self, link: _Link, source: socket.socket, sink: socket.socket, way: str) -> None:
        state = self._ways[way]
        try:
            while True:
                self._wait_open(state)
                data = bytearray(source.recv(CHUNK))
                if not data:
                    break
                self._wait_open(state)
                with self._changed:
                    delay, rate = state.delay, state.rate
                pause = delay + (len(data) / rate if rate > 0 else 0.0)
                if pause > 0:
                    time.sleep(pause)  # the link's own slowness
                if not self._forward(state, sink, data):
                    _reset(link)
                    return
        except OSError:
            pass
        # The end of one direction is the end of both, as with a process that is gone.
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            source.shutdown(socket.SHUT_RDWR)

    def _wait_open(self, state: _Way) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not state.held or self._closed)
            if self._closed:
                raise OSError("the proxy is closed")

    def _forward(self, state: _Way, sink: socket.socket, data: bytearray) -> bool:
        """False: cut."""
        with self._changed:
            begin, end = state.bytes, state.bytes + len(data)
            if begin <= state.flip_at < end:
                data[state.flip_at - begin] ^= 0x10
                state.flip_at = -1
                state.flips += 1
            cut = begin <= state.cut_at < end
            if cut:
                del data[state.cut_at - begin + 1 :]
                state.cut_at = -1
            state.bytes += len(data)
        sink.sendall(data)
        with self._changed:
            state.cuts += cut
            self._changed.notify_all()
        return not cut


def _reset(link: _Link) -> None:
    """Ends both connections with a reset, as a router that forgot them would."""
    for end in (link.client, link.target):
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # wakes up the thread that reads it
        end.close()
