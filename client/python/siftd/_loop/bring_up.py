# SPDX-License-Identifier: Apache-2.0
"""BringUp: how a drop-in gets its scorer, its workers and the first weights out, alone or with the other ranks.

| workers | who spawns | who publishes | loader index of a rank |
|---|---|---|---|
| "auto", a number | each node's first rank | the same | its place on the node |
| endpoints | nobody | rank 0 | its rank |
| "inline" | nobody | nobody | - |
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from siftd import policy as policies
from siftd._loop.distributed import Ranks
from siftd._loop.spawn import LocalWorkers, plan
from siftd._net.keys import KeyFiles
from siftd._scorer.module import ScorerModule, build_scorer_module
from siftd._scorer.sharded import is_sharded
from siftd._select.score_cost import ScoreCost
from siftd._weights.sync import WeightsSync
from siftd.errors import ConfigError, ExportError
from siftd.export import Loss, Scorer, export_scorer
from siftd.python_scorer import PythonScorer

log = logging.getLogger("siftd")
BATCH_BYTES_MOST = 64 << 20  # a worker's own default: what one lane must hold
WORKER_BUDGET = 512 << 20  # its default for all lanes


@dataclass(frozen=True)
class Wishes:
    """What the user asked for, as far as the start needs it."""

    model: nn.Module
    loss: Loss | nn.Module
    workers: str | int | Sequence[str]
    policy: policies.Policy | str
    beta: float | None
    keep: float | None
    total_steps: int | None
    sync_every: int
    scorer: Scorer | PythonScorer | None
    targets: Sequence[str] | None
    scale_factor: float
    job: str
    seed: int
    start_timeout: float
    cost: ScoreCost = ScoreCost()
    deterministic: bool = False
    keys: KeyFiles | None = None  # for workers that run already

    @property
    def inline(self) -> bool:
        return self.workers == "inline"

    @property
    def local(self) -> bool:
        return isinstance(self.workers, str | int)


@dataclass
class Running:
    """What a start gives. `local`: on the rank that spawned. `index`, `count`: of this rank's loader at its workers.
    `module`: inline, instead of workers and weights."""

    scorer: Scorer | PythonScorer
    policy: policies.Policy
    run: int
    seed: int
    endpoints: list[str]
    local: LocalWorkers | None = None
    weights: WeightsSync | None = None
    index: int = 0
    count: int = 1
    module: ScorerModule | None = None

    def close(self) -> None:
        if self.weights is not None and self.weights.publisher is not None:
            self.weights.publisher.close()
        if self.local is not None:
            self.local.close()


class BringUp:
    """One start. A collective where there are several ranks: all of them call the methods in the same order."""

    def __init__(self, wishes: Wishes, ranks: Ranks) -> None:
        self._w, self._ranks = wishes, ranks
        self._owner = ranks.leader if wishes.local else 0  # of scorer, workers and weights, as this rank sees it
        self._owns = ranks.rank == self._owner

    def run(self, example: Any) -> Running:
        """`example`: this rank's first batch. Without the first weights: those go out by `publish_first`."""
        ranks = self._ranks
        run, seed = ranks.together("agreeing on a run", lambda: (time.time_ns(), self._w.seed))[0]
        if self._w.inline:
            return self._run_inline(example, run, seed)
        scorer = self._scorer(example)
        policy = self._policy(scorer)
        local: list[LocalWorkers] = []

        def endpoints() -> list[str]:
            if not isinstance(self._w.workers, str | int):
                return list(self._w.workers)
            if not self._owns:
                return []
            local.append(self._spawn(scorer))
            return local[0].wait_ready(self._w.start_timeout)

        try:
            found = ranks.together("starting the workers", endpoints)[self._owner]
        except Exception:
            for workers in local:
                workers.close()
            raise
        weights = WeightsSync(
            found if self._owns else [], self._w.job, run, scorer, self._w.sync_every,
            everywhere=self._w.local and len(ranks.node) < ranks.world, keys=self._w.keys,
        )  # fmt: skip
        index, count = (ranks.node.index(ranks.rank), len(ranks.node)) if self._w.local else (ranks.rank, ranks.world)
        return Running(scorer, policy, run, seed, found, local[0] if local else None, weights, index, count)

    def _run_inline(self, example: Any, run: int, seed: int) -> Running:
        w = self._w
        if is_sharded(w.model):
            # Its forward takes every rank, and the ranks score different numbers of batches.
            raise ConfigError("workers", "inline", "worker processes for a sharded model")
        built = build_scorer_module(
            w.model, w.loss, example, targets=w.targets, scale_factor=w.scale_factor, copy=False
        )  # fmt: skip
        scorer = Scorer(b"", "", built.columns, built.fields, tuple(built.state))
        return Running(scorer, self._policy(scorer), run, seed, [], module=built.module)

    def publish_first(self, running: Running, step: int, history: Sequence[float]) -> None:
        """Until a worker of every publisher scores with them. Raises WorkerError or SiftdTimeoutError on all ranks."""
        weights = running.weights
        if weights is None:
            return
        self._ranks.together(
            "publishing the first weights",
            lambda: weights.start(self._w.model, step, history, self._w.start_timeout),
        )

    def _scorer(self, example: Any) -> Scorer | PythonScorer:
        if self._w.scorer is not None:
            return self._w.scorer
        exports = self._owns or is_sharded(self._w.model)  # gathering a sharded model takes every rank
        made: list[Scorer | PythonScorer] = []

        def export() -> Scorer | PythonScorer | None:
            if exports:
                made.append(self._export(example))
            if not self._owns:
                return None
            # The others need what it says of itself, not the model in it.
            return replace(made[0], archive=b"") if isinstance(made[0], Scorer) else made[0].described()

        told = self._ranks.together("exporting the model", export)[self._owner]
        assert told is not None
        return made[0] if self._owns else told

    def _export(self, example: Any) -> Scorer | PythonScorer:
        w = self._w
        try:
            return export_scorer(w.model, w.loss, example, targets=w.targets, scale_factor=w.scale_factor)
        except ExportError as error:
            if not self._w.local:
                raise ExportError(
                    f"{error}. Workers of a pool can run it as Python: start them with --backend python "
                    "--python-factory MODULE:FUNCTION and give scorer=siftd.PythonScorer.from_factory(...)"
                ) from error
            warnings.warn(
                f"the model can't be exported, so the workers run it as Python, which is slower: {error}", stacklevel=2
            )
            return PythonScorer.from_objects(w.model, w.loss, example, targets=w.targets, scale_factor=w.scale_factor)

    def _policy(self, scorer: Scorer | PythonScorer) -> policies.Policy:
        w = self._w
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if isinstance(w.policy, policies.Policy) else "default")
            policy = policies.resolve(
                w.policy, beta=w.beta, keep=w.keep, sees_logits=scorer.sees_logits, total_steps=w.total_steps
            )
        needs = policy.modifiers.column or ("confidence" if isinstance(policy, policies.Confidence) else "loss")
        if needs not in scorer.columns:
            raise ConfigError("policy", str(policy), f"one that reads a column of the scorer: {scorer.columns}")
        return policy

    def _spawn(self, scorer: Scorer | PythonScorer) -> LocalWorkers:
        assert isinstance(self._w.workers, str | int)
        device = next((p.device for p in self._w.model.parameters()), torch.device("cpu"))
        lanes = len(self._ranks.node)
        extra = self._w.cost.flags()
        if lanes * BATCH_BYTES_MOST > WORKER_BUDGET:
            extra += ("--budget-bytes", str(lanes * BATCH_BYTES_MOST))
        planned = plan(self._w.workers, device, lanes)
        if self._w.deterministic:  # sums of several threads depend on their number
            planned = [(device, 1) for device, _ in planned]
        return LocalWorkers(scorer, planned, extra)
