# SPDX-License-Identifier: Apache-2.0
"""A publisher by the protocol alone, that can break its rules."""

from __future__ import annotations

import hashlib
import struct
import time
import zlib
from typing import Any

import zmq

from siftd._wire import codec
from siftd._wire.codec import artifact_pb2, wire_pb2

DEADLINE_MS = 20000


class RawPublisher:
    """One session of role PUBLISHER with a worker. One thread."""

    def __init__(self, endpoint: str, run: int) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.rcvtimeo = DEADLINE_MS
        self._socket.connect(endpoint)
        self._session = wire_pb2.Session(incarnation=time.time_ns(), counter=1)
        self._run = run
        self._send(
            wire_pb2.Hello(
                protocol_min=1, protocol_max=1, role=wire_pb2.ROLE_PUBLISHER, job="default", name="raw", run=run
            )
        )
        assert isinstance(self._receive(wire_pb2.Welcome), wire_pb2.Welcome)

    def push(
        self,
        version: int,
        weight: list[float],
        sha256: bytes | None = None,
        crc32: int | None = None,
        skip_chunk: bool = False,
    ) -> tuple[str, str] | None:
        """Sends one FULL version; the refusal's code and text, or None: it is in force."""
        data = struct.pack(f"<{len(weight)}f", *weight)
        begin = wire_pb2.ModelBegin(run=self._run, version=version, step=version, kind=wire_pb2.MODEL_KIND_FULL)
        begin.manifest.add(name="weight", dtype=artifact_pb2.DTYPE_FLOAT32, shape=[len(weight)])
        begin.total_bytes, begin.chunk_bytes, begin.chunks = len(data), 1 << 20, 1
        begin.sha256 = hashlib.sha256(data).digest() if sha256 is None else sha256
        self._send(begin)
        if not skip_chunk:
            chunk = wire_pb2.ModelChunk(run=self._run, version=version, index=0)
            chunk.crc32 = zlib.crc32(data) if crc32 is None else crc32
            self._send(chunk, [data])
        self._send(wire_pb2.ModelCommit(run=self._run, version=version))
        while True:
            ack = self._receive(wire_pb2.ModelAck)
            if ack.version != version or ack.state == wire_pb2.MODEL_STATE_RECEIVING:
                continue
            if ack.state == wire_pb2.MODEL_STATE_APPLIED:
                return None
            return wire_pb2.ErrorCode.Name(ack.code), ack.text

    def _send(self, message: Any, payload: list[bytes] | None = None) -> None:
        message.session.CopyFrom(self._session)
        self._socket.send_multipart(codec.encode(message, payload or []))

    def _receive(self, kind: type) -> Any:
        deadline = time.monotonic() + DEADLINE_MS / 1000
        while time.monotonic() < deadline:
            message, _ = codec.decode([memoryview(f) for f in self._socket.recv_multipart()])
            assert not isinstance(message, wire_pb2.Error), message.text
            if isinstance(message, kind):
                return message
        raise AssertionError(f"no {kind.__name__} within {DEADLINE_MS} ms")

    def __enter__(self) -> RawPublisher:
        return self

    def __exit__(self, *error: object) -> None:
        self._send(wire_pb2.Goodbye(reason=wire_pb2.GOODBYE_LEAVING))
        self._socket.close(linger=1000)
        self._context.term()
