# SPDX-License-Identifier: Apache-2.0
"""Passes: a drop-in's iterations over the user's loader, numbered, one at a time, and how a state repeats one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from siftd._batches import structure
from siftd._batches.feeder import FeederProcess
from siftd._batches.piece import Piece
from siftd._batches.source import Candidate, PassState, Source
from siftd._batches.state import load_piece
from siftd._delivery.ledger import IntervalSet
from siftd.errors import ConfigError


class Closable(Protocol):
    def close(self) -> None: ...


@dataclass
class Opened:
    """A pass that began. `example`: rows of it, where they were asked for. The rest: what a state brings."""

    candidates: Iterator[Candidate]
    example: structure.Flat | None = None
    resumed: bool = False
    trained: IntervalSet = field(default_factory=IntervalSet)
    rows: list[Piece] = field(default_factory=list)
    history: Sequence[float] = ()


class Passes:
    """Use from the training loop's thread."""

    def __init__(self, source: Source, feeder_process: bool) -> None:
        self.source = source
        self._feeder_process = feeder_process
        self.current: PassState | None = None
        self.ended: PassState | None = None  # the one before, whose last batches may not be trained yet
        self.next_epoch: int | None = None  # as announced by set_epoch
        self.resume: dict[str, Any] | None = None  # a state that the next pass begins with
        self._next_number = 0
        self._feed: Closable | None = None

    def open(self, want_example: bool) -> Opened | None:
        """Begins a pass: the one of the state to resume, or the next. None: that one was trained to its end."""
        state, self.resume, self.ended = self.resume, None, None
        opened = Opened(iter(()), resumed=state is not None)
        skip: Callable[[int], bool] | None = None
        if state is not None:
            opened.rows = [load_piece(r) for r in state["rows"]]
            opened.history = state["history"]
        if state is not None and state["pass"] is not None:
            was = state["pass"]
            self.current = PassState(was["number"], was["epoch"], was["rng"], was["generators"])
            opened.trained = trained = IntervalSet(state["trained"])
            # The rows of these batches are in the state: they are not loaded again.
            here = {piece.key[1] for piece in opened.rows if piece.key[0] == was["number"]}
            skip = lambda seq: seq in trained or seq in here  # noqa: E731
        else:
            number, self._next_number = self._next_number, self._next_number + 1
            epoch = number if self.next_epoch is None else self.next_epoch
            self.next_epoch = None
            self.current = PassState(number, epoch)
        self.source.set_epoch(self.current.epoch)
        if self._feeder_process:
            opened.candidates = iter(FeederProcess(self.source, self.current, skip))
        else:
            opened.candidates = self.source.begin(self.current, skip)
        if want_example and not self._find_example(opened):
            self.current = None
            return None
        return opened

    def _find_example(self, opened: Opened) -> bool:
        first = next(opened.candidates, None)
        if first is not None:
            opened.example = first.flat
            opened.candidates = _after(first, opened.candidates)
        elif opened.rows:
            opened.example = opened.rows[0].flat
        elif not opened.resumed:
            raise ConfigError("loader", "empty", "a loader that gives at least one batch")
        return opened.example is not None

    def pulled_by(self, feed: Closable) -> None:
        """What pulls the pass from now on; closed with it."""
        self._feed = feed

    def end(self) -> None:
        """The last batch of the pass was handed out."""
        self.ended, self.current = self.current, None
        self.close_feed()

    def cancel(self) -> None:
        self.current = None
        self.close_feed()

    def close_feed(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def saved(self, ended_is_open: bool) -> tuple[PassState | None, dict[str, Any]]:
        """The pass that a state goes on with, and the state's fields about it. `ended_is_open`: batches of the pass
        that ended last are not trained yet."""
        now = self.ended if self.current is None and ended_is_open else self.current
        about = None
        if now is not None:
            about = {"number": now.number, "epoch": now.epoch, "rng": now.rng, "generators": list(now.generators)}
        return now, {"next_pass": self._next_number, "pass": about}

    def load(self, state: dict[str, Any]) -> None:
        self._next_number = state["next_pass"]
        self.resume = state


def _after(first: Candidate, others: Iterator[Candidate]) -> Iterator[Candidate]:
    yield first
    yield from others
