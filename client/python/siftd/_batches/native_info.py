# SPDX-License-Identifier: Apache-2.0
"""Batches of the compiled client as the loop's: tensors over their memory, and what is known of their rows."""

from __future__ import annotations

from typing import Any

import torch

from siftd._batches import structure
from siftd._batches.info import BatchInfo
from siftd._batches.piece import Piece
from siftd._batches.row_info import NativeSpan
from siftd._wire.tensor import named_buffers, pack
from siftd.v1 import artifact_pb2


class NativeInfo(BatchInfo):
    """What is known of a batch of the compiled client. Spans are made when they are first asked for."""

    def __init__(self, batch: Any, stream: bool = False) -> None:
        self._batch, self.keys = batch, batch.keys(stream)
        self.ordinal = 0
        self._step: int | None = None

    def __getattr__(self, name: str) -> Any:
        if "_batch" not in self.__dict__:
            raise AttributeError(name)
        if name != "spans":
            _ = self.spans  # what the arrays are made of
            return super().__getattr__(name)
        spans: list[NativeSpan] = []
        at = 0
        for rows, *known in self._batch.spans():
            spans.append(NativeSpan(self._batch, at, at + rows, *known))
            at += rows
        self.__dict__["spans"] = spans
        return spans

    def age(self, step: int) -> tuple[float, int]:
        mean, most = self._batch.age(step)
        return mean, most


class Layout:
    """The structure of a loader's batches, which hold nothing but tensors."""

    def __init__(self, spec: Any = None) -> None:
        """`spec`: of the user's batches; None: as their fields' names tell."""
        self._spec = spec
        self._fields: tuple[tuple[str, int], ...] = ()

    def flat(self, batch: Any) -> structure.Flat:
        """Tensors over the batch's own memory, which they take from it: once."""
        if not self._fields:  # the same in all batches
            self._fields = tuple(zip(batch.names, batch.dtypes, strict=True))
            self._spec = self._spec or structure.spec_of(batch.names)
        tensors = {}
        for (name, dtype), array in zip(self._fields, batch.take_arrays(), strict=True):
            tensor = torch.from_numpy(array)
            tensors[name] = tensor.view(torch.bfloat16) if dtype == artifact_pb2.DTYPE_BFLOAT16 else tensor
        return structure.Flat(self._spec, batch.rows, tensors, {}, {})


def known_of(piece: Piece) -> tuple[int, Any, dict[str, Any]]:
    """Epoch, sample ids and the rest of what is known of the rows of a state."""
    i = piece.info
    about: dict[str, Any] = {n: i[n] for n in ("scores", "keep_probability", "weights", "percentile")}
    about["model_version"], about["model_step"] = int(i["model_version"][0]), max(0, int(i["staleness"][0]))
    about["unsifted"] = bool(i["unsifted"][0])
    return int(i["epochs"][0]), i["ids"], about


def fields_of(piece: Piece) -> list[tuple[str, int, tuple[int, ...], Any]]:
    """Name, the wire's type, shape and memory of each tensor."""
    return named_buffers(*pack(piece.flat.tensors))
