# SPDX-License-Identifier: Apache-2.0
"""Tensors to frames and back, and what of the codec the golden frames do not show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zmq

from siftd._wire import codec
from siftd._wire.codec import wire_pb2

ROOT = Path(__file__).resolve().parents[2]


def candidates(arrays: dict[str, Any], rows: int) -> tuple[Any, list[memoryview]]:
    descs, payload = codec.pack(arrays)
    session = wire_pb2.Session(incarnation=1, counter=1)
    message = wire_pb2.Candidates(session=session, sample_id=range(rows), tensor=descs)
    return message, payload


@pytest.mark.parametrize("name", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"])
def test_numpy_round_trip(name: str) -> None:
    array = np.arange(12).reshape(4, 3).astype(name)
    message, payload = candidates({"x": array}, 4)
    again, frames = codec.decode([bytes(f) for f in codec.encode(message, payload)])
    result = codec.to_numpy(again.tensor[0], frames)
    assert result.dtype == array.dtype
    assert (result == array).all()


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    ],
    ids=str,
)
def test_torch_round_trip(dtype: torch.dtype) -> None:
    tensor = torch.arange(12).reshape(4, 3).to(dtype)
    message, payload = candidates({"x": tensor}, 4)
    again, frames = codec.decode([bytes(f) for f in codec.encode(message, payload)])
    result = codec.to_torch(again.tensor[0], frames)
    assert result.dtype == dtype
    assert torch.equal(result, tensor)


def test_contiguous_memory_is_not_copied() -> None:
    array = np.zeros((8, 100), np.float32)
    tensor = torch.zeros(8, 100)
    descs, payload = codec.pack({"a": array, "t": tensor})
    assert np.shares_memory(codec.to_numpy(descs[0], payload), array)
    assert codec.to_torch(descs[1], payload).data_ptr() == tensor.data_ptr()


def test_a_payload_keeps_its_tensor_alive() -> None:
    view = codec.raw_bytes(torch.full((1000,), 7.0))
    torch.zeros(1000)  # would take the freed block
    assert np.frombuffer(view, np.float32).min() == 7.0


def test_strided_and_foreign_order_memory_is_made_contiguous() -> None:
    columns = np.arange(12, dtype=np.int32).reshape(3, 4).T
    big = np.arange(4, dtype=">i4")
    turned = torch.arange(12).reshape(3, 4).t()
    descs, payload = codec.pack({"columns": columns, "big": big, "turned": turned})
    assert (codec.to_numpy(descs[0], payload) == columns).all()
    assert (codec.to_numpy(descs[1], payload) == big).all()
    assert torch.equal(codec.to_torch(descs[2], payload), turned)


def test_gradients_stay_behind() -> None:
    descs, payload = codec.pack({"x": torch.ones(3, requires_grad=True)})
    assert not codec.to_torch(descs[0], payload).requires_grad


@pytest.mark.parametrize("offset", range(1, 8))
def test_small_frames_may_lie_at_any_address(offset: int) -> None:
    array = np.arange(6, dtype=np.float64)
    (desc,), (raw,) = codec.pack({"x": array})
    room = bytearray(offset) + bytearray(raw)
    shifted = memoryview(room)[offset:]
    assert (codec.to_numpy(desc, [shifted]) == array).all()
    assert codec.to_numpy(desc, [shifted]).flags.aligned
    result = codec.to_torch(desc, [shifted])
    assert result.data_ptr() % 8 == 0
    assert torch.equal(result, torch.from_numpy(array))


def test_read_only_frames_become_tensors_of_their_own() -> None:
    (desc,), (raw,) = codec.pack({"x": np.zeros(4, np.float32)})
    frozen = bytes(raw)
    codec.to_torch(desc, [memoryview(frozen)]).fill_(1.0)
    assert frozen == bytes(16)


def test_empty_tensors_travel() -> None:
    arrays = {"n": np.zeros((2, 0, 3), np.float32), "t": torch.zeros(2, 0, dtype=torch.bfloat16)}
    message, payload = candidates(arrays, 2)
    again, frames = codec.decode(codec.encode(message, payload))
    assert codec.to_numpy(again.tensor[0], frames).shape == (2, 0, 3)
    assert codec.to_torch(again.tensor[1], frames).shape == (2, 0)


def test_numpy_has_no_bfloat16() -> None:
    (desc,), payload = codec.pack({"x": torch.zeros(1, dtype=torch.bfloat16)})
    with pytest.raises(codec.WireError, match="'x' is bfloat16; allowed: a NumPy type"):
        codec.to_numpy(desc, payload)


@pytest.mark.parametrize("value", [np.zeros(1, np.complex64), torch.zeros(1, dtype=torch.cfloat)])
def test_types_without_a_number_are_refused(value: Any) -> None:
    with pytest.raises(codec.WireError, match="complex64; allowed: bool, uint8"):
        codec.describe("x", value, 0)


def test_frames_of_zmq_are_taken_as_they_are() -> None:
    message, payload = candidates({"x": np.ones((2, 2), np.float32)}, 2)
    frames = [zmq.Frame(bytes(f)) for f in codec.encode(message, payload)]
    again, views = codec.decode(frames)
    assert again == message
    assert codec.to_numpy(again.tensor[0], views).sum() == 4.0


def test_header_above_its_limit_is_refused() -> None:
    frames = [b"SFTD\x01\x01\x00\x00", bytes(codec.LIMITS.header_bytes + 1)]
    with pytest.raises(codec.WireError, match="header's bytes is 16777217"):
        codec.decode(frames)


def test_countless_tiny_fields_are_refused_unparsed() -> None:
    header = b"\x42\x00" * (codec.LIMITS.header_fields + 1)
    with pytest.raises(codec.WireError, match="header's fields is 100001"):
        codec.decode([b"SFTD\x01\x04\x00\x00", header])


def test_a_large_packed_array_is_one_field() -> None:
    message, payload = candidates({"x": np.zeros(70_000, np.uint8)}, 70_000)
    again, _ = codec.decode(codec.encode(message, payload))
    assert len(again.sample_id) == 70_000


def test_digests_are_the_standards() -> None:
    assert codec.sha256(b"a", b"bc").hex() == ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert codec.crc32(b"123456789") == 0xCBF43926


def test_the_codec_needs_no_torch() -> None:
    package = ROOT / "client" / "python" / "siftd"
    code = (
        "import sys, types; siftd = types.ModuleType('siftd'); sys.modules['siftd'] = siftd;"
        f"siftd.__path__ = [{str(package)!r}];"  # without what siftd/__init__.py imports
        "import numpy as np; from siftd._wire import codec;"
        "d, p = codec.pack({'x': np.ones(2)}); assert codec.to_numpy(d[0], p).sum() == 2;"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
