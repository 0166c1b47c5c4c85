# SPDX-License-Identifier: Apache-2.0
"""CandidateLoader: a process that only feeds. Its batches go to the workers, the kept rows to a trainer rank."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from siftd._batches.source import Candidate, End, Feed, PassState, Source
from siftd._checks import in_range
from siftd._delivery.ledger import IntervalSet
from siftd._delivery.loader_core import Lease, LoaderCore, LoaderOptions
from siftd._delivery.score_cache import MOST_EVERY
from siftd._delivery.session import new_incarnation
from siftd._net.keys import key_files
from siftd._net.transport import IoThread
from siftd._wire.codec import wire_pb2
from siftd._wire.tensor import pack
from siftd.errors import ConfigError, SiftdTimeoutError, WorkerError

LAST_WORDS = 5.0  # seconds for what workers still have to tell after the run's end
PENDING_MOST = 2  # batches taken from the loader and not yet sent


class CandidateLoader:
    """Feeds the workers with the batches of `loader` until the trainers are done.

        siftd.CandidateLoader(endpoints, loader, loader_index=0, loader_count=2, epochs=10).run()

    The order of each pass is a function of (seed, pass) alone: torch, numpy, random and the loader's generators are
    seeded before it, so that after a crash or a resume a key names the same samples.

    Args:
      endpoints: of the workers.
      loader: an iterable of batches; shard it so that each loader index gives other samples.
      loader_index, loader_count: this loader's number among all; it feeds trainer rank index % world.
      epochs: passes over the data; None = until the trainers are done.
      rescore_every: score a sample on every n-th visit only, [1, 254], and decide by that score in between: from the
        second pass on scoring costs about 1 / n. Needs ids that name samples: a map-style dataset's indices, or `ids`.
      start_timeout: seconds to wait for workers and for the trainer's position.
      timeout: seconds without any progress after which run raises SiftdTimeoutError; trainers may pause for long
        (validation), so the default is an hour.
      keys, worker_key: as for SiftingDataLoader; the key needs the role loader.

    Use from one thread.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        loader: Iterable[Any],
        *,
        loader_index: int = 0,
        loader_count: int = 1,
        epochs: int | None = None,
        seed: int = 0,
        ids: Callable[[Any], Sequence[int]] | None = None,
        max_batch_bytes: int = 0,
        rescore_every: int = 1,
        start_timeout: float = 120.0,
        timeout: float = 3600.0,
        job: str = "default",
        keys: str | os.PathLike[str] | None = None,
        worker_key: str | os.PathLike[str] | None = None,
    ) -> None:
        if isinstance(endpoints, str) or not endpoints:
            raise ConfigError("endpoints", endpoints, "a list with at least one endpoint")
        if not 0 <= loader_index < loader_count <= 65536:
            raise ConfigError("loader_index", loader_index, f"0 to loader_count - 1 = {loader_count - 1}")
        if epochs is not None and epochs < 1:
            raise ConfigError("epochs", epochs, ">= 1, or None")
        self._endpoints, self._epochs, self._seed = list(endpoints), epochs, seed
        self._start_timeout, self._timeout = start_timeout, timeout
        in_range("rescore_every", rescore_every, 1, MOST_EVERY)
        self._source = Source(loader, ids)
        self._source.check_rescoring(rescore_every)
        self._changed = threading.Condition()
        self._feed: Feed | None = None  # guarded by _changed, like the rest
        self._pass = 0
        self._epoch = 0
        self._end: End | None = None
        self._progress = time.monotonic()
        self._sent_batches = 0
        self._settled_rows = 0
        self._kept_rows = 0
        self.core = LoaderCore(
            LoaderOptions(
                mode=wire_pb2.MODE_SAMPLES,
                job=job,
                name=f"loader {os.getpid()}",
                index=loader_index,
                count=loader_count,
                max_batch_bytes=max_batch_bytes,
                data_size=self._source.data_size,
                batch_size=self._source.batch_size or 0,
                seed=seed,
                rescore_every=rescore_every,
            ),
            new_incarnation(),
        )
        self._io = IoThread("siftd-loader", self._endpoints, self.core, self._turn, key_files(keys, worker_key))
        self._started = False

    # ------------------------------------------------------------ the caller's thread
    def run(self) -> None:
        """Feeds pass after pass; returns when the last one is settled or the trainers said that they are done."""
        if not self._started:
            self._started = True
            self._io.start()
        position = self._wait_position()
        while position is not None:
            position = self._run_from(position)
        self._wait_told()
        self.close()

    def _wait_position(self) -> Any:
        deadline = time.monotonic() + self._start_timeout
        with self._changed:
            while self.core.position is None:
                self._check()
                if self.core.done:
                    return None
                if time.monotonic() > deadline:
                    stage = "saying Welcome" if self.core.connected == 0 else "telling the trainer's position"
                    raise SiftdTimeoutError(
                        ", ".join(self._endpoints), stage, self._start_timeout,
                        f"{self.core.refusals_text()}Are the workers up (`siftd status`), and is the trainer of this "
                        "loader's rank running?",
                    )  # fmt: skip
                self._changed.wait(0.2)
            position, self.core.position = self.core.position, None
            return position

    def _run_from(self, position: Any) -> Any:
        """Passes from the position on. Returns the next position when a new run begins, None at the end."""
        index = self.core.options.index
        pairs: dict[int, list[list[int]]] = {}
        d = position.decided
        for i in range(len(d.loader)):
            if d.loader[i] == index:
                pairs.setdefault(getattr(d, "pass")[i], []).append([d.begin[i], d.end[i]])
        decided = {number: IntervalSet(of_pass) for number, of_pass in pairs.items()}
        number = d.next_pass[index] if index < len(d.next_pass) else 0
        while self._epochs is None or number < self._epochs or position.repeat:
            state = PassState(number, number)
            self._seed_pass(number)
            self._source.set_epoch(number)
            skip = decided.get(number)
            candidates = self._source.begin(state, skip.__contains__ if skip is not None else None)
            # Seeded anew above: what begin() put back is the state of this pass, whichever way it began.
            feed = Feed(candidates, 0, self._io.wake)
            with self._changed:
                self._pass, self._epoch, self._end, self._feed = number, number, None, feed
                self._progress = time.monotonic()
            self._io.wake()
            again = self._wait_pass(number, position.repeat, skip)
            feed.close()
            if again is not None or self.core.done:
                return again
            number += 1
        return self._wait_settled()

    def _seed_pass(self, number: int) -> None:
        seed = (self._seed * 1_000_003 + number * 7919) % (1 << 32)
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        for generator in self._source.generators():
            generator.manual_seed(seed)

    def _wait_pass(self, number: int, repeat: bool, skip: IntervalSet | None) -> Any:
        """Until the pass is offered and, unless passes may mix, acked. A new run's position ends it."""
        with self._changed:
            ended = False
            while True:
                self._check()
                if self.core.position is not None:
                    self._feed = None
                    position, self.core.position = self.core.position, None
                    return position
                if self.core.done:
                    self._feed = None
                    return None
                if self._end is not None and not ended:
                    if self._end.error is not None:
                        raise self._end.error
                    ended = True
                    batches = max([self._end.batches, *(e for _, e in (skip.pairs() if skip is not None else []))])
                    final = self._epochs is not None and number + 1 >= self._epochs and not repeat
                    self.core.end_pass(number, self._epoch, batches, final, time.monotonic())
                    self._io.wake()
                if ended and (repeat or number in self.core.acked_ends):
                    return None
                self._wait_for_progress(number)

    def _wait_settled(self) -> Any:
        with self._changed:
            while self.core.outstanding > 0 and not self.core.done:
                self._check()
                if self.core.position is not None:
                    position, self.core.position = self.core.position, None
                    return position
                self._wait_for_progress(self._pass)
        return None

    def _wait_told(self) -> None:
        """The run's end comes by each worker's own link, after what that one settled: else figures would be short."""
        deadline = time.monotonic() + LAST_WORDS
        with self._changed:
            while self.core.done and not self.core.told and time.monotonic() < deadline:
                self._changed.wait(0.1)

    def _wait_for_progress(self, number: int) -> None:
        waited = time.monotonic() - self._progress
        if waited > self._timeout:
            raise SiftdTimeoutError(
                f"{self.core.connected} of {len(self.core.sessions)} workers connected",
                f"pass {number}: settling {self.core.outstanding} batches or acking the end of the epoch",
                self._timeout,
                "See `siftd status`: is the trainer taking batches, and are all loaders there?",
            )
        self._changed.wait(0.5)

    def _check(self) -> None:
        if self.core.failure:
            raise WorkerError(self.core.failure)
        if not self._io.alive:
            raise WorkerError(f"siftd's I/O thread ended: {self._io.error}")

    def progress_line(self) -> str:
        with self._changed:
            return (
                f"loader {self.core.options.index}: pass {self._pass}, {self._sent_batches} batches sent, "
                f"{self.core.outstanding} out, {self._kept_rows} rows kept"
            )

    def close(self) -> None:
        with self._changed:
            feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()
        if self._started:
            self._io.stop()

    def __enter__(self) -> CandidateLoader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # ------------------------------------------------------------ the I/O thread
    def _turn(self, now: float) -> None:
        with self._changed:
            if self.core.settled:
                self._kept_rows += sum(kept for _, kept in self.core.settled)
                self._settled_rows += sum(len(lease.sample_ids) for lease, _ in self.core.settled)
                self.core.settled.clear()
                self._progress = now
            while self._feed is not None and self._end is None and len(self.core.pending) < PENDING_MOST:
                item = self._feed.take()
                if item is None:
                    break
                self._progress = now
                if isinstance(item, End):
                    self._end = item
                else:
                    self._offer(item, now)
            if self._feed is not None:
                self._feed.go_on()
            self._changed.notify_all()

    def _offer(self, item: Candidate, now: float) -> None:
        tensors, payload = pack(item.flat.tensors)
        if item.flat.listed and self._sent_batches == 0:
            names = ", ".join(item.flat.listed)
            print(f"siftd: fields that are no tensors stay behind in stream mode: {names}", file=sys.stderr)
        self._sent_batches += 1
        self.core.offer(
            Lease(
                (self._pass, item.seq),
                self._epoch,
                item.sample_ids,
                tensors,
                payload,
                item.occurrence,
                nbytes=sum(p.nbytes for p in payload),
            ),
            now,
        )
