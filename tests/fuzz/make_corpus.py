# SPDX-License-Identifier: Apache-2.0
"""Writes the fuzz targets' seeds: the conformance vectors and the shipped configurations, as the targets read them.

usage: make_corpus.py FOLDER. The standard library is enough. bytes.h says how targets read their bytes.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "conformance" / "vectors"

# Conversations with a worker: which peer says what; "" = the model is applied. And what answers a client.
ASKED: dict[str, list[tuple[int, str]]] = {
    "loader": [
        (0, "hello_trainer"), (0, ""), (1, "hello_loader_signature"), (0, "position"), (0, "credit"),
        (1, "candidates_full"), (0, "ack"), (1, "epoch_end"), (0, "epoch_ack"), (1, "heartbeat"), (0, "goodbye"),
    ],
    "publisher": [
        (0, "hello_publisher"), (0, "model_begin_artifact"), (0, "model_begin"), (0, "model_chunk"),
        (0, "model_commit"), (0, ""),
    ],
    "monitor": [(0, "hello_monitor"), (0, "status"), (1, "hello_monitor"), (1, "status"), (0, "heartbeat")],
}  # fmt: skip
ANSWERED = {
    "loader": ("welcome", "position", "credit", "settled_scores", "verdict", "return", "epoch_ack", "drain", "error"),
    "trainer": ("welcome", "selected", "selected", "selected_no_rows", "epoch_end", "position_request", "goodbye"),
    "publisher": ("welcome", "model_ack", "error", "welcome"),
}

Frames = list[bytes]


def some_frames(frames: Frames) -> bytes:
    """As Bytes::SomeFrames reads them."""
    return bytes([len(frames)]) + b"".join(struct.pack("<H", len(f)) + f for f in frames)


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def submessage(header: bytes, field: int) -> bytes:
    """Bytes of a length-delimited top-level field; empty without it."""
    at = 0
    while at < len(header):
        tag, at = varint(header, at)
        kind = tag & 7
        size = 0
        if kind == 0:
            _, at = varint(header, at)
        elif kind == 2:
            size, at = varint(header, at)
        else:
            size = 8 if kind == 1 else 4
        if tag >> 3 == field and kind == 2:
            return header[at : at + size]
        at += size
    return b""


def said(op: int, frames: Frames) -> bytes:
    return bytes([op]) + some_frames(frames)


def conversations(valid: dict[str, Frames]) -> Iterator[tuple[str, str, bytes]]:
    """(core, name, bytes): messages in the order that they make sense in, with time between them."""
    tick = b"\x00\xe8\x03"
    for role, turns in ASKED.items():
        # Op 3 speaks in the name of the peer's own session.
        parts = [said(3 + 8 * peer, valid[name]) if name else b"\x02\x01\x01\x01" for peer, name in turns]
        yield "worker_core", role, tick.join(parts)
    for role, names in ANSWERED.items():
        core = f"{role}_core"
        offers = b"\x03\x05\x03\x06\x03\x07"  # the owner's own turns
        parts = [said(5, valid[name]) + tick for name in names]
        body = offers + parts[0] + offers + b"".join(parts[1:]) + offers
        for first in (b"",) if role == "publisher" else (b"\x00", b"\x01", b"\x02"):
            yield core, f"{role}_{first.hex() or 'all'}", first + body


def manifest() -> bytes:
    """An ArtifactManifest: two inputs, two columns, one entry of state."""

    def text(field: int, value: bytes) -> bytes:
        return bytes([field << 3 | 2, len(value)]) + value

    minus_one = b"\xff" * 9 + b"\x01"
    x = text(1, b"x") + b"\x10\x09" + text(3, minus_one + b"\x08")
    y = text(1, b"y") + b"\x10\x06" + text(3, minus_one)
    state = text(1, b"0.weight") + text(2, b"model.0.weight") + b"\x18\x09" + text(4, b"\x10\x08")
    head = b"\x08\x01" + text(2, b"2.13.0") + text(3, b"Sequential")
    return head + text(4, x) + text(4, y) + text(5, b"loss") + text(5, b"confidence") + text(6, state)


def seeds() -> Iterator[tuple[str, str, bytes]]:
    """(target, name, bytes)"""
    files = {kind: json.loads((VECTORS / f"{kind}.json").read_text()) for kind in ("valid", "malformed")}
    valid: dict[str, Frames] = {}
    for kind, vectors in files.items():
        for vector in vectors:
            name, frames = vector["name"], [bytes.fromhex(f) for f in vector["frames"]]
            if len(frames) < 256 and all(len(f) < 1 << 16 for f in frames):
                yield "frames", f"{kind}_{name}", some_frames(frames)
            if len(frames) < 2 or len(frames[0]) < 6:
                continue
            yield "headers", f"{kind}_{name}", frames[0][5:6] + frames[1]
            if kind == "valid":
                valid[name] = frames
                if vector["message"] == "StatusReply":
                    yield "status", name, frames[1]
                if vector["message"] == "Hello" and (spec := submessage(frames[1], 10)):
                    yield "policy", name, spec
    for core, name, data in conversations(valid):
        yield core, name, data
    yield "manifest", "two_inputs", manifest()
    yield "tensors", "two", bytes([2, 2, 4, 9, 1, 2, 4, 6, 0])
    yield "tensors", "frame_sizes", bytes([1, 1, 16, 9, 1, 1, 4, 0, 1, 2, 3, 4])
    full = bytes([0, 0, 3, 0, 15, 1, 9, 1, 2, 0, 0, 0, 0])
    yield "staging", "one_version", full + bytes([3, 0, 0, 3, 0, 1, 1, 0])
    yield (
        "staging",
        "artifact",
        bytes([0, 0, 0, 2, 15, 0, 20, 0, 0, 0, 0]) + b"archive" + bytes([3, 0, 0, 3, 0, 1, 1, 0]),
    )
    for file in sorted((ROOT / "configs").glob("*.textproto")):
        yield "config", file.stem, file.read_bytes()
    yield "config", "policy", b'lanes: 3 policy { loss_cdf { keep: 0.5 } modifiers { interrupt: 4 } column: "loss" }'

    # The example keys of the ZeroMQ manual, of nobody.
    public = b'curve\n    public-key = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"\n'
    secret = public + b'    secret-key = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"\n'
    yield "key_file", "public", b"#   a client\n\n" + public
    yield "key_file", "secret", secret
    yield (
        "key_file",
        "other_pair",
        secret.replace(b"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID", b"rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"),
    )


def main(folder: Path) -> None:
    for target, name, data in seeds():
        file = folder / target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (folder / ".made").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
