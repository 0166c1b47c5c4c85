# SPDX-License-Identifier: Apache-2.0
"""PassesBehind: which passes a stream's state leaves behind."""

from __future__ import annotations

from siftd._batches.passes_behind import PassesBehind


def test_all_loaders_move_on_together_once_the_epochs_end_was_handed_out() -> None:
    """Bug: each moved on by itself where none of its own rows waited, and a resumed run never ended."""
    behind = PassesBehind(lockstep=True, restored={})
    decided = {0: 1, 1: 1}
    assert behind.next_pass(decided, []) == {0: 0, 1: 0}
    behind.epoch_over()
    assert behind.next_pass(decided, []) == {0: 1, 1: 1}


def test_a_row_that_is_not_trained_holds_all_loaders_back() -> None:
    behind = PassesBehind(lockstep=True, restored={})
    behind.epoch_over()
    assert behind.next_pass({0: 1, 1: 1}, [(1, 0)]) == {0: 0, 1: 0}
    assert behind.next_pass({0: 1, 1: 1}, [(1, 1)]) == {0: 1, 1: 1}


def test_lockstep_counts_on_from_a_state() -> None:
    behind = PassesBehind(lockstep=True, restored={0: 3, 1: 3})
    assert behind.next_pass({0: 4, 1: 4}, []) == {0: 3, 1: 3}
    behind.epoch_over()
    assert behind.next_pass({0: 4, 1: 4}, []) == {0: 4, 1: 4}
    assert behind.next_pass({}, []) == {0: 3, 1: 3}, "nothing was heard of them yet"


def test_where_passes_mix_each_loader_moves_by_itself() -> None:
    behind = PassesBehind(lockstep=False, restored={0: 1})
    assert behind.next_pass({0: 4, 1: 2}, [(0, 2), (0, 3), (1, 5)]) == {0: 2, 1: 2}
    assert behind.next_pass({0: 4}, [(0, 0)]) == {0: 1}, "never below what a state said"
