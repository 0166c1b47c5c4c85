# SPDX-License-Identifier: Apache-2.0
"""Batches between the assembler and the optimizer step: ready, handed out, not yet trained. Pure; owner's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from siftd._batches import structure
from siftd._batches.info import BatchInfo
from siftd._batches.piece import Piece
from siftd._batches.state import PieceParts


@dataclass
class Ready:
    """A batch to be handed out; without one: the end of a pass, or an error."""

    flat: structure.Flat | None
    info: BatchInfo | None = None
    end_of: int = -1  # pass
    error: BaseException | None = None
    parts: list[Piece] | None = None  # its rows by candidate batch, where they are kept apart; else they are in `flat`
    closed: set[Any] = field(default_factory=set)  # passes that were given up since


class Handed:
    """What was handed out and is not marked as trained, oldest first, for frameworks that fetch ahead.

    Used only where claims are expected: elsewhere the batch in hand counts as trained, and nothing is kept here.
    """

    def __init__(self) -> None:
        self._batches: deque[Ready] = deque()

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, item: Ready) -> None:
        self._batches.append(item)

    def mark_trained(self, ordinal: int) -> None:
        while self._batches and self._batches[0].info is not None and self._batches[0].info.ordinal <= ordinal:
            self._batches.popleft()

    def take_back(self, ordinal: int) -> list[Ready]:
        """The batches from `ordinal` on, as they were before they were handed out."""
        back: list[Ready] = []
        while self._batches:
            info = self._batches[-1].info
            if info is None or info.ordinal < ordinal:
                break
            item = self._batches.pop()
            info.handed_out(info.ordinal, None)
            back.insert(0, item)
        return back

    def close_pass(self, number: Any) -> None:
        for item in self._batches:
            item.closed.add(number)

    def passes(self) -> list[Any]:
        """Of each row that is not trained."""
        return [
            where
            for item in self._batches
            for where, _, _ in (item.info.keys if item.info is not None else ())
            if where not in item.closed
        ]

    def add_rows(self, parts: PieceParts, wanted: Callable[[tuple[Any, int]], bool]) -> None:
        """The rows whose candidate batch is wanted."""
        for item in self._batches:
            open_and_wanted = _but_for(item.closed, wanted)
            if item.parts is None and item.flat is not None and item.info is not None:
                parts.add_batch(item.flat, item.info, open_and_wanted)
            for piece in item.parts or ():
                if open_and_wanted(piece.key):
                    parts.add(piece.key, piece.flat, piece.info)


def _but_for(passes: set[Any], wanted: Callable[[tuple[Any, int]], bool]) -> Callable[[tuple[Any, int]], bool]:
    return lambda key: key[0] not in passes and wanted(key)
