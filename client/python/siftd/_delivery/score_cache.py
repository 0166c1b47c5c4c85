# SPDX-License-Identifier: Apache-2.0
"""ScoreCache: the last score of each sample, so that it is scored on every n-th visit only and decided by that score in
between. The twin of pipeline/delivery/score_cache.

Visits to score are spread by a hash of the id, so that each pass but the first scores about 1/n of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

MOST_EVERY = 254
MOST_SAMPLES = 1 << 26  # beyond them samples are scored on each visit
_FREE = 255
_FIRST_SLOTS = 1024


class ScoreCache:
    """One thread. A visit of a sample is a batch that holds it.

    Memory: 5 bytes per sample where ids are below `data_size`, as dataset indices are; for others at most 39 (1.5 to 3
    slots of 13 bytes; 59 while they grow).
    """

    def __init__(self, every: int, data_size: int = 0, most: int = MOST_SAMPLES) -> None:
        """REQUIRES: 1 <= every <= MOST_EVERY. 1: nothing is kept."""
        self._every, self._most = every, most
        self._near = min(data_size, most) if every > 1 else 0
        self._far = 0  # samples with other ids
        # By slot: the first `_near` are those of their ids, the others open addressing, a power of two long.
        self._left = np.full(self._near, _FREE, np.uint8)  # visits that the score still decides
        self._score = np.empty(self._near, np.float32)
        self._ids = np.empty(0, np.uint64)  # of the slots from _near on

    def visit(self, sample_ids: Sequence[int]) -> Array:
        """Counts a visit of each; the scores that decide it, float32 [n], NaN = score it. Empty where nothing is kept,
        or where the ids, a range made up for the batch, name no samples."""
        if self._every == 1 or isinstance(sample_ids, range):
            return np.empty(0, np.float32)
        slots = self._find(np.asarray(sample_ids, np.uint64))
        prior = np.full(len(slots), np.nan, np.float32)
        known = np.flatnonzero(slots >= 0)
        known = known[(self._left[slots[known]] != _FREE) & (self._left[slots[known]] > 0)]
        at = slots[known]
        prior[known] = self._score[at]
        self._left[at] = self._left[at] - 1
        return prior

    def take(self, sample_ids: Sequence[int], prior: Array, score: Array) -> None:
        """What came of a visit: `score` float32 [n] of all rows, or empty; only rows without a prior are news."""
        if len(prior) == 0 or len(score) != len(prior):
            return
        news = np.isnan(prior) & np.isfinite(score)
        ids, first = np.unique(np.asarray(sample_ids, np.uint64)[news], return_index=True)
        values = score[news][first]
        slots = self._find(ids)
        new = slots < 0
        if new.any():
            slots[new] = self._insert(ids[new])
        here = slots >= 0
        slots, ids = slots[here], ids[here]
        left = np.full(len(slots), self._every - 1, np.uint8)
        unknown = self._left[slots] == _FREE
        # The first score: how long it stands spreads the visits to score over the passes.
        left[unknown] = (_mixed(ids[unknown]) >> np.uint64(32)) % np.uint64(self._every)
        self._left[slots] = left
        self._score[slots] = values[here]

    def _find(self, ids: Array) -> Array:
        """Slots, int64 [n]; -1 = none."""
        slots = np.where(ids < self._near, ids, 0).astype(np.int64)
        far = np.flatnonzero(ids >= self._near)
        if len(far) == 0:
            return slots
        slots[far] = -1
        if self._far == 0:
            return slots
        mask = len(self._ids) - 1
        at = (_mixed(ids[far]) & np.uint64(mask)).astype(np.int64)
        while len(far):
            used = self._left[self._near + at] != _FREE
            hit = used & (self._ids[at] == ids[far])
            slots[far[hit]] = self._near + at[hit]
            on = used & ~hit
            far, at = far[on], (at[on] + 1) & mask
        return slots

    def _insert(self, ids: Array) -> Array:
        """Slots for ids, each once, that have none; -1 beyond the most samples. Free until a score is there."""
        slots = np.full(len(ids), -1, np.int64)
        ids = ids[: max(0, self._most - self._near - self._far)]
        self._far += len(ids)
        while 3 * self._far > 2 * len(self._ids):
            self._grow()
        slots[: len(ids)] = self._place(ids)
        return slots

    def _place(self, ids: Array) -> Array:
        slots = np.empty(len(ids), np.int64)
        mask = len(self._ids) - 1
        todo = np.arange(len(ids))
        at = (_mixed(ids) & np.uint64(mask)).astype(np.int64)
        taken = self._left[self._near :] != _FREE
        while len(todo):
            free = ~taken[at]
            self._ids[at[free]] = ids[todo[free]]  # of several that meet in a slot the last one has it
            won = free & (self._ids[at] == ids[todo])
            slots[todo[won]] = self._near + at[won]
            taken[at[won]] = True
            todo, at = todo[~won], (at[~won] + 1) & mask
        return slots

    def _grow(self) -> None:
        was = np.flatnonzero(self._left[self._near :] != _FREE)
        ids, left, score = self._ids[was], self._left[self._near + was], self._score[self._near + was]
        slots = max(_FIRST_SLOTS, 2 * len(self._ids))
        self._ids = np.empty(slots, np.uint64)
        self._left = np.concatenate([self._left[: self._near], np.full(slots, _FREE, np.uint8)])
        self._score = np.concatenate([self._score[: self._near], np.empty(slots, np.float32)])
        at = self._place(ids)
        self._left[at], self._score[at] = left, score


def _mixed(x: Array) -> Array:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014). uint64 [n]"""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    out: Array = x ^ (x >> np.uint64(31))
    return out
