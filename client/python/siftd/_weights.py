# SPDX-License-Identifier: Apache-2.0
"""WeightsSync: the training loop's side of publishing: when, from what, and whether the workers have it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from siftd._publisher import Publisher
from siftd._snapshot import Snapshotter, artifact_snapshot
from siftd.errors import SiftdTimeoutError, WorkerError
from siftd.export import Scorer


class WeightsSync:
    """Use from the training loop's thread; the sending is the Publisher's, on threads of its own."""

    def __init__(self, endpoints: Sequence[str], job: str, run: int, scorer: Scorer, sync_every: int) -> None:
        self._endpoints, self._run, self._sync_every = list(endpoints), run, sync_every
        self._snapshotter = Snapshotter(scorer.state)
        self.publisher = Publisher(endpoints, job, run, artifact_snapshot(scorer.archive, run))
        self.version = 0  # last published

    def publish(self, model: nn.Module, step: int, history: Sequence[float]) -> None:
        """Copies the weights; returns before they are sent. `history`: recent scores, for workers that join."""
        self.version += 1
        snapshot = self._snapshotter.take(model, self._run, self.version, step)
        snapshot.begin.history.extend(history)
        self.publisher.offer(snapshot)

    def start(self, model: nn.Module, step: int, history: Sequence[float], timeout: float) -> None:
        """Publishes the first weights and waits until a worker scores with them. Raises WorkerError when none will."""
        self.publish(model, step, history)
        self.publisher.start()
        if self.publisher.wait(1, timeout):
            return
        core = self.publisher.core
        why = core.failure or "; ".join(core.refusals[-1:])
        if why:
            raise WorkerError(why)
        raise SiftdTimeoutError(
            ", ".join(self._endpoints), "taking the first weights", timeout,
            "Check with `siftd status ENDPOINT` that workers run there, and their logs",
        )  # fmt: skip

    def due(self, step: int) -> bool:
        """After each step; True: publish now."""
        self.publisher.step = step
        return step % self._sync_every == 0
