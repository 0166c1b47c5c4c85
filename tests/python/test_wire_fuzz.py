# SPDX-License-Identifier: Apache-2.0
"""The Python decoder under bytes that Hypothesis makes up: a message or a WireError, never anything else.

The seeds of tests/fuzz, which the C++ targets start from, are the examples to begin with.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from siftd._wire import codec
from siftd._wire.codec import wire_pb2
from support import ROOT

VECTORS = [
    vector
    for name in ("valid", "malformed")
    for vector in json.loads((ROOT / "tests" / "conformance" / "vectors" / f"{name}.json").read_text())
]
FRAMES = [[bytes.fromhex(f) for f in vector["frames"]] for vector in VECTORS]
PREAMBLES = st.builds(lambda number: b"SFTD" + bytes([1, number, 0, 0]), st.integers(0, 24))
QUICK = settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = settings(QUICK, max_examples=1500)


def decoded(frames: list[bytes]) -> tuple[Any, list[memoryview]] | None:
    """The message, if it is one; what is taken can be sent on and then says the same."""
    try:
        message, payload = codec.decode(frames)
    except codec.WireError as error:
        assert error.field and error.allowed
        assert str(error).startswith(f"{error.field} is ")
        return None
    again, same = codec.decode(codec.encode(message, payload))
    assert again.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)
    assert [bytes(p) for p in same] == [bytes(p) for p in payload]
    return message, payload


@LONG
@given(st.lists(st.binary(max_size=200), max_size=40))
@example([])
@example([b""] * 34)
def test_any_frames(frames: list[bytes]) -> None:
    decoded(frames)


@LONG
@given(PREAMBLES, st.binary(max_size=400), st.lists(st.binary(max_size=64), max_size=4))
def test_any_header_of_any_type(preamble: bytes, header: bytes, payload: list[bytes]) -> None:
    decoded([preamble, header, *payload])


@LONG
@given(st.sampled_from(FRAMES), st.data())
def test_golden_frames_with_a_piece_replaced(frames: list[bytes], data: Any) -> None:
    frames = list(frames)
    if not frames:
        return
    i = data.draw(st.integers(0, len(frames) - 1))
    begin = data.draw(st.integers(0, len(frames[i])))
    end = data.draw(st.integers(begin, min(len(frames[i]), begin + 8)))
    frames[i] = frames[i][:begin] + data.draw(st.binary(max_size=12)) + frames[i][end:]
    decoded(frames)


SIZES = st.one_of(st.integers(0, 6), st.integers(-(2**63), 2**63 - 1), st.sampled_from([2**62, 2**61 + 1, -1]))


@QUICK
@given(
    st.integers(0, 5),
    st.lists(
        st.tuples(st.text(max_size=4), st.integers(0, 12), st.lists(SIZES, max_size=18), st.integers(0, 4)), max_size=4
    ),
    st.lists(st.binary(max_size=64), max_size=4),
)
def test_any_tensor_descriptors(rows: int, tensors: list[Any], payload: list[bytes]) -> None:
    descs = [wire_pb2.TensorDesc(name=n, dtype=d, shape=s, frame=f) for n, d, s, f in tensors]
    message = wire_pb2.Candidates(sample_id=range(rows), tensor=descs)
    taken = decoded(codec.encode(message, payload))
    if taken is None:
        return
    for desc in taken[0].tensor:
        if desc.dtype != codec.artifact_pb2.DTYPE_BFLOAT16:
            assert codec.to_numpy(desc, taken[1]).shape == tuple(desc.shape)
        assert codec.to_torch(desc, taken[1]).shape == tuple(desc.shape)


@QUICK
@given(
    st.integers(0, 8),
    st.lists(st.integers(0, 9), max_size=10),
    st.lists(st.floats(width=32), max_size=9),
    st.integers(0, 4),
    st.integers(0, 30),
)
def test_any_decision(rows: int, kept: list[int], score: list[float], outcome: int, code: int) -> None:
    decision = wire_pb2.Decision(outcome=outcome, code=code, rows=rows, kept=kept, score=score)
    taken = decoded(codec.encode(wire_pb2.Verdict(decision=decision)))
    if taken is None:
        return
    d = taken[0].decision
    assert list(d.kept) == sorted(set(d.kept))
    assert all(row < d.rows for row in d.kept)
    assert len(d.score) in (0, d.rows)


@QUICK
@given(st.lists(st.tuples(*[st.integers(0, n) for n in (2**32 - 1, 2**64 - 1, 2**64 - 1, 2**64 - 1)]), max_size=6))
def test_any_decided_set(rows: list[tuple[int, int, int, int]]) -> None:
    columns = list(zip(*rows, strict=True)) or [()] * 4
    fields = dict(zip(("loader", "pass", "begin", "end"), columns, strict=True))
    taken = decoded(codec.encode(wire_pb2.Position(world=1, decided=wire_pb2.Decided(**fields))))
    if taken is None:
        return
    assert all(row[2] < row[3] and row[0] < codec.LIMITS.loaders for row in rows)
    assert [r[:3] for r in rows] == sorted(r[:3] for r in rows)


def test_the_strategies_reach_both_sides() -> None:
    """What is made up is refused, and also taken: the properties above are not empty."""
    sound = [frames for frames in FRAMES if decoded(frames) is not None]
    assert 0 < len(sound) < len(FRAMES)
    nan = wire_pb2.Verdict(decision=wire_pb2.Decision(outcome=1, rows=1, score=[np.nan]))
    assert decoded(codec.encode(nan)) is not None
    with pytest.raises(codec.WireError):
        codec.decode([struct.pack("<4sBBH", b"SFTD", 1, 6, 0), nan.SerializeToString() + b"\xff"])
