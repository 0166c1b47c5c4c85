# SPDX-License-Identifier: Apache-2.0
"""What both loaders of a training loop are alike in: length, figures, end."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from siftd import policy as policies
from siftd._batches.info import BatchInfo, Stats
from siftd._batches.outbox import Outbox
from siftd._wire.codec import wire_pb2
from siftd.errors import ConfigError

log = logging.getLogger("siftd")
NEVER_STEPPED = 5  # sync periods without a step() after which the user is told
UNCLAIMED_MOST = 4096  # batches; far above what any framework fetches ahead


class Sifted:
    """Base of SiftingDataLoader and StreamLoader."""

    _steps_per_epoch: int | None
    _seed: int
    _total_steps: int | None
    _max_staleness_steps: int
    _sync_every: int

    def __init__(self) -> None:
        self.last_batch_info: BatchInfo | None = None
        self.control_group: Any = None  # of torch.distributed, where there are several ranks
        self._steps = 0
        self._step_called = False
        self._left_at = 0.0  # when the loop got its last batch
        self._epoch_steps = 0  # batches handed out in this epoch
        self._epoch_done = 0  # of the epoch that goes on after a resume: steps trained before
        self._claims = False
        self._unclaimed: deque[BatchInfo] = deque()

    # ------------------------------------------------------------ frameworks that fetch ahead
    def expect_claims(self) -> None:
        """For adapters of frameworks that fetch ahead; before the loader is iterated.

        From now on each batch is claimed when its training begins, and only `step(ordinal=...)` marks batches as
        trained: `state_dict` holds exactly that.
        """
        self._claims = True
        engine = self._outbox()
        if engine is not None:
            engine.expect_claims()

    def claim(self) -> BatchInfo:
        """The caller begins to train the oldest batch that was handed out and not claimed: what is known of it."""
        if not self._claims:
            raise ConfigError("claim()", "not expected", "after expect_claims(), called before the loader is iterated")
        if not self._unclaimed:
            raise ConfigError("claim()", "no batch", "once for each batch that this iteration handed out")
        return self._unclaimed.popleft()

    def _handed_out(self, info: BatchInfo) -> None:
        self.last_batch_info = info
        if self._claims:
            if len(self._unclaimed) >= UNCLAIMED_MOST:
                raise ConfigError("claim()", f"{UNCLAIMED_MOST} batches unclaimed", "called for each batch")
            self._unclaimed.append(info)

    def _forget_unclaimed(self) -> None:
        """A new iteration: what was fetched and never begun. With steps_per_epoch it comes again."""
        engine = self._outbox()
        if self._unclaimed and self._steps_per_epoch is not None and engine is not None:
            engine.take_back(self._unclaimed[0].ordinal)
        self._unclaimed.clear()

    def _outbox(self) -> Outbox | None:
        raise TypeError("a loader's")

    def _trained_of_epoch(self, engine: Outbox) -> int:
        """Steps of the epoch in progress that are trained. REQUIRES: engine.lock held"""
        return max(0, self._epoch_steps - (engine.stats.batches - engine.ledger.marked))

    def stats(self) -> Stats:
        """A copy of the counts so far."""
        raise TypeError("a loader's")

    def __iter__(self) -> Iterator[Any]:
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

    def _asks_again(self, engine: Outbox) -> None:
        """The loop wants another batch: the one in its hands is trained, unless it tells so by step()."""
        engine.stats.train_seconds += time.monotonic() - self._left_at
        if self._step_called or self._claims or self.last_batch_info is None:
            return
        engine.mark_trained(self.last_batch_info.ordinal)
        if self.last_batch_info.ordinal == NEVER_STEPPED * self._sync_every:
            log.warning(
                "siftd: %d batches and no loader.step(model): the workers score with the first weights. Call it after "
                "opt.step(), or give step_on_next=True",
                self.last_batch_info.ordinal,
            )

    def _stepped(self, engine: Outbox, ordinal: int | None) -> None:
        """An optimizer step: marks what it trained."""
        self._steps += 1
        self._step_called = True
        engine.step_to(self._steps)
        if ordinal is not None:
            engine.mark_trained(ordinal)
        elif self.last_batch_info is not None:
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

    def metrics(self) -> dict[str, float]:
        """What trackers log: shares, staleness in steps, waits in milliseconds, counts of rows; keys "sifting/..."."""
        s = self.stats()
        batches = max(1, s.batches)
        return {
            "sifting/kept_share": s.keep_fraction,
            "sifting/unsifted_share": s.unsifted / max(1, s.kept),
            "sifting/staleness_steps": s.staleness,
            "sifting/staleness_steps_max": float(s.staleness_max),
            "sifting/wait_ms_per_step": 1e3 * s.wait_seconds / batches,
            "sifting/model_version": float(s.model_versions),
            "sifting/candidates": float(s.candidates),
            "sifting/kept": float(s.kept),
            "sifting/trained": float(s.trained),
            "sifting/workers": float(s.workers),
        }

    def progress_line(self) -> str:
        """One short line, for a progress bar."""
        s = self.stats()
        wait = 1e3 * s.wait_seconds / max(1, s.batches)
        return (
            f"kept {s.keep_fraction:5.1%}  model v{s.model_versions}  stale {s.staleness:4.1f}  "
            f"wait {wait:5.2f} ms/step"
        )

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """After an exception the run is not over: a stream's loaders wait for the next one."""
        if kind is None:
            self.close()
        else:
            self._leave()

    def _leave(self) -> None:
        """Ends without the word that the run is over."""
        self.close()
