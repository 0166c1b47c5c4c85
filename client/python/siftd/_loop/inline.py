# SPDX-License-Identifier: Apache-2.0
"""Sifting without workers: candidates are scored on the training loop's thread by the model in training, as Amazon
SageMaker smart sifting and Composer's SelectiveBackprop do. The loop pays for the scoring; nothing is ever stale.

InlineCore stands where LoaderCore does, InlineIo where IoThread does. No thread, no socket, no copy of the model.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from siftd import policy as policies
from siftd._delivery.loader_core import PENDING_MOST, Lease, Verdicted
from siftd._delivery.score_cache import ScoreCache
from siftd._scorer.module import ScorerModule, scoring
from siftd._scorer.sharded import is_sharded
from siftd._select.score_cost import ScoreCost
from siftd._select.selector import Selector, rejected
from siftd._wire.codec import wire_pb2
from siftd.errors import ConfigError, StructureError


class InlineCore:
    """The leases of one loader, decided here. Use from the training loop's thread only."""

    def __init__(
        self,
        module: ScorerModule,
        fields: Sequence[str],
        policy: policies.Policy,
        seed: int,
        total_steps: int = 0,
        history: Sequence[float] = (),
        cost: ScoreCost | None = None,
        cache: ScoreCache | None = None,
    ) -> None:
        """`module`: of `build_scorer_module(..., copy=False)`. `fields`: of the batch, in the order of its arguments.
        `history`: scores that the policy's percentiles begin with. `cache`: of the scores of earlier visits. Raises
        ConfigError for a model that is sharded over processes."""
        if is_sharded(module.model):
            raise ConfigError(
                "workers",
                "inline",
                "worker processes (a number, or endpoints) for a sharded model: its forward takes every rank, and the "
                "ranks score different numbers of batches",
            )
        self._module, self._fields = module, tuple(fields)
        self._parameter = next(module.parameters(), None)
        self._selector = Selector(policy, seed, total_steps, history)
        self._cost, self._cache = cost or ScoreCost(), cache or ScoreCache(1)
        self.step = 0  # optimizer steps done
        self.pending: deque[Lease] = deque()
        self.verdicts: list[Verdicted] = []  # for the owner to take
        self.late_seconds: list[float] = []
        self.duplicates = 0
        self.failure = ""
        self.connected = 1
        self.workers = 0  # the training loop scores

    @property
    def outstanding(self) -> int:
        return len(self.pending)

    def offer(self, lease: Lease, now: float) -> None:
        """Takes a batch on; `decide` settles it."""
        lease.prior = self._cache.visit(lease.sample_ids)
        self.pending.append(lease)

    @property
    def has_room(self) -> bool:
        return len(self.pending) < PENDING_MOST

    def undecided(self) -> list[Lease]:
        return list(self.pending)

    def may_have_sent(self, lease: Lease) -> bool:
        return False

    def oldest(self) -> Lease | None:
        return self.pending[0] if self.pending else None

    def close_lease(self, lease: Lease) -> None:
        self.pending.remove(lease)

    def cancel(self) -> int:
        """Gives up all leases; their number."""
        count = len(self.pending)
        self.pending.clear()
        return count

    def decide(self) -> bool:
        """Scores the oldest batch with the model as it is now. False: none waits.

        Raises StructureError when the batch lacks a field. Any other failure of the forward rejects the batch, which is
        then trained unsifted.
        """
        if not self.pending:
            return False
        lease = self.pending[0]
        began = time.perf_counter()
        decision = self._decision(lease)
        decision.model_version, decision.model_step = self.step + 1, self.step
        self.pending.popleft()
        self._cache.take(lease.sample_ids, lease.prior, np.asarray(decision.score, np.float32))
        self.verdicts.append(Verdicted(lease, decision, time.perf_counter() - began, 0))
        return True

    def _decision(self, lease: Lease) -> Any:
        tensors, rows = lease.context.tensors, len(lease.sample_ids)
        try:
            fields = [tensors[name] for name in self._fields]
        except KeyError as error:
            raise StructureError(f"a batch lacks field {error}, which the scorer reads") from error
        try:
            columns, seconds = self._score_others(fields, lease.prior)
        except Exception as error:
            text = f"the model or loss failed: {type(error).__name__}: {error}"
            return rejected(rows, wire_pb2.SCORING_FAILED, text)
        decision = self._selector.select(lease.key, lease.epoch, lease.sample_ids, lease.occurrence, columns, self.step)
        decision.score_seconds = seconds
        return decision

    def _score_others(
        self, fields: list[torch.Tensor], prior: np.ndarray[Any, Any]
    ) -> tuple[dict[str, np.ndarray[Any, Any]], float]:
        """As `_score`, of the rows without a prior; the others have it in every column. The policy reads one."""
        if len(prior) == 0:
            return self._score(fields)
        todo = np.flatnonzero(np.isnan(prior))
        if len(todo) == 0:
            return dict.fromkeys(self._module.columns, prior), 0.0
        rows = torch.from_numpy(todo)
        scored, seconds = self._score([f[rows.to(f.device)] for f in fields])
        columns = {name: prior.copy() for name in scored}
        for name, column in scored.items():
            columns[name][todo] = column
        return columns, seconds

    def _score(self, fields: list[torch.Tensor]) -> tuple[dict[str, np.ndarray[Any, Any]], float]:
        """Columns by name, float32 [n], and the seconds that they took."""
        device = torch.device("cpu") if self._parameter is None else self._parameter.device
        began = time.perf_counter()
        # no_grad, not inference_mode: what a model caches in its forward must stay usable in training.
        with scoring(self._module, device), _own_casts():
            clock = _Clock(device)
            fields = self._cost.shrunk([f.to(device, non_blocking=True) for f in fields])
            with self._cost.casts(device):
                columns = self._module(*fields)
            out = torch.stack([c.float() for c in columns])
            clock.stop()
            scores = out.cpu().numpy()
        seconds = clock.seconds(time.perf_counter() - began)
        return dict(zip(self._module.columns, scores, strict=True)), seconds


@contextlib.contextmanager
def _own_casts() -> Iterator[None]:
    """Autocast stays as it is, but for its cache of cast weights: those in it may be older than the model, and those
    cast here, without gradients, would be taken for the training's (by older versions of torch)."""
    was = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(was)


class _Clock:
    """Seconds of the device's own work: the host may be far ahead of it, with the training step still in its queue."""

    def __init__(self, device: torch.device) -> None:
        self._events: list[torch.cuda.Event] = []
        if device.type == "cuda":
            self._stream = torch.cuda.current_stream(device)
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self._events[0].record(self._stream)

    def stop(self) -> None:
        if self._events:
            self._events[1].record(self._stream)

    def seconds(self, host: float) -> float:
        """After the results are here. `host`: seconds by the host's clock, taken where the device is the host."""
        if not self._events:
            return host
        self._events[1].synchronize()
        return float(self._events[0].elapsed_time(self._events[1])) / 1e3


class _Turning(Protocol):
    """What InlineIo needs of an Engine."""

    ready: deque[Any]

    def turn(self, now: float) -> object: ...


class InlineIo:
    """IoThread's place without a thread: the training loop itself turns the engine, by `drive`."""

    def __init__(self, engine: _Turning, core: InlineCore) -> None:
        self._engine, self._core = engine, core
        self._awake = threading.Event()
        self.alive = True
        self.error: BaseException | None = None

    def start(self) -> None:
        """Nothing to start."""

    def wake(self) -> None:
        """A candidate came. Any thread."""
        self._awake.set()

    def stop(self, timeout: float = 5.0, goodbye: bool = True) -> None:
        self.alive = False
        self._awake.set()

    def drive(self, timeout: float) -> None:
        """Scores candidates until a batch, or the end of the pass, is ready, or `timeout` seconds are over; waits for
        candidates where there are none. The training loop's thread, without the engine's lock."""
        deadline = time.monotonic() + timeout
        while self.alive:
            self._awake.clear()  # before looking: a candidate that comes after the look wakes the wait below
            self._engine.turn(time.monotonic())
            if self._engine.ready:
                return
            decided = self._core.decide()
            left = deadline - time.monotonic()
            if left <= 0:
                if decided:
                    self._engine.turn(time.monotonic())
                return
            if not decided:
                self._awake.wait(left)
