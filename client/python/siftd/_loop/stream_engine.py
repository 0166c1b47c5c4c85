# SPDX-License-Identifier: Apache-2.0
"""StreamEngine: a stream's background. Rows that arrive are accepted, assembled into batches and kept apart by epoch.

`turn` runs on the I/O thread; `lock` guards what it shares with the training loop's thread. Nothing here waits.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from siftd._batches import structure
from siftd._batches.handed import Ready
from siftd._batches.outbox import OnDecision, Outbox
from siftd._batches.piece import Piece
from siftd._batches.row_info import RowInfo
from siftd._batches.state import PieceParts
from siftd._delivery.trainer_core import EpochMark, TrainerCore
from siftd._loop.stream_state import StreamState
from siftd._net.transport import IoThread
from siftd._select.recent_scores import RecentScores
from siftd._wire.codec import wire_pb2
from siftd._wire.tensor import to_torch
from siftd.errors import StructureError

log = logging.getLogger("siftd")


class StreamEngine(Outbox):
    def __init__(
        self, batch_size: int, prefetch: int, lockstep: bool, drop_last: bool, pad: structure.Pad,
        history: RecentScores, on_decision: OnDecision | None,
    ) -> None:  # fmt: skip
        """`lockstep`: an epoch is one pass of each loader."""
        super().__init__(batch_size, pad)
        self._lockstep = lockstep
        self.state = StreamState(self.ledger, lockstep)
        self._batch_size, self._prefetch, self._drop_last = batch_size, prefetch, drop_last
        self._pad, self._on_decision = pad, on_decision
        self.core: TrainerCore | None = None  # set before the I/O thread starts
        self.history = history  # guarded by lock, like all below
        self.finishing = False
        self._decided: dict[int, int] = {}  # by loader: a lower pass is decided, and its rows are here
        self._boundaries: deque[tuple[int, int]] = deque()  # (epoch, rows added when it was complete)
        self._added = 0  # rows, to the assembler

    # ------------------------------------------------------------ the caller's thread
    def position(self) -> dict[str, Any]:
        """What is trained, and the untrained rows that no loader brings again."""
        with self.lock:
            waiting = [key[0] for key in self.assembler.waiting()]
            waiting += self.passes_ready()
            position = self.state.saved(self._decided, self.handed.passes(), waiting, self._rows_of, self._pad)
            return position | {"history": self.history.sample()}

    def _rows_of(self, wanted: Callable[[Any], bool]) -> PieceParts:
        """REQUIRES: lock held"""
        parts = PieceParts()
        self.add_waiting(parts, wanted)
        for piece in self.assembler.unhanded():
            if wanted(piece.key):
                parts.add(piece.key, piece.flat, piece.info)
        return parts

    def restore(self, state: dict[str, Any]) -> None:
        """What `position` gave. REQUIRES: the core is set, no thread runs"""
        assert self.core is not None
        self.state = StreamState(self.ledger, self._lockstep, state)
        self._decided = dict(self.state.next_pass)
        for piece in self.state.rows:
            self._buffer(piece)
        self.core.restore(self.state.next_pass, self.state.decided, 0)

    def _buffer(self, piece: Piece) -> None:
        self.assembler.add(piece)
        self._added += piece.rows

    # ------------------------------------------------------------ what it tells
    def recent_scores(self) -> list[float]:
        """REQUIRES: lock held"""
        return self.history.sample()

    @property
    def failure(self) -> str:
        return "" if self.core is None else self.core.failure

    @property
    def workers(self) -> int:
        return 0 if self.core is None else self.core.workers

    def waiting_for(self) -> tuple[str, str]:
        """Peer and stage."""
        core = self.core
        assert core is not None
        ended = sorted(i for i, s in core.loaders.items() if s.ends)
        stage = f"giving a batch (loaders heard of: {sorted(core.loaders)}, at the end of a pass: {ended})"
        return f"{core.connected} of {core.workers} workers connected", stage

    def finish(self, linger: float, io: IoThread) -> None:
        """Tells the loaders that the run is over. Acks and credit go on until nothing new comes for a heartbeat
        (design rule 10), or for `linger` seconds."""
        self.finishing = True
        io.wake()
        deadline = time.monotonic() + linger
        assert self.core is not None
        quiet_since, seen = time.monotonic(), -1
        while time.monotonic() < deadline and io.alive:
            with self.lock:
                count = self.core.decided + self.core.duplicates
                if count != seen:
                    quiet_since, seen = time.monotonic(), count
                if time.monotonic() - quiet_since > 1.0:
                    return
                self.ready.clear()  # room for what still comes
                self.lock.wait(0.1)
            io.wake()

    # ------------------------------------------------------------ the I/O thread
    def turn(self, now: float) -> bool:
        """True: enough is ready, so that messages can wait until the next wake-up."""
        core = self.core
        assert core is not None
        with self.lock:
            accepted, core.accepted = core.accepted, []
        decided = {index: of.next_pass for index, of in core.loaders.items()} if accepted else self._decided
        # Copies rows that are not aligned: not under the lock.
        pieces = [None if isinstance(a, EpochMark) else self._piece(*a) for a in accepted]
        with self.lock:
            for item, piece in zip(accepted, pieces, strict=True):
                if isinstance(item, EpochMark):
                    self._boundaries.append((item.epoch, self._added))
                elif piece is not None:
                    self._accept(item[0], piece)
            self._decided = decided
            core.step = self.steps
            self.stats.duplicates, self.stats.workers = core.duplicates, core.connected
            quiet = self._fill(now)
            if self.finishing:
                core.finish(now)
            self.stats.ready = len(self.ready)
            if self.ready:
                self.lock.notify_all()
            return quiet and not self.finishing

    def _fill(self, now: float) -> bool:
        """As far as batches can be made now; True: enough of them are ready. REQUIRES: lock held"""
        assert self.core is not None
        while True:
            made = self._assemble(now)
            self.full = True  # before the look: who takes a batch after it wakes this thread
            if len(self.ready) >= self._prefetch:
                return True
            self.full = False
            if not made:
                return False

    def _piece(self, m: Any, payload: list[memoryview]) -> Piece:
        tensors = {d.name: to_torch(d, payload) for d in m.tensor}
        key = ((m.key.loader, getattr(m.key, "pass")), m.key.seq)
        kept = np.asarray(m.decision.kept, np.int64)
        flat = structure.Flat(structure.spec_of(list(tensors)), len(kept), tensors, {}, {})
        return Piece(key, flat, RowInfo(m.sample_id, kept, m.decision, m.epoch, ids_of_kept=True))

    def _accept(self, m: Any, piece: Piece) -> None:
        d, s = m.decision, self.stats
        s.candidates += d.rows
        s.decided += d.rows
        s.kept += len(d.kept)
        s.dropped += d.rows - len(d.kept)
        s.verdicts += 1
        if d.outcome == wire_pb2.OUTCOME_REJECTED:
            s.rejected_batches += 1
            self._warn_rejected(d.text)
        elif d.outcome == wire_pb2.OUTCOME_UNSIFTED:
            s.unsifted += d.rows
        if len(d.score):
            s.score_seconds += d.score_seconds
            s.scored_rows += d.rows
        if len(d.score) and (self.history.length or self._on_decision is not None):
            scores = np.asarray(d.score, np.float32)
            self.history.add(scores)
            if self._on_decision is not None:
                self._on_decision(scores, np.asarray(d.kept, np.int64), np.asarray(m.sample_id, np.uint64))
        self.ledger.post(piece.key, piece.rows)
        self._buffer(piece)

    def _warn_rejected(self, text: str) -> None:
        if self.stats.rejected_batches == 1:
            log.warning("siftd: a worker rejected a batch, which is not trained: %s", text)

    def _assemble(self, now: float) -> bool:
        """Batches while there is room; none reaches over the end of an epoch. True: something was made."""
        assert self.core is not None
        before = self.assembler.waiting()
        made = False
        try:
            while len(self.ready) < self._prefetch and self._make_one():
                made = True
        except StructureError as error:
            self.ready.append(Ready(None, error=error))
        emptied = before[: len(before) - len(self.assembler.waiting())]  # rows leave first in, first out
        self.core.consumed([(where[0], where[1], seq) for where, seq in emptied], self.assembler.rows, now)
        return made

    def _make_one(self) -> bool:
        """A full batch, the remainder of an epoch, or its end. False: neither is due."""
        taken = self._added - self.assembler.rows
        rows = self._batch_size
        if self._boundaries:
            epoch, at = self._boundaries[0]
            left = at - taken
            if left < rows and (self._drop_last or left <= 0):
                self._boundaries.popleft()
                self.ready.append(Ready(None, end_of=epoch))
                return True
            rows = min(rows, left)
        if self.assembler.rows < rows:
            return False
        self.ready.append(self.assembler.take(rows))
        return True
