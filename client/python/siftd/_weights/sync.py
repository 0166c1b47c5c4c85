# SPDX-License-Identifier: Apache-2.0
"""WeightsSync: the training loop's side of publishing: when, from what, and whether the workers have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from siftd._net.keys import KeyFiles
from siftd._weights.publisher import Publisher
from siftd._weights.snapshot import artifact_snapshot
from siftd._weights.snapshotter import Snapshotter
from siftd.errors import SiftdTimeoutError, WorkerError


class Exported(Protocol):
    """A Scorer or a PythonScorer, as far as weights need it."""

    @property
    def archive(self) -> bytes: ...  # empty: it does not go over the wire
    @property
    def sha256(self) -> str: ...
    @property
    def state(self) -> Sequence[Any]: ...


class WeightsSync:
    """Use from the training loop's thread; the sending is the Publisher's, on threads of its own.

    In a torch.distributed job every rank makes one and makes the same calls at the same steps. For a model whose
    parameters are spread over ranks (FSDP2, DTensors) `publish` and `start` are collectives of all ranks; for any other
    model they cost nothing on ranks without endpoints. `due` depends on the step alone. Frozen parameters are published
    once, and again when they change: see Snapshotter, also for what that takes of memory.

    Args:
      endpoints: of the workers that this rank publishes to; []: this rank only takes part in the collectives.
      everywhere: ranks other than 0 publish a sharded model, too; the whole model is then gathered on every rank's
        device instead of on rank 0's host. The same on all ranks.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        job: str,
        run: int,
        scorer: Exported,
        sync_every: int,
        everywhere: bool = False,
        keys: KeyFiles | None = None,
    ) -> None:
        self._endpoints, self._run, self._sync_every = list(endpoints), run, sync_every
        self._snapshotter = Snapshotter(scorer.state, everywhere)
        artifact = artifact_snapshot(scorer.archive, run) if scorer.archive else None
        self.publisher = Publisher(endpoints, job, run, artifact, keys) if endpoints else None
        if self.publisher is not None:
            self.publisher.core.artifact_sha256 = scorer.sha256
        self.version = 0  # last published

    def publish(self, model: nn.Module, step: int, history: Sequence[float]) -> None:
        """Copies the weights; returns before they are sent. `history`: recent scores, for workers that join.

        Raises ConfigError when the model is not the exported one, or FSDP1's.
        """
        self.version += 1
        if self.publisher is None:
            self._snapshotter.follow(model)
        else:
            self.publisher.offer(self._snapshotter.take(model, self._run, self.version, step, history))

    def start(self, model: nn.Module, step: int, history: Sequence[float], timeout: float) -> None:
        """Publishes the first weights and waits until a worker scores with them. Raises WorkerError when none will.

        Ranks that do not publish return at once.
        """
        self.publish(model, step, history)
        if self.publisher is None:
            return
        self.publisher.start()
        if self.publisher.wait(1, timeout):
            return
        core = self.publisher.core
        why = core.failure or "; ".join(core.refusals[-1:])
        if why:
            raise WorkerError(why)
        raise SiftdTimeoutError(
            ", ".join(self._endpoints), "taking the first weights", timeout,
            core.refusals_text() + "Check with `siftd status ENDPOINT` that workers run there, and their logs",
        )  # fmt: skip

    def due(self, step: int) -> bool:
        """After each step; True: publish now."""
        if self.publisher is not None:
            self.publisher.step = step
        return step % self._sync_every == 0
