# SPDX-License-Identifier: Apache-2.0
"""Snapshots of a model's weights: one flat copy on the caller's thread, everything else in the background."""

from __future__ import annotations

import hashlib
import weakref
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from siftd._wire_tensor import _BY_NUMBER
from siftd.errors import ConfigError
from siftd.export import unwrap
from siftd.v1 import wire_pb2

CHUNK_BYTES = 4 << 20


@dataclass
class Snapshot:
    """One version of weights, or an artifact: its ModelBegin (session empty) and bytes. Immutable."""

    begin: Any
    data: np.ndarray[Any, Any] = field(repr=False)  # uint8 [total_bytes]
    crc32: list[int] = field(default_factory=list, repr=False)

    def seal(self) -> None:
        """Computes digest and checksums; off the training thread."""
        if self.begin.sha256:
            return
        view = self.data.data
        self.crc32 = [zlib.crc32(view[a : a + CHUNK_BYTES]) for a in range(0, len(view), CHUNK_BYTES)]
        self.begin.sha256 = hashlib.sha256(view).digest()

    def chunk(self, index: int) -> memoryview:
        return self.data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES].data


def _begin(kind: int, run: int, version: int, step: int, total: int) -> Any:
    return wire_pb2.ModelBegin(
        run=run,
        version=version,
        step=step,
        kind=kind,
        total_bytes=total,
        chunk_bytes=CHUNK_BYTES,
        chunks=-(-total // CHUNK_BYTES),
    )


def artifact_snapshot(archive: bytes, run: int) -> Snapshot:
    """The scorer's archive as something to publish."""
    data = np.frombuffer(archive, dtype=np.uint8)
    return Snapshot(_begin(wire_pb2.MODEL_KIND_ARTIFACT, run, 0, 0, len(data)), data)


class Snapshotter:
    """Takes snapshots in the order and types of a scorer's state. One thread: the training loop's."""

    def __init__(self, state: Sequence[Any]) -> None:
        self._state = list(state)
        self._bytes = [_entry_bytes(e) for e in self._state]
        self._total = sum(self._bytes)
        # Buffers whose bytes are still being sent are kept apart by a weak reference to their array.
        self._pool: list[tuple[torch.Tensor, list[torch.Tensor], weakref.ref[Any]]] = []

    def take(self, model: nn.Module, run: int, version: int, step: int) -> Snapshot:
        """Copies the weights. The loop may change them as soon as this returns."""
        model = unwrap(model)
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        sources = []
        for entry in self._state:
            source = tensors.get(entry.name)
            if source is None or list(source.shape) != list(entry.shape):
                found = "nothing" if source is None else list(source.shape)
                raise ConfigError(f"model's '{entry.name}'", found, f"shape {list(entry.shape)}, as it was exported")
            sources.append(source.detach())
        flat, views = self._buffer()
        if self._state:
            torch._foreach_copy_(views, sources)
        array = flat.numpy()
        self._pool = [(f, v, weakref.ref(array) if f is flat else r) for f, v, r in self._pool]
        begin = _begin(wire_pb2.MODEL_KIND_FULL, run, version, step, self._total)
        for entry in self._state:
            begin.manifest.add(name=entry.name, dtype=entry.dtype, shape=entry.shape)
        return Snapshot(begin, array)

    def _buffer(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        for flat, views, user in self._pool:
            if user() is None:
                return flat, views
        flat = torch.empty(max(1, self._total), dtype=torch.uint8)
        views, at = [], 0
        for entry, size in zip(self._state, self._bytes, strict=True):
            dtype = getattr(torch, _BY_NUMBER[entry.dtype])
            # The exporter orders the entries by item size, so every offset is aligned.
            views.append(flat[at : at + size].view(dtype).view(tuple(entry.shape)))
            at += size
        self._pool.append((flat, views, weakref.ref(_Gone())))
        return flat, views


class _Gone:
    """An object that is dead at once: marks a buffer as free."""


def _entry_bytes(entry: Any) -> int:
    dtype = getattr(torch, _BY_NUMBER[entry.dtype])
    count = 1
    for size in entry.shape:
        count *= size
    return int(count * dtype.itemsize)
