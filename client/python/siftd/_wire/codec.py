# SPDX-License-Identifier: Apache-2.0
"""Messages to frames and back: the Python twin of pipeline/wire (specification: proto/README.md).

A message is a list of frames: preamble, protobuf header, payload. Pure functions, any thread.
Payload buffers are never copied, either way. Whatever a peer sends yields a message or a WireError.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from siftd._wire import check as check
from siftd._wire.limits import LIMITS, WireError
from siftd._wire.tensor import describe, pack, raw_bytes, to_numpy, to_torch
from siftd.v1 import artifact_pb2, policy_pb2, wire_pb2

__all__ = [
    "LIMITS",
    "TYPES",
    "WireError",
    "artifact_pb2",
    "crc32",
    "decode",
    "describe",
    "encode",
    "pack",
    "policy_pb2",
    "raw_bytes",
    "sha256",
    "to_numpy",
    "to_torch",
    "wire_pb2",
]

MAGIC = b"SFTD"
MAJOR = 1
_PREAMBLE = struct.Struct("<4sBBH")

# Type byte of each message class.
TYPES: dict[Any, int] = {
    wire_pb2.Hello: wire_pb2.HELLO,
    wire_pb2.Welcome: wire_pb2.WELCOME,
    wire_pb2.Credit: wire_pb2.CREDIT,
    wire_pb2.Candidates: wire_pb2.CANDIDATES,
    wire_pb2.Selected: wire_pb2.SELECTED,
    wire_pb2.Verdict: wire_pb2.VERDICT,
    wire_pb2.Ack: wire_pb2.ACK,
    wire_pb2.Settled: wire_pb2.SETTLED,
    wire_pb2.Return: wire_pb2.RETURN,
    wire_pb2.EpochEnd: wire_pb2.EPOCH_END,
    wire_pb2.EpochAck: wire_pb2.EPOCH_ACK,
    wire_pb2.PositionRequest: wire_pb2.POSITION_REQUEST,
    wire_pb2.Position: wire_pb2.POSITION,
    wire_pb2.ModelBegin: wire_pb2.MODEL_BEGIN,
    wire_pb2.ModelChunk: wire_pb2.MODEL_CHUNK,
    wire_pb2.ModelCommit: wire_pb2.MODEL_COMMIT,
    wire_pb2.ModelAck: wire_pb2.MODEL_ACK,
    wire_pb2.Status: wire_pb2.STATUS,
    wire_pb2.StatusReply: wire_pb2.STATUS_REPLY,
    wire_pb2.Heartbeat: wire_pb2.HEARTBEAT,
    wire_pb2.Drain: wire_pb2.DRAIN,
    wire_pb2.Goodbye: wire_pb2.GOODBYE,
    wire_pb2.Error: wire_pb2.ERROR,
}
_CLASSES = {number: cls for cls, number in TYPES.items()}
_PREAMBLES = {cls: _PREAMBLE.pack(MAGIC, MAJOR, number, 0) for cls, number in TYPES.items()}


def encode(message: Any, payload: Iterable[Any] = ()) -> list[Any]:
    """Frames of `message`: two of bytes, then the payload as it is (contiguous; see `pack`)."""
    return [_PREAMBLES[type(message)], message.SerializeToString(), *payload]


def decode(frames: Sequence[Any]) -> tuple[Any, list[memoryview]]:
    """The message and its payload, or WireError.

    `frames` (bytes, buffers or zmq.Frame) come without a routing id.
    """
    if not 2 <= len(frames) <= LIMITS.frames:
        raise WireError("frames", len(frames), f"2 to {LIMITS.frames}")
    views = [_view(frame) for frame in frames]
    cls = _message_class(views[0])
    name = cls.DESCRIPTOR.name
    header = views[1]
    if header.nbytes > LIMITS.header_bytes:
        raise WireError("header's bytes", header.nbytes, f"at most {LIMITS.header_bytes}")
    _check_fields(header)
    payload = views[2:]
    try:
        message = cls.FromString(header.tobytes())
    except DecodeError as error:
        raise WireError("header", f"no {name} message ({header.nbytes} bytes)", "valid protobuf") from error
    check.check(name, message, payload)
    return message, payload


def _view(frame: Any) -> memoryview:
    view = memoryview(getattr(frame, "buffer", frame))
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def _check_fields(header: memoryview) -> None:
    """Refuses a header of countless tiny fields, which would take far more memory than bytes."""
    fields, at, end = 0, 0, header.nbytes
    if end <= 2 * LIMITS.header_fields:  # a field has two bytes at least
        return
    while at < end and fields <= LIMITS.header_fields:
        tag, at = _varint(header, at)
        fields += 1
        match tag & 7:
            case 0:
                _, at = _varint(header, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(header, at)
                at += size
            case 5:
                at += 4
            case _:
                raise WireError("header", f"wire type {tag & 7}", "valid protobuf")
    if fields > LIMITS.header_fields:
        raise WireError("header's fields", fields, f"at most {LIMITS.header_fields}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= data.nbytes:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise WireError("header", "a broken varint", "valid protobuf")


def _message_class(preamble: memoryview) -> Any:
    if preamble.nbytes != _PREAMBLE.size:
        raise WireError("preamble's bytes", preamble.nbytes, str(_PREAMBLE.size))
    magic, major, number, flags = _PREAMBLE.unpack(preamble)
    if magic != MAGIC:
        raise WireError("magic", magic.hex(), f"{MAGIC.hex()} (SFTD)")
    if major != MAJOR:
        raise WireError("major", major, str(MAJOR))
    if flags != 0:
        raise WireError("flags", flags, "0")
    cls = _CLASSES.get(number)
    if cls is None:
        raise WireError("type", number, f"1 to {max(_CLASSES)} (enum MessageType)")
    return cls


def sha256(*buffers: Any) -> bytes:
    """SHA-256 (32 bytes) of the buffers, one after the other."""
    digest = hashlib.sha256()
    for buffer in buffers:
        digest.update(buffer)
    return digest.digest()


def crc32(buffer: Any) -> int:
    """zlib's CRC-32, as ModelChunk carries it."""
    return zlib.crc32(buffer)
