# SPDX-License-Identifier: Apache-2.0
"""What a scorer takes and holds, as its manifest says it: TensorSpecs and StateEntries."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from siftd._scorer.sharded import plain_name
from siftd._wire.limits import WireError
from siftd._wire.tensor import dtype_number
from siftd.errors import ExportError
from siftd.v1 import artifact_pb2

SHRUNK = {3: "linear", 4: "bilinear", 5: "trilinear"}  # by an input's dimensions: how scale_factor interpolates it


def specs_of(fields: dict[str, torch.Tensor]) -> list[Any]:
    """TensorSpecs. Integers and masks beyond the batch are sequences, whose length varies, and so do the sizes of
    floating-point fields that equal such a length; other sizes, as of pixels, are the example's."""
    lengths = _lengths(fields)
    specs = []
    for name, tensor in fields.items():
        varies = [not tensor.is_floating_point() or size in lengths for size in tensor.shape[1:]]
        shape = [-1, *(-1 if v else size for v, size in zip(varies, tensor.shape[1:], strict=True))]
        try:
            specs.append(artifact_pb2.TensorSpec(name=name, dtype=dtype_number(tensor), shape=shape))
        except WireError as error:
            raise ExportError(f"field '{name}' can't travel: {error}") from error
    return specs


def _lengths(fields: dict[str, torch.Tensor]) -> set[int]:
    return {size for t in fields.values() if not t.is_floating_point() for size in t.shape[1:] if size > 1}


def shrinkable(inputs: dict[str, torch.Tensor]) -> list[str]:
    """Floating-point inputs of 3 to 5 dimensions, but for those along a sequence of integers (embeddings, masks)."""
    lengths = _lengths(inputs)
    floats = [n for n, t in inputs.items() if t.is_floating_point() and t.dim() in SHRUNK]
    return [n for n in floats if not lengths.intersection(inputs[n].shape[1:])]


def state_entries(model: nn.Module, state: dict[str, torch.Tensor], paths: dict[int, str], strict: bool) -> list[Any]:
    """StateEntries. `paths`: names in the module by the tensors' ids. Not strict: without what can't be published."""
    parameters = {plain_name(n) for n, _ in model.named_parameters()}
    found = []
    for name, tensor in state.items():
        if id(tensor) not in paths:
            continue
        try:
            number = dtype_number(tensor)
        except WireError as error:
            if strict:
                raise ExportError(f"the model's '{name}' can't be published: {error}") from error
            continue
        found.append((tensor.dtype.itemsize, name, tensor, number))
    # Wide types first: entries lie back to back, and each then starts at a multiple of its item size.
    found.sort(key=lambda e: -e[0])
    return [
        artifact_pb2.StateEntry(
            name=name,
            archive_name=paths[id(tensor)],
            dtype=number,
            shape=tensor.shape,
            is_buffer=name not in parameters,
        )
        for _, name, tensor, number in found
    ]
