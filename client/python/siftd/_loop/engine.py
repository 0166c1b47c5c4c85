# SPDX-License-Identifier: Apache-2.0
"""Engine: the drop-in's background. Candidates in, batches out, verdicts between; the circuit breaker.

`turn` runs on the I/O thread. Everything below "the caller's thread" is called by the training loop; `lock` guards what
both touch. Nothing here waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftd._batches import structure
from siftd._batches.assembler import own_copy
from siftd._batches.handed import Ready
from siftd._batches.outbox import OnDecision, Outbox
from siftd._batches.piece import Piece
from siftd._batches.row_info import RowInfo
from siftd._batches.source import Candidate, End, Feed
from siftd._batches.state import PieceParts
from siftd._delivery.ledger import IntervalSet
from siftd._delivery.loader_core import Lease, LoaderCore, Verdicted
from siftd._delivery.native_loader import NativeLoaderCore
from siftd._loop.inline import InlineCore
from siftd._select.recent_scores import RecentScores
from siftd._wire.codec import wire_pb2
from siftd._wire.tensor import describe, pack
from siftd.errors import StructureError

log = logging.getLogger("siftd")

BREAKER_CLOSES_AFTER = 3  # verdicts in a row within starve_timeout


@dataclass
class EngineOptions:
    batch_size: int
    prefetch: int
    starve_timeout: float  # seconds
    fields: tuple[str, ...]  # that travel to the worker
    drop_last: bool
    endless: bool  # steps_per_epoch: passes follow each other
    history_length: int
    on_decision: OnDecision | None = None


class Engine(Outbox):
    def __init__(
        self,
        options: EngineOptions,
        core: LoaderCore | NativeLoaderCore | InlineCore,
        pad: structure.Pad,
        history: Sequence[float] = (),
    ) -> None:
        super().__init__(options.batch_size, pad)
        self.options = options
        self.core = core
        self.history = RecentScores(options.history_length, history)
        self.breaker_open = False
        self.pass_number = -1
        self.epoch = 0
        self._feed: Feed | None = None
        self._end: End | None = None
        self._starving_since: float | None = None
        self._quick = 0
        self._warned: set[str] = set()
        self._cancels = self._cancels_done = 0
        self.required = (0, 0)  # model version that decides the candidates offered from now on, its step; 0: any
        self._described: tuple[Any, list[Any]] = (None, [])  # shapes and types of the newest candidate; descriptors

    # ------------------------------------------------------------ the caller's thread
    def begin_pass(self, number: int, epoch: int, candidates: Iterator[Candidate], wake: Callable[[], None]) -> Feed:
        """Pulls the pass on a background thread from now on."""
        feed = Feed(candidates, 0, wake)
        with self.lock:
            self.pass_number, self.epoch, self._feed, self._end = number, epoch, feed, None
            self._starving_since = None
        return feed

    def restore(self, number: int, trained: IntervalSet, rows: list[Piece]) -> None:
        """From a state: what is trained of the pass, and rows that go first."""
        with self.lock:
            self.ledger.trained[number] = trained
            for piece in rows:
                if piece.key[0] == number:
                    self.ledger.resume_half(piece.key, piece.rows)
                else:
                    self.ledger.decided(piece.key, piece.rows)
                self.assembler.add(piece)

    def cancel(self) -> None:
        """Gives the pass up; the caller closes the feed. The core's own thread drops the leases at its next turn."""
        with self.lock:
            self._feed = self._end = None
            self._cancels += 1
            gone = self.assembler.clear()
            gone += sum(r.flat.rows for r in self.ready if r.flat is not None)
            self.stats.cancelled += gone
            self.ready.clear()
            self.ledger.close_pass(self.pass_number)
            self.handed.close_pass(self.pass_number)

    def rows_to_save(self, now: int | None, pad: structure.Pad) -> list[dict[str, Any]]:
        """Untrained rows that a repeat of pass `now` would not bring back: those of the one key of which some rows are
        trained, and those carried over from earlier passes. Fewer than a batch but for what is ready to be handed out,
        or handed out and not trained. REQUIRES: lock held"""
        wanted, parts = self.repeats_not(now), PieceParts()
        self.add_waiting(parts, wanted)
        for piece in self.assembler.unhanded():
            if wanted(piece.key):
                parts.add(piece.key, piece.flat, piece.info)
        return parts.saved(pad)

    # ------------------------------------------------------------ what it tells
    def recent_scores(self) -> list[float]:
        """REQUIRES: lock held"""
        return self.history.sample()

    @property
    def failure(self) -> str:
        return self.core.failure

    @property
    def outstanding(self) -> int:
        return self.core.outstanding

    @property
    def workers(self) -> int:
        return self.core.workers

    # ------------------------------------------------------------ the I/O thread
    def turn(self, now: float) -> bool:
        """True: enough is ready, so that messages can wait until the next wake-up."""
        with self.lock:
            if self._cancels != self._cancels_done:
                self._cancel_leases()
            cancels = self._cancels
            verdicts, self.core.verdicts = self.core.verdicts, []
            late, self.core.late_seconds = self.core.late_seconds, []
        pieces = [self._piece(v) for v in verdicts]
        with self.lock:
            if self._cancels != cancels:  # meanwhile: the next turn comes at once
                self.core.verdicts = verdicts
                return False
            for verdicted, piece in zip(verdicts, pieces, strict=True):
                self._arrived(verdicted, piece)
            self._time_late(late)
            self.core.step = self.steps
            self.stats.duplicates = self.core.duplicates
            self.stats.workers = self.core.connected
            quiet = self._fill(now)
            self.stats.ready = len(self.ready)
            if self.ready:
                self.lock.notify_all()
            return quiet

    def _fill(self, now: float) -> bool:
        """As far as batches can be made now; True: enough of them are ready. REQUIRES: lock held"""
        while True:
            self._assemble()
            self._take_candidates(now)
            self._break_if_starving(now)
            self._finish_pass()
            self.full = True  # before the look: who takes a batch after it wakes this thread
            if len(self.ready) >= self.options.prefetch:
                return True
            self.full = False
            if self.assembler.rows < self.options.batch_size:
                return False

    def _cancel_leases(self) -> None:
        """What was offered, and decided and not taken, before the last cancel. REQUIRES: lock held"""
        self._cancels_done = self._cancels
        gone = [*self.core.undecided(), *(v.lease for v in self.core.verdicts)]
        self.stats.cancelled += sum(len(lease.sample_ids) for lease in gone)
        self.core.verdicts = []
        self.core.cancel()

    def _wants_candidate(self) -> bool:
        return self.assembler.rows < self.options.batch_size

    def _take_candidates(self, now: float) -> None:
        feed = self._feed
        if feed is None:
            return
        while self._end is None and self._wants_candidate() and self.core.has_room:
            item = feed.take()
            if item is None:
                break
            if isinstance(item, End):
                self._end = item
                break
            self._offer(item, now)
        feed.go_on()

    def _offer(self, item: Candidate, now: float) -> None:
        self.stats.candidates += item.flat.rows
        try:
            tensors, payload = self._packed(item.flat)
        except KeyError as error:
            self._end = End(item.seq, StructureError(f"a batch lacks field {error}, which the scorer reads"))
            return
        key = (self.pass_number, item.seq)
        self.core.offer(
            Lease(
                key,
                self.epoch,
                item.sample_ids,
                tensors,
                payload,
                item.occurrence,
                nbytes=sum(p.nbytes for p in payload),
                version=self.required[0],
                step=self.required[1],
                context=item.flat,
            ),
            now,
        )

    def _packed(self, flat: structure.Flat) -> tuple[list[Any], list[Any]]:
        """Descriptors and payload of what travels. Raises KeyError where a field is missing."""
        arrays, fields = flat.arrays(), self.options.fields
        tensors = [flat.tensors[name] for name in fields]
        if not all(name in arrays and t.numel() for name, t in zip(fields, tensors, strict=True)):
            return pack(zip(fields, tensors, strict=True))
        like = tuple((t.shape, t.dtype) for t in tensors)
        if like != self._described[0]:
            self._described = like, [describe(n, t, i) for i, (n, t) in enumerate(zip(fields, tensors, strict=True))]
        return self._described[1], [arrays[name] for name in fields]

    def _piece(self, v: Verdicted) -> Piece:
        d, lease = v.decision, v.lease
        if d.outcome == wire_pb2.OUTCOME_REJECTED:
            return self._unsifted_piece(lease, copy=False)
        kept = None
        if len(d.kept) < len(lease.sample_ids):
            kept = np.asarray(d.kept, np.int64)
        info = RowInfo(lease.sample_ids, kept, d, lease.epoch, prior=lease.prior)
        return Piece(lease.key, lease.context, info, kept)

    def _arrived(self, v: Verdicted, piece: Piece) -> None:
        self._decided(v, piece)

    def _decided(self, v: Verdicted, piece: Piece) -> None:
        d, n, s = v.decision, len(v.lease.sample_ids), self.stats
        s.decided += n
        s.kept += piece.rows
        s.dropped += n - piece.rows
        s.verdicts += 1
        s.verdict_seconds_sum += v.seconds
        if d.outcome == wire_pb2.OUTCOME_REJECTED:
            s.rejected_batches += 1
            s.unsifted += n
            self._warn(d.text, f"a worker could not decide a batch, which is trained unsifted: {d.text}")
        elif d.outcome == wire_pb2.OUTCOME_UNSIFTED:
            s.unsifted += n
        if len(d.score):
            s.score_seconds += d.score_seconds
            s.scored_rows += n
            s.prior_scores += int(np.count_nonzero(~np.isnan(v.lease.prior)))
        if len(d.score) and (self.history.length or self.options.on_decision is not None):
            scores = np.asarray(d.score, np.float32)
            self.history.add(scores)
            if self.options.on_decision is not None:
                ids = np.asarray(v.lease.sample_ids, np.uint64)
                self.options.on_decision(scores, np.asarray(d.kept, np.int64), ids)
        self.ledger.post(v.lease.key, piece.rows)
        self.assembler.add(piece)

    def _warn(self, key: str, text: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            log.warning("siftd: %s", text)

    def _assemble(self) -> None:
        while len(self.ready) < self.options.prefetch and self.assembler.rows >= self.options.batch_size:
            if not self._make(self.options.batch_size):
                return

    def _make(self, rows: int) -> bool:
        try:
            self.ready.append(self.assembler.take(rows))
        except StructureError as error:
            self.ready.append(Ready(None, error=error, end_of=self.pass_number))
            self.assembler.clear()
            self._end = End(0, error)
            return False
        return True

    def _finish_pass(self) -> None:
        """After the pass's last decision: the remainder, then its end."""
        if self._end is None or self._feed is None or self.core.outstanding > 0:
            return
        if self.assembler.rows >= self.options.batch_size:
            return  # room first
        carry = (self.options.drop_last or self.options.endless) and self._end.error is None
        if self.assembler.rows > 0 and not carry and not self._make(self.assembler.rows):
            return
        self.ready.append(Ready(None, end_of=self.pass_number, error=self._end.error))
        self._feed = None

    # ------------------------------------------------------------ circuit breaker
    def _break_if_starving(self, now: float) -> None:
        """The trainer never waits for sifting: without a batch to hand out, candidates go out unsifted."""
        if self.ready or self.core.outstanding == 0:
            self._starving_since = None
        elif self._starving_since is None:
            self._starving_since = now
        elif not self.breaker_open and now - self._starving_since >= self.options.starve_timeout:
            self.breaker_open = True
            self._quick = 0
            self.stats.breaker_opened += 1
            log.warning(
                "siftd: no verdict for %.1f s, %d workers connected: batches go out unsifted until they answer again",
                self.options.starve_timeout,
                self.core.connected,
            )
        while self.breaker_open and len(self.ready) < self.options.prefetch:
            lease = self.core.oldest()
            if lease is None:
                return
            self.core.close_lease(lease)
            piece = self._unsifted_piece(lease, copy=self.core.may_have_sent(lease))
            self.stats.decided += piece.rows
            self.stats.kept += piece.rows
            self.stats.unsifted += piece.rows
            self.ledger.post(piece.key, piece.rows)
            self.assembler.add(piece)
            self._assemble()

    def _time_late(self, seconds: list[float]) -> None:
        self.stats.late_verdicts += len(seconds)
        for age in seconds:
            self._quick = self._quick + 1 if age <= self.options.starve_timeout else 0
            if self.breaker_open and self._quick >= BREAKER_CLOSES_AFTER:
                self.breaker_open = False
                self._starving_since = None
                log.warning("siftd: the workers answer in time again: sifting goes on")

    def _unsifted_piece(self, lease: Lease, copy: bool) -> Piece:
        """`copy`: ZeroMQ may still be reading the tensors, and the user may change the batch in place."""
        flat = own_copy(lease.context) if copy else lease.context
        return Piece(lease.key, flat, RowInfo(lease.sample_ids, None, None, lease.epoch))
