# SPDX-License-Identifier: Apache-2.0
"""Ledger: which candidate batches are trained, for the loader's state. Pure.

A key is trained when all its kept rows are, or when none was kept. Batches have ordinals; marking ordinal k marks all
batches up to k.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Sequence
from typing import Any

SETTLE_AT = 64  # batches handed out and not worked out yet

Key = tuple[Any, int]  # (pass, seq); in stream mode the pass is (loader, pass)


class IntervalSet:
    """Whole numbers as half-open intervals, ascending and disjoint. add, `in`: O(log n) and a shift."""

    def __init__(self, pairs: list[list[int]] | None = None) -> None:
        self._begin = [p[0] for p in pairs or []]
        self._end = [p[1] for p in pairs or []]

    def add(self, x: int) -> None:
        i = bisect.bisect_right(self._begin, x)
        if i > 0 and x < self._end[i - 1]:
            return
        left = i > 0 and self._end[i - 1] == x
        right = i < len(self._begin) and self._begin[i] == x + 1
        if left and right:
            self._end[i - 1] = self._end.pop(i)
            self._begin.pop(i)
        elif left:
            self._end[i - 1] = x + 1
        elif right:
            self._begin[i] = x
        else:
            self._begin.insert(i, x)
            self._end.insert(i, x + 1)

    def __contains__(self, x: int) -> bool:
        i = bisect.bisect_right(self._begin, x)
        return i > 0 and x < self._end[i - 1]

    def __len__(self) -> int:
        return sum(e - b for b, e in zip(self._begin, self._end, strict=True))

    def pairs(self) -> list[list[int]]:
        return [[b, e] for b, e in zip(self._begin, self._end, strict=True)]


class Ledger:
    """One thread, the training loop's, makes all calls but `post`.

    A step marks a number; what follows from it is worked out when somebody asks, for many steps at once.
    """

    def __init__(self) -> None:
        self._posted: deque[tuple[Key, int]] = deque()
        self._trained: dict[Any, IntervalSet] = {}
        self._left: dict[Key, int] = {}  # kept rows of a key that are not trained
        self._handed: deque[tuple[int, Sequence[tuple[Any, int, int]]]] = deque()  # ordinal, keys
        self._rows = 0  # trained
        self.marked = 0  # newest ordinal marked
        self._boundary: Key | None = None  # last key of the newest batch marked

    def post(self, key: Key, kept: int) -> None:
        """`decided`, from any thread: it comes into force before the next question. No lock is taken."""
        self._posted.append((key, kept))

    def _settle(self) -> None:
        while self._posted:
            self.decided(*self._posted.popleft())
        while self._handed and self._handed[0][0] <= self.marked:
            for number, seq, rows in self._handed.popleft()[1]:
                self._rows += rows
                key = self._boundary = (number, seq)
                self._left[key] -= rows
                if self._left[key] == 0:
                    del self._left[key]
                    self._mark(key)

    @property
    def rows(self) -> int:
        """Trained."""
        self._settle()
        return self._rows

    @property
    def trained(self) -> dict[Any, IntervalSet]:
        """By pass."""
        self._settle()
        return self._trained

    def decided(self, key: Key, kept: int) -> None:
        if kept == 0:
            self._mark(key)
        else:
            self._left[key] = kept

    def handed_out(self, ordinal: int, keys: Sequence[tuple[Any, int, int]]) -> None:
        self._handed.append((ordinal, keys))

    def mark_trained(self, ordinal: int) -> None:
        """All batches up to `ordinal`."""
        if ordinal > self.marked:
            self.marked = ordinal
        if len(self._handed) > SETTLE_AT:
            self._settle()

    def take_back(self, ordinal: int) -> None:
        """The newest batches, from `ordinal` on, were not trained and will be handed out again."""
        while self._handed and self._handed[-1][0] >= ordinal:
            self._handed.pop()

    def half_trained(self) -> Key | None:
        """The one key of which some rows are trained and some are not: rows are handed out first in, first out."""
        self._settle()
        return self._boundary if self._boundary is not None and self._left.get(self._boundary, 0) > 0 else None

    def resume_half(self, key: Key, rows: int) -> None:
        """From a state: `rows` of `key` are left to train, the others were trained before."""
        self.decided(key, rows)
        self._boundary = key

    def _mark(self, key: Key) -> None:
        self._trained.setdefault(key[0], IntervalSet()).add(key[1])

    def untrained_of(self, key: Key) -> int:
        """Kept rows of `key` that are not trained."""
        self._settle()
        return self._left.get(key, 0)

    def close_pass(self, number: Any) -> None:
        """The pass is over, or given up: nothing of it is remembered."""
        self._settle()
        self._trained.pop(number, None)
        for key in [k for k in self._left if k[0] == number]:
            del self._left[key]
        self._handed = deque((o, kept) for o, keys in self._handed if (kept := [k for k in keys if k[0] != number]))
