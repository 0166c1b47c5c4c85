# SPDX-License-Identifier: Apache-2.0
"""Tensors on the wire: NumPy arrays and torch tensors to descriptors and raw buffers, and back.

NumPy is enough for a loader: torch is imported only where a torch tensor is asked for. Nothing is
copied that is contiguous, aligned and on the CPU. NumPy has no bfloat16: such tensors are torch's.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from siftd._wire.limits import WireError
from siftd.v1 import artifact_pb2, wire_pb2

if TYPE_CHECKING:
    import torch

# Tensors are little-endian on the wire and taken as they lie in memory.
if sys.byteorder != "little":
    raise ImportError("siftd needs a little-endian machine")

_NAMES: dict[str, int] = {
    "bool": artifact_pb2.DTYPE_BOOL,
    "uint8": artifact_pb2.DTYPE_UINT8,
    "int8": artifact_pb2.DTYPE_INT8,
    "int16": artifact_pb2.DTYPE_INT16,
    "int32": artifact_pb2.DTYPE_INT32,
    "int64": artifact_pb2.DTYPE_INT64,
    "float16": artifact_pb2.DTYPE_FLOAT16,
    "bfloat16": artifact_pb2.DTYPE_BFLOAT16,
    "float32": artifact_pb2.DTYPE_FLOAT32,
    "float64": artifact_pb2.DTYPE_FLOAT64,
}
_BY_NUMBER = {number: name for name, number in _NAMES.items()}
_NUMPY = {n: np.dtype(name).newbyteorder("<") for name, n in _NAMES.items() if name != "bfloat16"}
_INT16 = np.dtype("<i2")
_ALLOWED = ", ".join(_NAMES)


def is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def dtype_number(value: Any) -> int:
    """The wire's number of an element type. Raises WireError where there is none."""
    name = str(value.dtype).removeprefix("torch.") if is_torch(value) else value.dtype.name
    number = _NAMES.get(name)
    if number is None:
        raise WireError("dtype", name, _ALLOWED)
    return number


def describe(name: str, value: Any, frame: int) -> Any:
    """TensorDesc of an array or tensor whose bytes are payload frame `frame`."""
    return wire_pb2.TensorDesc(name=name, dtype=dtype_number(value), shape=tuple(value.shape), frame=frame)


def raw_bytes(value: Any) -> memoryview:
    """The elements as the wire wants them: C-contiguous, little-endian. Keeps `value` alive."""
    if is_torch(value):
        import torch

        value = value.detach()
        if value.is_cpu and value.dtype != torch.bfloat16 and value.is_contiguous() and value.dim() and value.numel():
            return memoryview(value.numpy()).cast("B")
        array = value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    else:
        native = value.dtype.newbyteorder("<")
        array = np.ascontiguousarray(value, dtype=native).reshape(-1).view(np.uint8)
    return memoryview(array)


def pack(
    named: Mapping[str, Any] | Iterable[tuple[str, Any]],
) -> tuple[list[Any], list[memoryview]]:
    """Descriptors and payload frames of several tensors: one frame each, in order."""
    items = list(named.items() if isinstance(named, Mapping) else named)
    descs = [describe(name, value, frame) for frame, (name, value) in enumerate(items)]
    return descs, [raw_bytes(value) for _, value in items]


def named_buffers(descs: Sequence[Any], payload: Sequence[Any]) -> list[tuple[str, int, tuple[int, ...], Any]]:
    """Name, type, shape and memory of each tensor that `pack` gave, as the compiled client takes them."""
    return [(d.name, d.dtype, tuple(d.shape), p) for d, p in zip(descs, payload, strict=True)]


def to_numpy(desc: Any, payload: Sequence[memoryview]) -> np.ndarray[Any, Any]:
    """The array: a view of its frame where aligned, else a copy. Read-only where the frame is."""
    dtype = _NUMPY.get(desc.dtype)
    if dtype is None:
        name = _BY_NUMBER.get(desc.dtype, str(desc.dtype))
        raise WireError(f"dtype of '{desc.name}'", name, "a NumPy type (bfloat16 needs torch: to_torch)")
    array = np.frombuffer(payload[desc.frame], dtype=dtype)
    if not array.flags.aligned:
        array = array.copy()
    return array.reshape(tuple(desc.shape))


def to_torch(desc: Any, payload: Sequence[memoryview]) -> torch.Tensor:
    """The tensor: a view of its frame where that is aligned and writable, else a copy."""
    import torch

    frame, shape = payload[desc.frame], desc.shape[:]
    if math.prod(shape) == 0:
        return torch.empty(shape, dtype=getattr(torch, _BY_NUMBER[desc.dtype]))
    # bfloat16, which NumPy has not, goes as integers.
    array = np.frombuffer(frame, dtype=_NUMPY.get(desc.dtype, _INT16))
    if frame.readonly or not array.flags.aligned:
        array = array.copy()
    tensor = torch.from_numpy(array.reshape(shape))
    return tensor.view(torch.bfloat16) if desc.dtype == artifact_pb2.DTYPE_BFLOAT16 else tensor
