# SPDX-License-Identifier: Apache-2.0
"""The lines that SageMaker's library logs and its notebooks search for, through logger siftd.compat.smart_sifting.

DEBUG: counts and latencies of each batch, in seconds. INFO, with log_batch_data: what was kept and dropped.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from siftd._batches import structure
from siftd._batches.info import BatchInfo, Stats

log = logging.getLogger("siftd.compat.smart_sifting")


def batch_made(stats: Stats, rows: int, created: float, reversed_in: float) -> None:
    """A batch goes to the loop. `created`: seconds that the loop waited for it."""
    log.debug("num_orig_samples_seen: %d", stats.decided)
    log.debug("num_orig_samples_kept: %d", stats.kept)
    log.debug("Batch size for next sifted batch: %d", rows)
    log.debug("sifted_batch_creation_latency: %.6f", created)
    log.debug("func:reverse_transform latency: %.6f", reversed_in)


def transformed(seconds: float) -> None:
    log.debug("func:transform latency: %.6f", seconds)


class Decisions:
    """on_decision of the loader: relevance values at DEBUG; with `batch_data`, samples kept and dropped at INFO."""

    def __init__(self, batch_data: bool) -> None:
        self._batch_data = batch_data

    @property
    def wanted(self) -> bool:
        return self._batch_data or log.isEnabledFor(logging.DEBUG)

    def __call__(self, scores: Any, kept: Any, ids: Any = None) -> None:
        log.debug("relevance_values: %s", _Floats(scores))
        log.debug("relevance_values_kept: %s", _Floats(scores[kept]))
        if self._batch_data:
            dropped = np.setdiff1d(np.arange(len(scores)), kept)
            log.info("kept %s", _Samples(scores, ids, kept))
            log.info("dropped %s", _Samples(scores, ids, dropped))


def batch_data(base: Any, info: BatchInfo) -> None:
    """What the loop gets: ids, losses, and the shapes of the fields."""
    flat = structure.flatten(base)
    shapes = ", ".join(f"{name} {list(t.shape)}" for name, t in flat.tensors.items())
    log.info("batch %d: ids %s, losses %s, fields %s", info.ordinal, info.ids.tolist(), _Floats(info.scores), shapes)


class _Floats:
    """Formatted when a handler takes the line."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __str__(self) -> str:
        return "[" + ", ".join(f"{float(v):.6g}" for v in self._values) + "]"


class _Samples:
    def __init__(self, scores: Any, ids: Any, rows: Any) -> None:
        self._scores, self._ids, self._rows = scores, ids, rows

    def __str__(self) -> str:
        ids = "" if self._ids is None else f" ids {np.asarray(self._ids)[self._rows].tolist()}"
        return f"{len(self._rows)} of {len(self._scores)} samples:{ids} losses {_Floats(self._scores[self._rows])}"
