# SPDX-License-Identifier: Apache-2.0
"""The sifting loader as Lightning's loops see it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from siftd._batches.info import BatchInfo
from siftd._frameworks.lightning_wrap import length

AHEAD_MOST = 2  # batches that Lightning fetches before it trains the first
_END = object()


class LightningFeed:
    """An iterable for Trainer.fit, around `outer`, which is `loader` or holds it.

    Lightning begins an iteration anew without having trained a batch of the one before (after a reload, and on resume
    at the end of an epoch): what it had fetched is given again, so that no pass over the data is given up. It also
    saves the state of any loader that has one, rank 0's only: here it is empty, and the callback's is what counts.
    """

    def __init__(self, outer: Iterable[Any], loader: Any) -> None:
        self.outer, self.loader = outer, loader
        self.restored = False  # a checkpoint held its position
        self.fixed_length = length(outer) is not None
        self._batches: Any = None  # iterator
        self._fetched: deque[Any] = deque()  # of an iteration of which no batch was begun
        self._begun = False

    def __iter__(self) -> Iterator[Any]:
        # A generator: Lightning calls iter() once only to see that it can.
        if self._batches is None or self._begun:
            self.restart()
            self._batches = iter(self.outer)
        batches = self._batches
        yield from tuple(self._fetched)
        while (batch := next(batches, _END)) is not _END:
            if not self._begun:
                self._fetched.append(batch)
                if len(self._fetched) > AHEAD_MOST:  # somebody trains without the callback: the tuner does
                    self._begin()
            yield batch
        if self._batches is batches:
            self._batches = None

    def claim(self) -> BatchInfo:
        """The oldest batch that was fetched and not begun is trained now."""
        self._begin()
        info: BatchInfo = self.loader.claim()
        return info

    def restart(self) -> None:
        """The next iter() asks the loader for a new iteration."""
        batches, self._batches = self._batches, None
        self._fetched.clear()
        self._begun = False
        if hasattr(batches, "close"):
            batches.close()

    def _begin(self) -> None:
        self._begun = True
        self._fetched.clear()

    def __len__(self) -> int:
        return len(self.outer)  # type: ignore[arg-type]

    @property
    def sampler(self) -> LightningFeed:
        """Where Lightning looks for set_epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        # With steps_per_epoch, Lightning's epochs are not passes over the data: those number themselves.
        if not self.fixed_length and hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A checkpoint that was saved without the callback holds the loader's own state."""
        if state and not self.restored:
            self.loader.load_state_dict(state)
            self.restored = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("outer", "loader"):
            raise AttributeError(name)
        return getattr(self.outer, name)  # trainer.train_dataloader is this object
