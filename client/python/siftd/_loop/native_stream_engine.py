# SPDX-License-Identifier: Apache-2.0
"""NativeStreamEngine: StreamEngine over the compiled client, which receives, accepts and assembles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from siftd._batches.native_info import Layout, fields_of, known_of
from siftd._batches.state import PieceParts
from siftd._delivery.native_loader import key_arguments, native, trainer_hello
from siftd._delivery.trainer_core import TrainerOptions
from siftd._loop.native_outbox import NativeOutbox
from siftd._loop.stream_state import StreamState
from siftd._net.keys import KeyFiles

INTERRUPTIBLE = 0.2  # seconds of one call: a signal is handled between two


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
        self.state = StreamState(self.ledger, not options.endless, state)
        self.link = native().StreamLink(
            list(endpoints),
            trainer_hello(options, incarnation, endpoints, self.state.next_pass, self.state.decided),
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
        for piece in self.state.rows:
            (index, number), seq = piece.key
            epoch, ids, about = known_of(piece)
            self.link.restore(index, number, seq, epoch, ids, fields_of(piece), about)

    # ------------------------------------------------------------ state
    def position(self) -> dict[str, Any]:
        """As StreamEngine's."""
        posts, decided, untaken = self.link.position()
        self._post(posts)
        infos = [self._info(batch) for batch in untaken]
        waiting = [k[0] for info in infos for k in info.keys]
        waiting += self.passes_ready()

        def rows_of(wanted: Callable[[Any], bool]) -> PieceParts:
            parts = PieceParts()
            self.add_waiting(parts, wanted)
            for batch, info in zip(untaken, infos, strict=True):
                if any(wanted((where, seq)) for where, seq, _ in info.keys):
                    parts.add_batch(self._flat(batch), info, wanted)
            return parts

        position = self.state.saved(dict(enumerate(decided)), self.handed.passes(), waiting, rows_of, {})
        return position | {"history": self.recent_scores()}

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
        deadline = time.monotonic() + linger
        while not self.link.finish(min(INTERRUPTIBLE, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                return
