# SPDX-License-Identifier: Apache-2.0
"""Assembler: kept rows, first in first out, into batches of exactly the user's size. Pure; one thread at a time."""

from __future__ import annotations

from collections import deque
from typing import Any

from siftd._batches import structure
from siftd._batches.handed import Ready
from siftd._batches.info import BatchInfo
from siftd._batches.piece import Piece, gather
from siftd._batches.row_info import Span


def own_copy(flat: structure.Flat) -> structure.Flat:
    """The same rows in memory of their own."""
    tensors = {n: t.clone() for n, t in flat.tensors.items()}
    return structure.Flat(flat.spec, flat.rows, tensors, flat.listed, flat.whole)


def _span(piece: Piece) -> Span:
    return piece.info if isinstance(piece.info, Span) else Span(piece.info, 0, piece.rows)


class Assembler:
    def __init__(self, batch_size: int, pad: structure.Pad) -> None:
        self.batch_size = batch_size
        self._pad = pad
        self.keep_parts = False  # batches remember the pieces that they were made of
        self._pieces: deque[Piece] = deque()
        self._taken = 0  # rows of the first piece that were handed out
        self.rows = 0

    def add(self, piece: Piece) -> None:
        if piece.rows > 0:
            self._pieces.append(piece)
            self.rows += piece.rows

    def clear(self) -> int:
        """Rows that are let go of."""
        gone, self.rows, self._taken = self.rows, 0, 0
        self._pieces.clear()
        return gone

    def take(self, rows: int) -> Ready:
        """The oldest rows. REQUIRES: rows <= self.rows. On a StructureError nothing is taken."""
        parts: list[Piece] = []
        left, at, begin = rows, 0, self._taken
        while left > 0:
            piece = self._pieces[at]
            end = min(piece.rows, begin + left)
            parts.append(piece.part(begin, end))
            left -= end - begin
            at, begin = (at + 1, 0) if end == piece.rows else (at, end)
        batch, copied = gather(parts, self._pad)
        if self.keep_parts and not copied:
            batch = own_copy(batch)  # what the user changes in place is not what a state saves
        for _ in range(at):
            self._pieces.popleft()
        self._taken = begin
        self.rows -= rows
        info = BatchInfo([_span(p) for p in parts], [(*p.key, p.rows) for p in parts])
        return Ready(batch, info, parts=parts if self.keep_parts else None)

    def unhanded(self) -> list[Piece]:
        """The rows that were not handed out, oldest first."""
        return [p.part(self._taken if i == 0 else 0, p.rows) for i, p in enumerate(self._pieces)]

    def waiting(self) -> list[tuple[Any, int]]:
        """Keys of the pieces that are not all handed out, oldest first."""
        return [piece.key for piece in self._pieces]
