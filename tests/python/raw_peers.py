# SPDX-License-Identifier: Apache-2.0
"""Peers that say whatever a test wants, over pyzmq or a bare socket, and an honest one beside them."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from siftd._wire import codec
from siftd._wire.codec import artifact_pb2, policy_pb2, wire_pb2

DEADLINE = 20.0  # seconds for any answer
BARRIER = [b"barrier"]  # is always answered with Error(MALFORMED): what came before it was taken in
F32, F64, I64 = artifact_pb2.DTYPE_FLOAT32, artifact_pb2.DTYPE_FLOAT64, artifact_pb2.DTYPE_INT64
# A worker says these by itself.
UNASKED = (wire_pb2.Heartbeat, wire_pb2.Credit, wire_pb2.PositionRequest, wire_pb2.EpochEnd)


def job_spec(mode: int = wire_pb2.MODE_VERDICTS, **more: Any) -> Any:
    return wire_pb2.JobSpec(
        mode=mode, policy=policy_pb2.Policy(uniform=policy_pb2.UniformPolicy(keep=0.5)), seed=7, **more
    )


class RawPeer:
    """A DEALER with a session."""

    def __init__(self, endpoint: str, context: zmq.Context[Any] | None = None) -> None:
        self._context = zmq.Context() if context is None else context
        self.link: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self.link.linger = 0
        self.link.sndtimeo = int(1e3 * DEADLINE)
        self.link.connect(endpoint)
        self.session = wire_pb2.Session(incarnation=time.time_ns(), counter=1)
        self.credit = wire_pb2.Credit()

    def close(self) -> None:
        self._context.destroy(linger=0)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def send(self, message: Any, payload: Sequence[Any] = (), *, session: Any = None) -> None:
        message.session.CopyFrom(self.session if session is None else session)
        self.frames(codec.encode(message, payload))

    def frames(self, frames: Sequence[bytes]) -> None:
        self.link.send_multipart(list(frames))

    def receive(self, timeout: float = DEADLINE) -> tuple[Any, list[memoryview]]:
        """The next message, whatever it is."""
        assert self.link.poll(1e3 * timeout), f"nothing came within {timeout} s"
        message, payload = codec.decode(self.link.recv_multipart(copy=False))
        if isinstance(message, wire_pb2.Credit):
            self.credit = message
        return message, payload

    def next(self, kind: Any) -> Any:
        """The next message of this type; others are dropped."""
        deadline = time.monotonic() + DEADLINE
        while True:
            message, _ = self.receive(max(0.0, deadline - time.monotonic()))
            if isinstance(message, kind):
                return message

    def hello(self, role: int, **fields: Any) -> Any:
        """Says Hello; the answer, Welcome or Error."""
        self.send(wire_pb2.Hello(role=role, protocol_min=1, protocol_max=1, **fields))
        return self.next((wire_pb2.Welcome, wire_pb2.Error))

    def answers(self, *said: Sequence[bytes]) -> list[Any]:
        """Says these frames, each a message; all that comes back for them, without what is not asked for."""
        for frames in said:
            self.frames(frames)
        self.frames(BARRIER)
        found: list[Any] = []
        while True:
            message, _ = self.receive()
            if isinstance(message, wire_pb2.Error) and message.text.startswith("frames is 1;"):
                return found
            if not isinstance(message, UNASKED):
                found.append(message)

    def status(self) -> Any:
        """REQUIRES: a monitor's session."""
        self.send(wire_pb2.Status())
        return self.next(wire_pb2.StatusReply)


class HonestLoader:
    """A loader in VERDICTS mode that keeps every rule."""

    def __init__(self, endpoint: str, run: int, count: int = 2, width: int = 8) -> None:
        self.peer, self.run, self.width = RawPeer(endpoint), run, width
        self.welcome = self.peer.hello(
            wire_pb2.ROLE_LOADER, run=run, job_spec=job_spec(), loader_index=0, loader_count=count, name="honest"
        )
        assert isinstance(self.welcome, wire_pb2.Welcome), self.welcome
        self.sent = 0

    def exchange(self) -> Any:
        """One batch; its decision, which is checked."""
        while self.sent >= self.peer.credit.batches:
            self.peer.next(wire_pb2.Credit)
        rows = 16
        x = np.random.default_rng(self.sent).normal(size=(rows, self.width)).astype(np.float32)
        message, payload = batch(x, np.arange(rows) % 5, self.run, 0, self.sent)
        self.sent += 1
        self.peer.send(message, payload)
        verdict = self.peer.next((wire_pb2.Verdict, wire_pb2.Error, wire_pb2.Return))
        assert isinstance(verdict, wire_pb2.Verdict), verdict
        assert verdict.key.seq == message.key.seq
        assert verdict.decision.outcome == wire_pb2.OUTCOME_DECIDED
        assert np.isfinite(verdict.decision.score).all() and len(verdict.decision.score) == rows
        return verdict.decision


def batch(x: Any, y: Any, run: int, loader: int, seq: int, **more: Any) -> tuple[Any, list[memoryview]]:
    """Candidates of the toy model: x float32 [n, width], y int64 [n]."""
    descs, payload = codec.pack({"0": np.asarray(x), "1": np.asarray(y, np.int64)})
    message = wire_pb2.Candidates(run=run, sample_id=range(len(x)), tensor=descs, **more)
    message.key.loader, message.key.seq = loader, seq
    return message, payload


def resident(pid: int) -> int:
    """Resident bytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) << 10


# ------------------------------------------------------------ bare sockets
def dial(endpoint: str) -> socket.socket:
    host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
    link = socket.create_connection((host, int(port)), timeout=DEADLINE)
    link.settimeout(DEADLINE)
    return link


def greet(link: socket.socket) -> None:
    """ZMTP 3.0's greeting and handshake, mechanism NULL, as a DEALER. Returns when the peer has done its part."""
    link.sendall(b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    receive_exactly(link, 64)

    def prop(name: bytes, value: bytes) -> bytes:
        return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value

    ready = b"\x05READY" + prop(b"Socket-Type", b"DEALER") + prop(b"Identity", b"")
    link.sendall(bytes([4, len(ready)]) + ready)
    _, size = receive_exactly(link, 2)
    assert receive_exactly(link, size).startswith(b"\x05READY")


def frame(data: bytes, more: bool = False) -> bytes:
    """A ZMTP 3.0 frame."""
    if len(data) < 256:
        return bytes([int(more), len(data)]) + data
    return bytes([2 + int(more)]) + struct.pack(">Q", len(data)) + data


def receive_exactly(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = link.recv(size - len(data))
        assert part, "the peer closed the connection"
        data += part
    return data


def until_closed(link: socket.socket, timeout: float) -> bytes:
    """What the peer says until it closes the connection; fails at the deadline."""
    link.settimeout(timeout)
    data = b""
    while True:
        try:
            part = link.recv(65536)
        except ConnectionError:
            return data
        except TimeoutError:
            raise AssertionError(f"the connection is still open after {timeout} s") from None
        if not part:
            return data
        data += part


def messages_of(name: str, vectors: Sequence[dict[str, Any]]) -> Iterator[list[bytes]]:
    """Frames of the golden vectors of a message type."""
    for vector in vectors:
        if vector["message"] == name:
            yield [bytes.fromhex(f) for f in vector["frames"]]
