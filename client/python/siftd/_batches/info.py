# SPDX-License-Identifier: Apache-2.0
"""What the loader tells about a batch, out of band, and about the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftd._batches.row_info import INFO_FIELDS, Array, NativeSpan, Span


class BatchInfo:
    """About the rows of one batch, in their order; n = its rows. The arrays are made when they are first asked for.

    Attributes:
      ids: [n] uint64 sample ids.
      scores: [n] float32 of the policy's column; NaN where the row was not scored.
      keep_probability: [n] float32, NaN where the policy has none; 1 for unsifted rows.
      weights: [n] float32, 1 / p for policies that keep rows independently, else 1.
      percentile: [n] float32, NaN where the policy has none.
      model_version: [n] int64 that scored the row; 0 = none.
      staleness: [n] int64, trainer steps between the scoring model and this batch; -1 = not scored. Before the batch is
        handed out: the model's step.
      unsifted: [n] bool, handed out without a decision of the policy.
      epochs: [n] int64, epoch of the candidate batch.
      keys: (pass, seq, rows) of the candidate batches that the rows come from, in order; in stream mode the pass is
        (loader, pass).
      ordinal: number of the batch among those handed out, from 1.
    """

    ids: Array
    scores: Array
    keep_probability: Array
    weights: Array
    percentile: Array
    model_version: Array
    staleness: Array
    unsifted: Array
    epochs: Array

    def __init__(self, spans: Sequence[Span | NativeSpan], keys: list[tuple[Any, int, int]]) -> None:
        self.spans, self.keys = spans, keys
        self.ordinal = 0
        self._step: int | None = None  # of the trainer, when it was handed out

    def __getattr__(self, name: str) -> Array:
        if name not in INFO_FIELDS or "spans" not in self.__dict__:
            raise AttributeError(name)
        made = np.concatenate([span[name] for span in self.spans])
        if name == "staleness" and self._step is not None:
            made = np.where(self.model_version > 0, np.maximum(0, self._step - made), -1)
        self.__dict__[name] = made
        return made

    def age(self, step: int) -> tuple[float, int]:
        """Mean and most of the trainer steps since the models that scored its rows; 0 where none did."""
        rows = total = most = 0
        for span in self.spans:
            if span.model_version > 0:
                age = max(0, step - span.model_step)
                n = span.end - span.begin
                rows, total, most = rows + n, total + n * age, max(most, age)
        return (total / rows, most) if rows else (0.0, 0)

    def handed_out(self, ordinal: int, step: int | None) -> None:
        """`step`: of the trainer; None: it was taken back."""
        self.ordinal, self._step = ordinal, step
        self.__dict__.pop("staleness", None)


@dataclass
class Stats:
    """Counts of the run so far; all in rows but where the name says otherwise."""

    candidates: int = 0
    decided: int = 0
    kept: int = 0
    dropped: int = 0
    prior_scores: int = 0  # of decided: by a score of an earlier visit (rescore_every)
    unsifted: int = 0  # of kept: without a decision of the policy
    handed_out: int = 0
    trained: int = 0
    cancelled: int = 0
    rejected_batches: int = 0
    late_verdicts: int = 0
    duplicates: int = 0
    batches: int = 0
    steps: int = 0
    model_versions: int = 0  # published
    breaker_opened: int = 0
    wait_seconds: float = 0.0
    train_seconds: float = 0.0  # between batches: the user's own time
    score_seconds: float = 0.0  # of the workers, per forward share
    scored_rows: int = 0  # whose score was looked at, be it of an earlier visit
    staleness_sum: float = 0.0  # over batches
    staleness_max: int = 0
    verdict_seconds_sum: float = 0.0
    verdicts: int = 0
    workers: int = 0  # in session
    ready: int = 0  # batches waiting to be handed out

    @property
    def keep_fraction(self) -> float:
        return self.kept / self.decided if self.decided else 1.0

    @property
    def staleness(self) -> float:
        """Mean over batches, trainer steps."""
        return self.staleness_sum / self.batches if self.batches else 0.0

    def as_dict(self) -> dict[str, float]:
        out = {k: v for k, v in self.__dict__.items() if not k.endswith("_sum")}
        out["keep_fraction"] = self.keep_fraction
        out["staleness"] = self.staleness
        return out

    def capacity(self, workers: int) -> str:
        """f, kept share, workers and the number needed to keep up, in words; "" before anything was measured, or where
        there are no workers (inline)."""
        if workers == 0 or not (self.scored_rows and self.trained and self.train_seconds > 0):
            return ""
        f = (self.score_seconds / self.scored_rows) / (self.train_seconds / self.trained)
        needed = f / max(self.keep_fraction, 1e-6)
        text = f"scoring costs {f:.2f} of a training step per row (f), kept {self.keep_fraction:.0%}: {needed:.1f} "
        text += f"workers like these keep up, {workers} are there"
        if needed > workers:
            text += ". The trainer will wait for them: add workers, or keep more (beta, keep, tau)"
        return text
