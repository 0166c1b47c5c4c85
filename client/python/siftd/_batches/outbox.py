# SPDX-License-Identifier: Apache-2.0
"""Outbox: the training loop's side of both engines: batches ready, handed out, marked as trained, taken back."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from siftd._batches import structure
from siftd._batches.assembler import Assembler
from siftd._batches.handed import Handed, Ready
from siftd._batches.info import Stats
from siftd._batches.state import PieceParts
from siftd._delivery.ledger import Ledger

# Of each decision: scores [n] float32, kept rows [k] int64, sample ids [n] uint64 (stream mode: of the kept rows, [k]).
OnDecision = Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]], None]


class Outbox:
    """Between the I/O thread, which fills `ready`, and the training loop's. Nothing here waits.

    `lock` guards what the I/O thread works with. The steady path of the loop, `take` and `mark_trained`, takes no lock,
    so that it never waits for the I/O thread's work: `ready` is a deque with an atomic popleft, ledger, handed and the
    counts of batches and trained rows are the loop's own.
    """

    def __init__(self, batch_size: int, pad: structure.Pad) -> None:
        self.lock = threading.Condition()
        self.ready: deque[Ready] = deque()
        self.assembler = Assembler(batch_size, pad)
        self.ledger = Ledger()
        self.handed = Handed()
        self.stats = Stats()
        self.steps = 0
        self.full = False  # the I/O thread waits for a batch to be taken

    def expect_claims(self) -> None:
        with self.lock:
            self.assembler.keep_parts = True

    def take(self) -> Ready | None:
        """The next batch, the end of the pass or an error, if one is there. The training loop's thread."""
        try:
            item = self.ready.popleft()
        except IndexError:
            return None
        if item.info is not None:
            self.hand_out(item)
        return item

    def asks(self) -> bool:
        """The loop is about to wait for a batch; True: the I/O thread must be woken."""
        return False

    def took(self) -> bool:
        """After `take`; True: the I/O thread must be woken."""
        was, self.full = self.full, False
        return was

    def wait(self, seconds: float) -> None:
        """Until there may be something to take."""
        with self.lock:
            if not self.ready:
                self.lock.wait(seconds)

    def step_to(self, steps: int) -> None:
        """Optimizer steps done."""
        self.steps = self.stats.steps = steps

    def sync(self) -> None:
        """Brings `stats` up to date. REQUIRES: lock held"""
        self.stats.trained = self.ledger.rows

    def repeats_not(self, now: Any) -> Callable[[tuple[Any, int]], bool]:
        """Keys whose untrained rows a repeat of pass `now` would not bring back: the one that is half trained, and
        those of earlier passes."""
        half = self.ledger.half_trained()
        return lambda key: key == half or key[0] != now

    def passes_ready(self) -> list[Any]:
        """Of each candidate batch whose rows are in a batch that is ready. REQUIRES: lock held"""
        return [where for item in self.ready if item.info is not None for where, _, _ in item.info.keys]

    def add_waiting(self, parts: PieceParts, wanted: Callable[[tuple[Any, int]], bool]) -> None:
        """Rows that were handed out and are not trained, then those of batches that are ready. REQUIRES: lock held"""
        self.handed.add_rows(parts, wanted)
        for item in self.ready:
            if item.flat is not None and item.info is not None:
                parts.add_batch(item.flat, item.info, wanted)

    def hand_out(self, item: Ready) -> None:
        """`item`, a batch, goes to the training loop."""
        assert item.flat is not None and item.info is not None
        s, info = self.stats, item.info
        s.batches += 1
        s.handed_out += item.flat.rows
        info.handed_out(s.batches, self.steps)
        self.ledger.handed_out(s.batches, info.keys)
        if self.assembler.keep_parts:
            self.handed.add(item)
        age, most = info.age(self.steps)
        s.staleness_sum += age
        if most > s.staleness_max:
            s.staleness_max = most

    def mark_trained(self, ordinal: int) -> None:
        self.ledger.mark_trained(ordinal)
        self.handed.mark_trained(ordinal)

    def take_back(self, ordinal: int) -> None:
        """Batches that were handed out and never begun, from `ordinal` on, come again first."""
        with self.lock:
            back = self.handed.take_back(ordinal)
            self.ledger.take_back(ordinal)
            self.stats.batches -= len(back)
            self.stats.handed_out -= sum(item.flat.rows for item in back if item.flat is not None)
            self.ready.extendleft(reversed(back))
