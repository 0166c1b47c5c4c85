# SPDX-License-Identifier: Apache-2.0
"""RecentScores: the last scores seen, which a worker that joins, and a run that resumes, begin their history with."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from siftd import policy as policies

Scores = np.ndarray[Any, Any]


def length_for(policy: policies.Policy) -> int:
    """Scores that the policy's percentiles look back on; 0 where it keeps none."""
    return policy.loss_history_length if isinstance(policy, policies.LossCdf) else 0


class RecentScores:
    """At most `length` finite scores, oldest first. Under the owner's lock. add: O(1) amortised, no work per row."""

    def __init__(self, length: int, first: Sequence[float] = ()) -> None:
        self.length = length
        self._parts: deque[Scores] = deque()
        self._rows = 0
        self.add(np.asarray(first, np.float32))

    def add(self, scores: Scores) -> None:
        """float32 [n]; NaN and infinity are left out."""
        if self.length == 0:
            return
        scores = scores[np.isfinite(scores)]
        self._parts.append(scores)
        self._rows += len(scores)
        while self._rows - len(self._parts[0]) >= self.length:
            self._rows -= len(self._parts.popleft())

    def sample(self) -> list[float]:
        if not self._parts:
            return []
        scores: list[float] = np.concatenate(list(self._parts))[-self.length :].tolist()
        return scores
