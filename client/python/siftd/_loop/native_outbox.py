# SPDX-License-Identifier: Apache-2.0
"""NativeOutbox: what both engines over the compiled client share: batches taken from its link, figures, scores."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from siftd._batches import structure
from siftd._batches.assembler import own_copy
from siftd._batches.handed import Ready
from siftd._batches.native_info import Layout, NativeInfo
from siftd._batches.outbox import Outbox
from siftd.errors import StructureError

log = logging.getLogger("siftd")


class NativeOutbox(Outbox):
    """All calls: the training loop's thread."""

    link: Any  # siftd._native.BatchLink or StreamLink; set by the engine

    def __init__(self, batch_size: int, layout: Layout, stream: bool) -> None:
        """`stream`: keys name their loader, too."""
        super().__init__(batch_size, {})
        self._layout, self._stream = layout, stream

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
            return Ready(self._flat(batch), self._info(batch))
        if ended >= 0:
            return self._ended(ended)
        return self._failed(StructureError(error)) if error else None

    def _post(self, posts: list[tuple[int, int, int, int]]) -> None:
        for index, number, seq, kept in posts:
            self.ledger.post(((index, number) if self._stream else number, seq), kept)

    def _flat(self, batch: Any) -> structure.Flat:
        return self._layout.flat(batch)

    def _info(self, batch: Any) -> NativeInfo:
        return NativeInfo(batch, self._stream)

    def _ended(self, number: int) -> Ready:
        return Ready(None, end_of=number)

    def _failed(self, error: StructureError) -> Ready:
        return Ready(None, error=error)

    def wait(self, seconds: float) -> None:
        if not self.ready:
            self.link.wait(seconds)

    def sync(self) -> None:
        super().sync()
        for name, value in self.link.figures().items():
            setattr(self.stats, name, value)

    def recent_scores(self) -> list[float]:
        return list(self.link.history())
