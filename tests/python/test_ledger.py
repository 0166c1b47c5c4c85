# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import numpy as np

from siftd._delivery.ledger import SETTLE_AT, IntervalSet, Ledger
from siftd._select.recent_scores import RecentScores


def test_an_interval_set_is_a_set() -> None:
    draw = random.Random(3)
    for _ in range(200):
        mine, theirs = IntervalSet(), set()
        for x in (draw.randrange(30) for _ in range(40)):
            mine.add(x)
            theirs.add(x)
        assert [x for x in range(31) if x in mine] == sorted(theirs)
        assert len(mine) == len(theirs)
        pairs = mine.pairs()
        assert all(a[1] < b[0] for a, b in zip(pairs, pairs[1:], strict=False)), "neither adjacent nor overlapping"
        assert IntervalSet(pairs).pairs() == pairs


def mark(ledger: Ledger, ordinal: int) -> int:
    """The rows newly trained."""
    before = ledger.rows
    ledger.mark_trained(ordinal)
    return ledger.rows - before


def test_a_key_is_trained_when_its_last_row_is() -> None:
    ledger = Ledger()
    ledger.decided((0, 0), 5)
    ledger.decided((0, 1), 0)  # none was kept: nothing of it will be trained
    ledger.handed_out(1, [(0, 0, 4)])
    ledger.handed_out(2, [(0, 0, 1)])
    assert mark(ledger, 1) == 4
    assert (0 in ledger.trained[0], 1 in ledger.trained[0]) == (False, True)
    assert ledger.untrained_of((0, 0)) == 1
    assert mark(ledger, 2) == 1
    assert 0 in ledger.trained[0]
    assert mark(ledger, 2) == 0, "an ordinal counts once"


def test_marking_an_ordinal_marks_all_before() -> None:
    ledger = Ledger()
    for seq in range(3):
        ledger.decided((0, seq), 2)
        ledger.handed_out(seq + 1, [(0, seq, 2)])
    assert mark(ledger, 2) == 4
    assert ledger.trained[0].pairs() == [[0, 2]]


def test_what_nobody_asks_for_is_worked_out_all_the_same() -> None:
    """A run that never saves a state holds no more than a few batches' keys."""
    ledger = Ledger()
    for seq in range(1000):
        ledger.post((0, seq), 2)
        ledger.handed_out(seq + 1, [(0, seq, 2)])
        ledger.mark_trained(seq + 1)
    assert len(ledger._handed) <= SETTLE_AT
    assert ledger.rows == 2000


def test_a_closed_pass_is_forgotten() -> None:
    ledger = Ledger()
    ledger.decided((0, 0), 2)
    ledger.handed_out(1, [(0, 0, 2)])
    ledger.close_pass(0)
    assert mark(ledger, 1) == 0
    assert ledger.trained == {}


def test_recent_scores_are_the_last_finite_ones() -> None:
    recent = RecentScores(5, first=[1.0, 2.0])
    recent.add(np.array([3, np.nan, 4, np.inf], np.float32))
    assert recent.sample() == [1, 2, 3, 4]
    recent.add(np.array([5, 6, 7], np.float32))
    assert recent.sample() == [3, 4, 5, 6, 7]
    none = RecentScores(0)
    none.add(np.ones(3, np.float32))
    assert none.sample() == []
