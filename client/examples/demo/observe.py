# SPDX-License-Identifier: Apache-2.0
"""What the demo reads off a loader after each step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

import siftd

from .record import Arm

LATE = 20  # steps that the keep rate is taken over


class Watcher:
    """Called with the epoch after each trained batch; records it and returns the progress text."""

    def __init__(self, arm: Arm, loader: siftd.SiftingDataLoader | siftd.StreamLoader) -> None:
        self._arm, self._loader = arm, loader
        self._late: deque[tuple[int, int]] = deque(maxlen=LATE)
        self._before = siftd.Stats()

    def __call__(self, epoch: int) -> str:
        info, now, arm = self._loader.last_batch_info, self._loader.stats(), self._arm
        assert info is not None
        arm.trained_ids.update((epoch, i) for i in info.ids.tolist())
        scored = info.staleness[info.staleness >= 0]
        if len(scored):
            arm.staleness.append(int(scored.mean()))
        arm.queue.append(now.ready)
        if now.decided > self._before.decided:
            self._late.append((now.decided - self._before.decided, now.kept - self._before.kept))
        self._before = now
        decided = sum(d for d, _ in self._late)
        arm.keep_curve.append((now.batches, sum(k for _, k in self._late) / max(1, decided)))
        return self._loader.progress_line()

    def finish(self) -> None:
        stats = self._loader.stats()
        arm = self._arm
        arm.candidates, arm.decided, arm.kept = stats.candidates, stats.decided, stats.kept
        arm.model_versions = stats.model_versions


def observe_losses(arm: Arm, policy: siftd.Policy | str) -> Callable[[Any, Any, Any], None]:
    """Losses of kept and dropped rows. Where the policy reads the confidence: -ln(p_max), a right guess's loss."""
    confidence = not isinstance(policy, siftd.LossCdf | siftd.Uniform)

    def on_decision(scores: Any, kept: Any, ids: Any) -> None:
        arm.saw_losses(-np.log(np.clip(scores, 1e-12, 1)) if confidence else scores, kept)

    return on_decision
