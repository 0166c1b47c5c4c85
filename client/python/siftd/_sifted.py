# SPDX-License-Identifier: Apache-2.0
"""What both loaders of a training loop are alike in: length, figures, end."""

from __future__ import annotations

import time
from typing import Any

from siftd import policy as policies
from siftd._engine import Engine
from siftd._info import BatchInfo, Stats
from siftd._stream_engine import StreamEngine
from siftd._wire import wire_pb2


class Sifted:
    """Base of SiftingDataLoader and StreamLoader."""

    _steps_per_epoch: int | None
    _seed: int
    _total_steps: int | None
    _max_staleness_steps: int
    _step_called: bool
    _left_at: float  # when the loop got its last batch
    last_batch_info: BatchInfo | None

    def stats(self) -> Stats:
        """A copy of the counts so far."""
        raise TypeError("a loader's")

    def close(self) -> None:
        raise TypeError("a loader's")

    def _workers_known(self) -> int:
        raise TypeError("a loader's")

    def _job_spec(self, mode: int, policy: policies.Policy, artifact_sha256: str = "") -> Any:
        return wire_pb2.JobSpec(
            mode=mode,
            policy=policy.to_proto(),
            seed=self._seed,
            artifact_sha256=artifact_sha256,
            total_steps=self._total_steps or 0,
            max_staleness_steps=self._max_staleness_steps,
            stale_unsifted=self._max_staleness_steps > 0,
        )

    def _asks_again(self, engine: Engine | StreamEngine) -> None:
        """The loop wants another batch: the one in its hands is trained, unless it tells so by step()."""
        with engine.lock:
            engine.stats.train_seconds += time.monotonic() - self._left_at
        if not self._step_called and self.last_batch_info is not None:
            engine.mark_trained(self.last_batch_info.ordinal)

    def __len__(self) -> int:
        if self._steps_per_epoch is None:
            raise TypeError("the length of a sifted epoch is not known; give steps_per_epoch=... to fix it")
        return self._steps_per_epoch

    def summary(self) -> str:
        """A few lines for people."""
        s = self.stats()
        lines = [
            f"kept {s.keep_fraction:.1%} of {s.decided} candidate rows ({s.unsifted} unsifted), trained {s.trained}",
            f"staleness {s.staleness:.1f} steps (at most {s.staleness_max}), {s.model_versions} model versions, "
            f"waited {s.wait_seconds:.2f} s over {s.batches} batches",
        ]
        capacity = s.capacity(self._workers_known())
        return "\n".join([*lines, *([capacity] if capacity else [])])

    def progress_line(self) -> str:
        s = self.stats()
        wait = 1e3 * s.wait_seconds / max(1, s.batches)
        return (
            f"kept {s.keep_fraction:5.1%}  model v{s.model_versions}  stale {s.staleness:4.1f}  "
            f"wait {wait:5.2f} ms/step"
        )

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
