# SPDX-License-Identifier: Apache-2.0
"""ExactEngine: the engine of deterministic mode. Each candidate names the model version that decides it, and decisions
take effect in the order of the candidates, whoever made them and whenever they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from siftd._batches import structure
from siftd._batches.piece import Piece
from siftd._batches.rounds import Rounds
from siftd._batches.source import Candidate
from siftd._delivery.loader_core import Key, LoaderCore, Verdicted
from siftd._loop.engine import Engine, EngineOptions
from siftd._wire.codec import wire_pb2


class ExactEngine(Engine):
    """As Engine. The training loop's thread besides: asks, round_over, begin_round."""

    def __init__(
        self,
        options: EngineOptions,
        core: LoaderCore,
        pad: structure.Pad,
        rounds: Rounds,
        history: Sequence[float] = (),
    ) -> None:
        super().__init__(options, core, pad, history)
        self.rounds = rounds
        self._order: deque[Key] = deque()  # issued, not taken in
        self._early: dict[Key, tuple[Verdicted, Piece]] = {}  # decided before one that goes first
        self._asked = 0  # batches that the loop wants in all
        self._not_exact = ""

    # ------------------------------------------------------------ the caller's thread
    def asks(self) -> bool:
        self._asked = self.stats.batches + 1
        return True

    def cancel(self) -> None:
        with self.lock:
            super().cancel()
            self.rounds.cancel()

    def round_over(self) -> bool:
        """All candidates of the round are decided, or the pass has no more of them. REQUIRES: lock held"""
        ran_out = self._feed is None or self._end is not None
        return self.rounds.over or (ran_out and self.rounds.out == 0)

    def begin_round(self, version: int, step: int) -> None:
        """REQUIRES: the round before is over. The caller wakes the I/O thread."""
        with self.lock:
            ready = sum(r.flat.rows for r in self.ready if r.flat is not None)
            self.rounds.begin(version, step, self.assembler.rows + ready)

    @property
    def failure(self) -> str:
        return self._not_exact or super().failure

    # ------------------------------------------------------------ the I/O thread
    def _wants_candidate(self) -> bool:
        return self.rounds.may_issue

    def _take_candidates(self, now: float) -> None:
        hungry = self._asked > self.stats.batches and not self.ready and self.assembler.rows < self.options.batch_size
        if hungry and self._feed is not None and self._end is None:
            self.rounds.more()
        super()._take_candidates(now)
        if self.round_over():
            self.lock.notify_all()

    def _offer(self, item: Candidate, now: float) -> None:
        self.required = self.rounds.version, self.rounds.step
        super()._offer(item, now)
        if self._end is None:
            self.rounds.issued()
            self._order.append((self.pass_number, item.seq))

    def _arrived(self, v: Verdicted, piece: Piece) -> None:
        d = v.decision
        if d.outcome == wire_pb2.OUTCOME_REJECTED and d.code == wire_pb2.STALE:
            self._not_exact = (
                f"a worker could not decide batch {v.lease.key} by the model version that it requires: {d.text}; does "
                "another trainer publish to the same workers?"
            )
        self._early[v.lease.key] = v, piece
        while self._order and self._order[0] in self._early:
            first, its_piece = self._early.pop(self._order.popleft())
            self._decided(first, its_piece)
            self.rounds.decided(its_piece.rows)

    def _cancel_leases(self) -> None:
        super()._cancel_leases()
        self._order.clear()
        self._early.clear()

    def _finish_pass(self) -> None:
        if not self._order:
            super()._finish_pass()

    def _fill(self, now: float) -> bool:
        return super()._fill(now) and self.rounds.over
