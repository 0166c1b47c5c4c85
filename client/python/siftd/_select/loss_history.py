# SPDX-License-Identifier: Apache-2.0
"""LossHistory: the last scores and where a score stands among them: the NumPy twin of pipeline/select/loss_history.cc.

The scores lie sorted as they were at the last rebuild, beside the few that came and went since. A batch of n rows
costs O(n log h + sqrt(n h)), rebuilds included; h = capacity.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_Array = np.ndarray[Any, Any]
_NONE = np.empty(0, np.float32)


class LossHistory:
    """One thread. Holds finite scores only."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._ring = np.empty(capacity, np.float32)  # the oldest is at _next once it is full
        self._next = 0
        self._size = 0
        self._base = self._came = self._went = _NONE  # sorted

    def __len__(self) -> int:
        return self._size

    def add(self, scores: _Array) -> None:
        """float32 [n], finite, oldest first. The oldest scores held leave when the history is full."""
        scores = scores[-self.capacity :]
        slots = np.arange(self._next, self._next + len(scores)) % self.capacity
        gone = self._ring[slots[max(0, self.capacity - self._size) :]]
        self._ring[slots] = scores
        self._next = (self._next + len(scores)) % self.capacity
        self._size = min(self.capacity, self._size + len(scores))
        self._came = np.concatenate((self._came, scores))
        self._went = np.concatenate((self._went, gone))
        if len(self._came) ** 2 > self.capacity * max(1, len(scores)):
            self._base, self._came, self._went = np.sort(self._ring[: self._size]), _NONE, _NONE
        else:
            self._came.sort()
            self._went.sort()

    def percentile(self, scores: _Array) -> _Array:
        """float64 [n]: the fraction of the scores held that are strictly below each; 0 when none are held."""
        if self._size == 0:
            return np.zeros(len(scores))
        below = self._base.searchsorted(scores) + self._came.searchsorted(scores) - self._went.searchsorted(scores)
        share: _Array = below / self._size
        return share
