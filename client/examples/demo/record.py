# SPDX-License-Identifier: Apache-2.0
"""What one arm of the demo measured: the numbers of the table and of summary.json, and the curves of the plots."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LOSS_BINS = np.concatenate([[0.0], np.logspace(-4, 1, 41)])  # of the histogram; natural log units


@dataclass
class Arm:
    name: str
    policy: str
    keep_fraction_requested: float | None = None  # None: the policy adapts
    candidates: int = 0
    decided: int = 0
    kept: int = 0
    trained: int = 0
    lost: int = 0
    duplicates_trained: int = 0
    model_versions: int = 0
    accuracy: float = 0.0
    start_seconds: float = 0.0  # to the first batch
    trainer_seconds: float = 0.0  # from then on, evaluation left out
    wait_seconds: float = 0.0
    staleness_steps: float = 0.0

    accuracy_curve: list[tuple[float, float]] = field(default_factory=list)  # trainer seconds, accuracy
    keep_curve: list[tuple[int, float]] = field(default_factory=list)  # step, kept share of late
    staleness: list[int] = field(default_factory=list)  # per batch
    wait: list[float] = field(default_factory=list)  # per step, seconds
    queue: list[int] = field(default_factory=list)  # per step, batches ready
    loss_kept: np.ndarray = field(default_factory=lambda: np.zeros(len(LOSS_BINS), np.int64))
    loss_dropped: np.ndarray = field(default_factory=lambda: np.zeros(len(LOSS_BINS), np.int64))
    trained_ids: Counter[tuple[int, int]] = field(default_factory=Counter)  # (epoch, sample id)

    @property
    def keep_fraction(self) -> float:
        return self.kept / self.candidates if self.candidates else 1.0

    def saw_losses(self, losses: np.ndarray, kept: np.ndarray) -> None:
        """Losses [n] of a decided batch and the indices [k] of its kept rows."""
        mask = np.zeros(len(losses), bool)
        mask[kept] = True
        bins = np.searchsorted(LOSS_BINS, losses, side="right") - 1
        np.add.at(self.loss_kept, bins[mask], 1)
        np.add.at(self.loss_dropped, bins[~mask], 1)

    def finish(self) -> None:
        """Derives what follows from the rest: lost rows, repeats, median staleness."""
        self.trained = sum(self.trained_ids.values())
        self.duplicates_trained = sum(n - 1 for n in self.trained_ids.values())
        self.lost = self.kept - (self.trained - self.duplicates_trained)
        self.staleness_steps = float(np.median(self.staleness)) if self.staleness else 0.0

    def summary(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "policy": self.policy,
            "candidates": self.candidates,
            "decided": self.decided,
            "kept": self.kept,
            "trained": self.trained,
            "lost": self.lost,
            "duplicates_trained": self.duplicates_trained,
            "keep_fraction_requested": self.keep_fraction_requested,
            "keep_fraction": round(self.keep_fraction, 4),
            "model_versions": self.model_versions,
            "accuracy": round(self.accuracy, 4),
            "trainer_seconds": round(self.trainer_seconds, 3),
            "wait_seconds": round(self.wait_seconds, 3),
            "staleness_steps": self.staleness_steps,
        }
