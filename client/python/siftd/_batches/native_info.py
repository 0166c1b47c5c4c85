# SPDX-License-Identifier: Apache-2.0
"""Batches of the compiled client as the loop's: tensors over their memory, and what is known of their rows."""

from __future__ import annotations

from typing import Any

import torch

from siftd._batches import structure
from siftd._batches.info import BatchInfo
from siftd._batches.row_info import NativeSpan
from siftd.v1 import artifact_pb2


def info_of(batch: Any) -> BatchInfo:
    spans, keys, at = [], [], 0
    for of in batch.spans():
        spans.append(NativeSpan(batch, at, of))
        keys.append((of[0], of[1], of[2]))
        at += of[2]
    return BatchInfo(spans, keys)


def flat_of(batch: Any, spec: Any) -> structure.Flat:
    """`spec`: of the user's batches, which hold nothing but tensors."""
    tensors = {}
    for name, dtype, array in zip(batch.names, batch.dtypes, batch.arrays(), strict=True):
        tensor = torch.from_numpy(array)
        tensors[name] = tensor.view(torch.bfloat16) if dtype == artifact_pb2.DTYPE_BFLOAT16 else tensor
    return structure.Flat(spec, batch.rows, tensors, {}, {})
