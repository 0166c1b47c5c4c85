# SPDX-License-Identifier: Apache-2.0
"""Snapshot: one version of weights, or an artifact, as the bytes and the ModelBegin that are sent."""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from siftd._wire.tensor import _BY_NUMBER
from siftd.v1 import wire_pb2

CHUNK_BYTES = 4 << 20
Bytes = np.ndarray[Any, Any]  # uint8 [n]


@dataclass
class Snapshot:
    """One version, or an artifact: its ModelBegin (session empty) and bytes. Immutable once it is sealed."""

    _begin: Any  # the message, or a function that makes it
    pieces: Sequence[Bytes] = field(repr=False)  # back to back
    history: Sequence[float] = field(default=(), repr=False)  # recent scores; in `begin` of a FULL version only
    crc32: list[int] = field(default_factory=list, repr=False)  # of each chunk

    def __post_init__(self) -> None:
        self._starts = list(accumulate((len(p) for p in self.pieces), initial=0))
        self._digest = hashlib.sha256()

    @property
    def begin(self) -> Any:
        """Made by whoever asks first, the publisher's thread: the loop does not wait for a manifest of many entries."""
        if callable(self._begin):
            self._begin = self._begin()
        return self._begin

    @property
    def sealed(self) -> bool:
        return bool(self.begin.sha256)

    def seal(self, most: int | None = None) -> bool:
        """Computes the checksums of at most `most` more chunks, at the end the digest; True: sealed."""
        done, chunks = len(self.crc32), self.begin.chunks
        for i in range(done, chunks if most is None else min(chunks, done + most)):
            chunk = self.chunk(i)
            self.crc32.append(zlib.crc32(chunk))
            self._digest.update(chunk)
        if len(self.crc32) == chunks and not self.sealed:
            self.begin.sha256 = self._digest.digest()
        return self.sealed

    def chunk(self, index: int) -> memoryview:
        """A view, or a copy where pieces meet within the chunk."""
        at = index * CHUNK_BYTES
        end = min(at + CHUNK_BYTES, self._starts[-1])
        i = bisect_right(self._starts, at) - 1
        views = []
        while at < end:
            start, stop = self._starts[i], min(end, self._starts[i + 1])
            views.append(self.pieces[i][at - start : stop - start])
            at, i = stop, i + 1
        return (views[0] if len(views) == 1 else np.concatenate(views)).data


def model_begin(kind: int, run: int, version: int, step: int, total: int) -> Any:
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
    return Snapshot(model_begin(wire_pb2.MODEL_KIND_ARTIFACT, run, 0, 0, len(data)), [data])


def compose(base: Snapshot, delta: Snapshot) -> Snapshot:
    """The FULL version that `delta` makes of `base`, out of the bytes of the two: nothing is copied."""
    begin = model_begin(
        wire_pb2.MODEL_KIND_FULL, delta.begin.run, delta.begin.version, delta.begin.step, base.begin.total_bytes
    )
    begin.manifest.extend(base.begin.manifest)
    begin.history.extend(delta.history)
    (old,), (new,) = base.pieces, delta.pieces
    in_new, at = {}, 0
    for desc in delta.begin.manifest:
        in_new[desc.name] = at
        at += entry_bytes(desc)
    ranges: list[tuple[Bytes, int, int]] = []  # of old or new
    at = 0
    for desc in begin.manifest:
        size = entry_bytes(desc)
        source, start = (new, in_new[desc.name]) if desc.name in in_new else (old, at)
        if ranges and ranges[-1][0] is source and ranges[-1][2] == start:
            ranges[-1] = (source, ranges[-1][1], start + size)
        else:
            ranges.append((source, start, start + size))
        at += size
    return Snapshot(begin, [source[a:b] for source, a, b in ranges if b > a], delta.history)


def entry_bytes(entry: Any) -> int:
    """Of a StateEntry or a TensorDesc."""
    count = torch_dtype(entry).itemsize
    for size in entry.shape:
        count *= size
    return count


def torch_dtype(entry: Any) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, _BY_NUMBER[entry.dtype])
    return dtype
