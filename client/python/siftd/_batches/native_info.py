# SPDX-License-Identifier: Apache-2.0
"""Batches of the compiled client as the loop's: tensors over their memory, and what is known of their rows."""

from __future__ import annotations

from typing import Any

import torch

from siftd._batches import structure
from siftd._batches.info import BatchInfo
from siftd._batches.piece import Piece
from siftd._batches.row_info import NativeSpan
from siftd._wire.tensor import pack
from siftd.v1 import artifact_pb2


def info_of(batch: Any, stream: bool = False) -> BatchInfo:
    """`stream`: keys name their loader, too."""
    spans: list[NativeSpan] = []
    keys: list[tuple[Any, int, int]] = []
    at = 0
    for of in batch.spans():
        number, seq, rows, *known, loader = of
        spans.append(NativeSpan(batch, at, at + rows, *known))
        keys.append(((loader, number) if stream else number, seq, rows))
        at += rows
    return BatchInfo(spans, keys)


def known_of(piece: Piece) -> tuple[int, Any, dict[str, Any]]:
    """Epoch, sample ids and the rest of what is known of the rows of a state."""
    i = piece.info
    about: dict[str, Any] = {n: i[n] for n in ("scores", "keep_probability", "weights", "percentile")}
    about["model_version"], about["model_step"] = int(i["model_version"][0]), max(0, int(i["staleness"][0]))
    about["unsifted"] = bool(i["unsifted"][0])
    return int(i["epochs"][0]), i["ids"], about


def fields_of(piece: Piece) -> list[tuple[str, int, tuple[int, ...], Any]]:
    """Name, the wire's type, shape and memory of each tensor."""
    tensors, payload = pack(piece.flat.tensors)
    return [(t.name, t.dtype, tuple(t.shape), p) for t, p in zip(tensors, payload, strict=True)]


def flat_of(batch: Any, spec: Any) -> structure.Flat:
    """`spec`: of the user's batches, which hold nothing but tensors."""
    tensors = {}
    for name, dtype, array in zip(batch.names, batch.dtypes, batch.arrays(), strict=True):
        tensor = torch.from_numpy(array)
        tensors[name] = tensor.view(torch.bfloat16) if dtype == artifact_pb2.DTYPE_BFLOAT16 else tensor
    return structure.Flat(spec, batch.rows, tensors, {}, {})
