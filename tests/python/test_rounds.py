# SPDX-License-Identifier: Apache-2.0
"""Which candidates a version is given, from decisions and steps alone."""

from __future__ import annotations

import random

from siftd._batches.rounds import Rounds


def kept_of(seq: int) -> int:
    return random.Random(seq).randrange(0, 33)


class Run:
    """A loop of `steps` steps over candidates of 32 rows; `shuffled` decides in which order the verdicts come back."""

    def __init__(self, sync_every: int, lead: int, batch: int, batches_per_step: int = 1) -> None:
        self.rounds = Rounds(batch, sync_every, lead, 32)
        self.sync_every, self.batch, self.per_step = sync_every, batch, batches_per_step
        self.version_of: list[int] = []
        self.supply = 0

    def go(self, steps: int, order: random.Random) -> list[int]:
        self.rounds.begin(1, 0, self.supply)
        for step in range(1, steps + 1):
            for _ in range(self.per_step):
                self.take(order)
            if step % self.sync_every == 0:
                self.finish(order)
                self.rounds.begin(1 + step // self.sync_every, step, self.supply)
        return self.version_of

    def take(self, order: random.Random) -> None:
        while self.supply < self.batch:
            if self.rounds.over:
                self.rounds.more()
            self.some(order)
        self.supply -= self.batch

    def finish(self, order: random.Random) -> None:
        while not self.rounds.over:
            self.some(order)

    def some(self, order: random.Random) -> None:
        """Issues as many as the pool likes, then takes in as many of those that are decided as it likes."""
        while self.rounds.may_issue and (self.rounds.out == 0 or order.random() < 0.7):
            self.rounds.issued()
            self.version_of.append(self.rounds.version)
        while self.rounds.out > 0:
            kept = kept_of(len(self.version_of) - self.rounds.out)
            self.rounds.decided(kept)
            self.supply += kept
            if order.random() < 0.3:
                return


def test_the_pools_speed_does_not_change_who_decides_what() -> None:
    for sync_every, lead, batch, per_step in ((20, 5, 16, 1), (1, 2, 16, 1), (7, 3, 64, 1), (4, 2, 16, 3)):
        runs = [Run(sync_every, lead, batch, per_step).go(60, random.Random(s)) for s in range(20)]
        shortest = min(map(len, runs))
        assert all(run[:shortest] == runs[0][:shortest] for run in runs)
        assert all(set(run[shortest:]) <= {1 + 60 // sync_every} for run in runs)  # of the round that is not over
        assert len(set(runs[0])) > 60 // sync_every // 2


def test_a_round_brings_the_rows_of_its_steps_and_of_the_lead() -> None:
    run = Run(20, 5, 16)
    run.rounds.begin(1, 0, 0)
    run.finish(random.Random(0))
    assert run.supply >= (20 + 5) * 16
    before = len(run.version_of)
    run.rounds.begin(2, 20, run.supply)  # nothing was taken: nothing is needed
    assert run.rounds.over
    run.rounds.begin(3, 40, run.supply - 160)
    run.finish(random.Random(0))
    assert 1 <= len(run.version_of) - before <= 160 / 16 * 2


def test_nothing_kept_goes_on_and_ends() -> None:
    rounds = Rounds(16, 2, 1, 32)
    rounds.begin(1, 0, 0)
    for _ in range(100):
        assert rounds.may_issue  # never over while rows are wanted
        while rounds.may_issue:
            rounds.issued()
        while rounds.out > 0:
            rounds.decided(0)
        assert not rounds.over
    rounds.cancel()
    assert rounds.over
    assert not rounds.may_issue
    rounds.more()
    assert rounds.may_issue
