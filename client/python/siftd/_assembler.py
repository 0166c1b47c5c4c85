# SPDX-License-Identifier: Apache-2.0
"""Assembler: kept rows, first in first out, into batches of exactly the user's size. Pure; one thread at a time."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from siftd import _structure
from siftd._handed import Ready
from siftd._info import BatchInfo, Piece


def own_copy(flat: _structure.Flat) -> _structure.Flat:
    """The same rows in memory of their own."""
    tensors = {n: t.clone() for n, t in flat.tensors.items()}
    return _structure.Flat(flat.spec, flat.rows, tensors, flat.listed, flat.whole)


class Assembler:
    def __init__(self, batch_size: int, pad: _structure.Pad) -> None:
        self.batch_size = batch_size
        self._pad = pad
        self.keep_parts = False  # batches remember the pieces that they were made of
        self._pieces: deque[Piece] = deque()
        self._taken = 0  # rows of the first piece that were handed out
        self.rows = 0

    def add(self, piece: Piece) -> None:
        if piece.flat.rows > 0:
            self._pieces.append(piece)
            self.rows += piece.flat.rows

    def clear(self) -> int:
        """Rows that are let go of."""
        gone, self.rows, self._taken = self.rows, 0, 0
        self._pieces.clear()
        return gone

    def take(self, rows: int) -> Ready:
        """The oldest rows. REQUIRES: rows <= self.rows. On a StructureError nothing is taken."""
        flats, infos, keys = [], [], []
        left, at, begin = rows, 0, self._taken
        while left > 0:
            piece = self._pieces[at]
            end = min(piece.flat.rows, begin + left)
            flats.append(piece.flat.slice(begin, end))
            infos.append({name: values[begin:end] for name, values in piece.info.items()})
            keys.append((*piece.key, end - begin))
            left -= end - begin
            at, begin = (at + 1, 0) if end == piece.flat.rows else (at, end)
        batch = _structure.concat(flats, self._pad)
        parts = [Piece(k[:2], f, i) for k, f, i in zip(keys, flats, infos, strict=True)] if self.keep_parts else []
        if parts and batch is flats[0]:
            batch = own_copy(batch)  # what the user changes in place is not what a state saves
        for _ in range(at):
            self._pieces.popleft()
        self._taken = begin
        self.rows -= rows
        merged = {name: np.concatenate([i[name] for i in infos]) for name in infos[0]}
        return Ready(batch, BatchInfo(**merged, keys=keys), parts=parts)  # type: ignore[arg-type]

    def unhanded(self) -> list[tuple[tuple[Any, int], int, _structure.Flat, dict[str, Any]]]:
        """(key, rows handed out before, the other rows, their info) of each piece, oldest first."""
        out = []
        for i, piece in enumerate(self._pieces):
            begin = self._taken if i == 0 else 0
            info = {n: v[begin:] for n, v in piece.info.items()}
            out.append((piece.key, begin, piece.flat.slice(begin, piece.flat.rows), info))
        return out
