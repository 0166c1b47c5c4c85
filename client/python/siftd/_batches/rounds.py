# SPDX-License-Identifier: Apache-2.0
"""Rounds: which candidate batches a model version decides, in deterministic mode. Pure; the owner's lock.

A round begins where a version is published and lasts until the next one. It is given candidates, in their order, until
they brought the rows of `sync_every` steps and of the first `lead` steps of the round after. How many that takes is
reckoned from what was decided in the rounds before; where it was too few, more follow once all are decided. So it
follows from decisions and from the loop's steps alone, never from who was quicker.
"""

from __future__ import annotations

import math

MOST = 4096  # candidates at once


class Rounds:
    def __init__(self, batch_size: int, sync_every: int, lead: int, candidate_rows: int) -> None:
        """`lead`: batches. `candidate_rows`: of the first candidates, as far as known."""
        self._batch_size = batch_size
        self._rows = (sync_every + lead) * batch_size
        self._more = lead * batch_size
        self._kept, self._decided = candidate_rows / 2, 1.0  # rows, candidates; a guess until some are decided
        self._guess = True
        self._need = 0  # rows still to come
        self._allowed = 0  # candidates that may be issued
        self._out = 0  # issued and not decided
        self.version = 0
        self.step = 0  # that the version was published at

    def begin(self, version: int, step: int, rows_ahead: int) -> None:
        """REQUIRES: nothing is out. `rows_ahead`: decided and not handed out."""
        self.version, self.step = version, step
        self._need, self._allowed = self._rows - rows_ahead, 0
        self._allot()

    def more(self) -> None:
        """The loop waits for a batch, and all that the round was given is used up: steps of several batches."""
        if self.over:
            self._need = self._more
            self._allot()

    @property
    def may_issue(self) -> bool:
        return self._allowed > 0

    @property
    def out(self) -> int:
        return self._out

    @property
    def over(self) -> bool:
        """All that the round was given is decided."""
        return self._allowed == 0 and self._out == 0

    def issued(self) -> None:
        self._allowed -= 1
        self._out += 1

    def decided(self, kept: int) -> None:
        """A candidate with so many kept rows."""
        if self._guess:
            self._guess, self._kept, self._decided = False, 0.0, 0.0
        self._out -= 1
        self._kept += kept
        self._decided += 1
        self._need -= kept
        self._allot()

    def cancel(self) -> None:
        """What is out will not be decided, and what was decided is given up; the next candidates come by `more`."""
        self._need = self._allowed = self._out = 0

    def _allot(self) -> None:
        if self._need > 0 and self.over:
            each = max(self._kept / self._decided, 1.0)
            self._allowed = min(MOST, math.ceil(self._need / each))
