# SPDX-License-Identifier: Apache-2.0
"""NativeStreamEngine: StreamEngine over the compiled client, which receives, accepts and assembles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from siftd._batches.native_info import Layout, fields_of, known_of
from siftd._batches.state import PieceParts, load_piece
from siftd._delivery.ledger import IntervalSet
from siftd._delivery.native_loader import key_arguments, native, trainer_hello
from siftd._delivery.trainer_core import TrainerOptions
from siftd._loop.native_outbox import NativeOutbox
from siftd._net.keys import KeyFiles


class NativeStreamEngine(NativeOutbox):
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
        keys: KeyFiles | None = None,
    ) -> None:
        """`state`: what `position` gave. Raises ConfigError for an endpoint that is none."""
        super().__init__(options.batch_size, Layout(), stream=True)
        self.next_pass: dict[int, int] = {}  # by loader; restored
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
            **key_arguments(keys),
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

    # ------------------------------------------------------------ state
    def position(self) -> dict[str, Any]:
        """As StreamEngine's."""
        posts, decided, untaken = self.link.position()
        self._post(posts)
        waiting = [self._info(batch) for batch in untaken]
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
            self.add_waiting(parts, half.__eq__)
            for batch, info in zip(untaken, waiting, strict=True):
                parts.add_batch(self._flat(batch), info, half.__eq__)
        return {
            "next_pass": {str(k): v for k, v in next_pass.items()},
            "trained": trained,
            "half": None if half is None else parts.saved({})[0],
            "history": self.recent_scores(),
        }

    # ------------------------------------------------------------ what it tells
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
