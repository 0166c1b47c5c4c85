# SPDX-License-Identifier: Apache-2.0
"""Kept rows of candidate batches, and their way into a trainer's batch: copied once, into that batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from siftd._batches import structure
from siftd._batches.row_info import Array, Span


class Piece:
    """Kept rows of one candidate batch, with what is known of each."""

    __slots__ = ("info", "kept", "key", "rows", "source")

    def __init__(
        self, key: tuple[Any, int], source: structure.Flat, info: Mapping[str, Array], kept: Array | None = None
    ) -> None:
        """`kept`: int64 [k], ascending, the rows of `source`; None: all. `info`: arrays [k]."""
        self.key, self.source, self.info, self.kept = key, source, info, kept
        self.rows = source.rows if kept is None else len(kept)

    def part(self, begin: int, end: int) -> Piece:
        """Its rows [begin, end)."""
        if begin == 0 and end == self.rows:
            return self
        info = Span(self.info, begin, end)
        if self.kept is None:
            return Piece(self.key, self.source.slice(begin, end), info)
        return Piece(self.key, self.source, info, self.kept[begin:end])

    @property
    def flat(self) -> structure.Flat:
        """The rows alone; a copy where not all of them are kept."""
        return self.source if self.kept is None else self.source.take(torch.from_numpy(self.kept))


def gather(pieces: Sequence[Piece], pad: structure.Pad) -> tuple[structure.Flat, bool]:
    """One batch of the pieces' rows; False: it is the memory of a candidate batch, nothing was copied.

    Raises StructureError where the rows don't fit together.
    """
    if len(pieces) == 1 and pieces[0].kept is None:
        return pieces[0].source, False
    batch = _gather(pieces)
    if batch is None:
        flats = [piece.flat for piece in pieces]
        batch = structure.concat(flats, pad)
    return batch, True


def _gather(pieces: Sequence[Piece]) -> structure.Flat | None:
    """None: not all rows are of one shape in this process's memory."""
    first = pieces[0].source
    sources = [piece.source.arrays() for piece in pieces]
    tensors: dict[str, torch.Tensor] = {}
    rows = sum(piece.rows for piece in pieces)
    for name, like in first.tensors.items():
        tensor = torch.empty((rows, *like.shape[1:]), dtype=like.dtype)
        out = structure.as_array(tensor)
        at = 0
        for piece, arrays in zip(pieces, sources, strict=True):
            array = arrays.get(name)
            if out is None or array is None or array.dtype != out.dtype or array.shape[1:] != out.shape[1:]:
                return None
            to = out[at : at + piece.rows]
            if piece.kept is None:
                to[...] = array
            else:
                # NumPy: one thread, without the GIL. "clip" writes straight to `to`; the rows were checked.
                array.take(piece.kept, 0, to, "clip")
            at += piece.rows
        tensors[name] = tensor
    listed: dict[str, Sequence[Any]] = {
        name: [piece.source.listed[name][i] for piece in pieces for i in _indices(piece)] for name in first.listed
    }
    return structure.Flat(first.spec, rows, tensors, listed, first.whole)


def _indices(piece: Piece) -> Sequence[int]:
    return range(piece.rows) if piece.kept is None else piece.kept.tolist()
