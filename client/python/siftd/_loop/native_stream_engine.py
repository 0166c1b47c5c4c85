# SPDX-License-Identifier: Apache-2.0
"""NativeStreamEngine: StreamEngine over the compiled client, which receives, accepts and assembles."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from siftd._batches.assembler import own_copy
from siftd._batches.handed import Ready
from siftd._batches.native_info import Layout, NativeInfo, fields_of, known_of
from siftd._batches.outbox import Outbox
from siftd._batches.state import PieceParts, load_piece
from siftd._delivery.ledger import IntervalSet
from siftd._delivery.native_loader import native, trainer_hello
from siftd._delivery.trainer_core import TrainerOptions
from siftd.errors import StructureError

log = logging.getLogger("siftd")


class NativeStreamEngine(Outbox):
    """All calls: the training loop's thread. No other thread is here."""

    def __init__(
        self,
        options: TrainerOptions,
        endpoints: Sequence[str],
        incarnation: int,
        *,
        prefetch: int,
        drop_last: bool,
        history_length: int,
        history: Sequence[float],
        state: dict[str, Any] | None,
    ) -> None:
        """`state`: what `position` gave. Raises ConfigError for an endpoint that is none."""
        super().__init__(options.batch_size, {})
        self.next_pass: dict[int, int] = {}  # by loader; restored
        self._layout = Layout()
        trained, half = self._restored(state)
        self.link = native().StreamLink(
            list(endpoints),
            trainer_hello(options, incarnation, endpoints, self.next_pass, trained),
            loader_count=options.loaders,
            batch_size=options.batch_size,
            window=options.window,
            prefetch=prefetch,
            endless=options.endless,
            drop_last=drop_last,
            history_length=history_length,
            history=list(history),
        )
        if half is not None:
            (index, number), seq = half.key
            epoch, ids, about = known_of(half)
            self.link.restore(index, number, seq, epoch, ids, fields_of(half), about)

    def _restored(self, state: dict[str, Any] | None) -> tuple[dict[int, dict[int, list[list[int]]]], Any]:
        """Keys that are not to come again, by loader and pass; rows of the one that is half trained."""
        if not state:
            return {}, None
        self.next_pass = {int(k): v for k, v in state["next_pass"].items()}
        passes = {int(i): {int(n): pairs for n, pairs in by.items()} for i, by in state["trained"].items()}
        for index, by_pass in passes.items():
            for number, pairs in by_pass.items():
                for begin, end in pairs:
                    for seq in range(begin, end):
                        self.ledger.decided(((index, number), seq), 0)
        if state["half"] is None:
            return passes, None
        piece = load_piece(state["half"])
        (index, number), seq = piece.key
        self.ledger.resume_half(piece.key, piece.rows)
        # Decided, so that it is not sent again; its rows are the state's.
        merged = IntervalSet(passes.setdefault(index, {}).get(number, []))
        merged.add(seq)
        passes[index][number] = merged.pairs()
        return passes, piece

    # ------------------------------------------------------------ batches
    def take(self) -> Ready | None:
        item = self.ready.popleft() if self.ready else self._from_link()
        if item is None or item.info is None:
            return item
        self.hand_out(item)
        if self.assembler.keep_parts and item.flat is not None:
            # What the user changes in place is not what a state saves, or what comes again.
            return replace(item, flat=own_copy(item.flat))
        return item

    def _from_link(self) -> Ready | None:
        batch, ended, posts, lines, warnings, error = self.link.take(self.steps)
        self._post(posts)
        for line in lines:
            log.info("%s", line)
        for line in warnings:
            log.warning("%s", line)
        if batch is not None:
            return Ready(self._layout.flat(batch), NativeInfo(batch, stream=True))
        if ended >= 0:
            return Ready(None, end_of=ended)
        return Ready(None, error=StructureError(error)) if error else None

    def _post(self, posts: list[tuple[int, int, int, int]]) -> None:
        for index, number, seq, kept in posts:
            self.ledger.post(((index, number), seq), kept)

    def wait(self, seconds: float) -> None:
        """Until there may be something to take."""
        if not self.ready:
            self.link.wait(seconds)

    # ------------------------------------------------------------ state
    def position(self) -> dict[str, Any]:
        """As StreamEngine's."""
        posts, decided, untaken = self.link.position()
        self._post(posts)
        waiting = [NativeInfo(batch, stream=True) for batch in untaken]
        open_passes = {where for info in waiting for where, _, _ in info.keys}
        open_passes |= {where for r in self.ready if r.info is not None for where, _, _ in r.info.keys}
        open_passes |= set(self.handed.passes())
        next_pass = dict(self.next_pass)
        for index, number in enumerate(decided):
            while number > next_pass.get(index, 0) and (index, number - 1) in open_passes:
                number -= 1
            if number > 0:
                next_pass[index] = number
        trained: dict[str, dict[str, list[list[int]]]] = {}
        for (index, number), intervals in self.ledger.trained.items():
            if number >= next_pass.get(index, 0):
                trained.setdefault(str(index), {})[str(number)] = intervals.pairs()
        half = self.ledger.half_trained()
        parts = PieceParts()
        if half is not None:
            wanted = half.__eq__
            self.handed.add_rows(parts, wanted)
            for item in self.ready:
                if item.flat is not None and item.info is not None:
                    parts.add_batch(item.flat, item.info, wanted)
            for batch, info in zip(untaken, waiting, strict=True):
                parts.add_batch(self._layout.flat(batch), info, wanted)
        return {
            "next_pass": {str(k): v for k, v in next_pass.items()},
            "trained": trained,
            "half": None if half is None else parts.saved({})[0],
            "history": self.recent_scores(),
        }

    # ------------------------------------------------------------ what it tells
    def sync(self) -> None:
        super().sync()
        for name, value in self.link.figures().items():
            setattr(self.stats, name, value)

    def recent_scores(self) -> list[float]:
        return list(self.link.history())

    @property
    def failure(self) -> str:
        return str(self.link.state()[2])

    @property
    def workers(self) -> int:
        return int(self.link.state()[0])

    def waiting_for(self) -> tuple[str, str]:
        """Peer and stage."""
        workers, connected, _, text = self.link.state()
        return f"{connected} of {workers} workers connected", f"giving a batch (this rank {text})"

    def finish(self, linger: float) -> None:
        """Tells the loaders that the run is over, and serves them until they have heard it, or for `linger` seconds."""
        self.link.finish(linger)
