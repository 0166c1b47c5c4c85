# SPDX-License-Identifier: Apache-2.0
"""Outbox: the training loop's side of both engines: batches ready, handed out, marked as trained, taken back."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from siftd import _structure
from siftd._assembler import Assembler
from siftd._handed import Handed, Ready
from siftd._info import Stats
from siftd._ledger import Ledger

# Of each decision: scores [n] float32, kept rows [k] int64, sample ids [n] uint64 (stream mode: of the kept rows, [k]).
OnDecision = Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]], None]


class Outbox:
    """Shared by the I/O thread and the training loop's; `lock` guards all fields. Nothing here waits."""

    def __init__(self, batch_size: int, pad: _structure.Pad) -> None:
        self.lock = threading.Condition()
        self.ready: deque[Ready] = deque()
        self.assembler = Assembler(batch_size, pad)
        self.ledger = Ledger()
        self.handed = Handed()
        self.stats = Stats()
        self.steps = 0

    def expect_claims(self) -> None:
        with self.lock:
            self.assembler.keep_parts = True

    def hand_out(self, item: Ready) -> None:
        """`item`, a batch, goes to the training loop. REQUIRES: lock held"""
        assert item.flat is not None and item.info is not None
        s, info = self.stats, item.info
        s.batches += 1
        s.handed_out += item.flat.rows
        info.ordinal = s.batches
        self.ledger.handed_out(s.batches, info.keys)
        if self.assembler.keep_parts:
            item.model_step = info.staleness
            self.handed.add(item)
        scored = info.model_version > 0
        info.staleness = np.where(scored, np.maximum(0, self.steps - info.staleness), -1)
        if scored.any():
            s.staleness_sum += float(info.staleness[scored].mean())
            s.staleness_max = max(s.staleness_max, int(info.staleness.max()))

    def mark_trained(self, ordinal: int) -> None:
        with self.lock:
            self.stats.trained += self.ledger.mark_trained(ordinal)
            self.handed.mark_trained(ordinal)

    def take_back(self, ordinal: int) -> None:
        """Batches that were handed out and never begun, from `ordinal` on, come again first."""
        with self.lock:
            back = self.handed.take_back(ordinal)
            self.ledger.take_back(ordinal)
            self.stats.batches -= len(back)
            self.stats.handed_out -= sum(item.flat.rows for item in back if item.flat is not None)
            self.ready.extendleft(reversed(back))
