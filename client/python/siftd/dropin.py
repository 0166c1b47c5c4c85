# SPDX-License-Identifier: Apache-2.0
"""SiftingDataLoader: the drop-in around a user's DataLoader."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from siftd import policy as policies
from siftd._batches import structure
from siftd._batches.outbox import OnDecision
from siftd._batches.passes import Passes
from siftd._batches.source import Source
from siftd._loop.bring_up import Wishes
from siftd._loop.distributed import own_state, rank_and_world
from siftd._loop.dropin_checks import check_deterministic, check_keys, check_ranges, check_workers
from siftd._loop.dropin_loop import DropInLoop
from siftd._select.score_cost import ScoreCost
from siftd.errors import StateError
from siftd.export import Loss, Scorer
from siftd.python_scorer import PythonScorer

STATE_SCHEMA = 2


class _Sampler:
    """What trainers look for to announce an epoch."""

    def __init__(self, set_epoch: Callable[[int], None]) -> None:
        self.set_epoch = set_epoch


class SiftingDataLoader(DropInLoop):
    """Wraps a DataLoader and hands out batches of the samples that are worth a training step.

        loader = siftd.SiftingDataLoader(loader, model=model, loss="cross_entropy", workers="auto")
        for epoch in range(30):
            for x, y in loader:
                ...                    # the loop stays as it was
                opt.step()
                loader.step(model)     # returns at once; publishes every sync_every steps in the background

    Separate sifting workers score candidate batches with a copy of the model; the verdicts come back, and the kept
    rows of several candidates make up batches of the user's size and structure. A plain iterable: not a DataLoader.

    Args:
      loader: any iterable of batches (tensor, tuple, list, dict, nested), usually a DataLoader.
      model: the model in training; its weights are published.
      loss: a name ("cross_entropy", "mse", ...) or a callable giving one loss per row; see siftd.export_scorer.
      workers: "auto" (local ones on spare devices or cores), a number of local ones, a list of endpoints, or "inline":
        scored in this process, inside the loop, as SageMaker smart sifting and Composer do.
      policy: "auto" or a policy of siftd.policy; or `beta` or `keep` for SageMaker's rule.
      sync_every: trainer steps between published versions, [1, 1e6].
      total_steps: of the whole run; where known, its last 20 % stay unsifted.
      steps_per_epoch: makes an epoch exactly this many full batches; passes over the data follow each other. Needed
        where torch.distributed has several ranks, so that all make equal steps.
      batch_size: rows of a batch; default: the loader's.
      drop_last: carry an epoch's remainder into the next one; default: the loader's.
      prefetch: batches ready ahead of the loop, [1, 1024].
      timeout: seconds that `next` may wait for a batch before it raises SiftdTimeoutError.
      starve_timeout: seconds without a verdict after which batches go out unsifted.
      start_timeout: seconds for the workers to come up and take the first weights.
      max_staleness_steps: rows scored by an older model are handed out unsifted; 0 = no bound.
      seed: of the coin; default: drawn from torch's seed.
      ids: callable(batch) -> sample ids; default: the dataset index where the sampler shows it.
      pad: by field name, for batches with different trailing sizes: the fill value, or (value, "left").
      targets: fields that are targets, where the names don't tell.
      scorer: an export of this model and loss, as workers that take none over the wire were started with
        (siftd.Scorer.load(FILE)), or a PythonScorer; default: exported at the first batch.
      scale_factor: shrinks images for the scoring pass only, (0, 1]; see siftd.export_scorer.
      score_dtype: "bf16": the scoring pass computes in bfloat16; "float32": as the model does. For workers that
        start here; others have their own flag, `siftd worker --score-dtype`, as for the next one.
      score_resolution: image inputs [n, c, h, w] larger than N are scaled to N x N for the scoring pass; 0 = never.
      score_optimize: fold and fuse the scorer for the workers' CPU at each version: faster convolutions; the last bits
        of scores differ. For workers that start here and run an exported scorer.
      rescore_every: score a sample on every n-th visit only, [1, 254], and decide by that score in between: from the
        second epoch on scoring costs about 1 / n. Needs ids that name samples (see `ids`).
      step_on_next: each `next` counts as an optimizer step on the batch before it, for loops that don't call step().
      feeder_process: pull the loader in a process of its own, outside of this one's GIL.
      deterministic: the same rows are kept in each run, whatever the number of workers: each candidate is decided by
        the model version, and its score history, of a step that follows from the loop alone. Needs a loop, a model and
        a seed that repeat themselves, and workers with equal hardware and `--threads` (those that start here get one
        each). Costs speed: steps at which weights are published wait for all verdicts, nothing goes out unsifted when
        workers are slow, and the background runs in Python.
      keys: secret key file of this client, for workers that were started with keys; its key needs the roles loader and
        publisher. Made by `siftd keygen client`. Default: SIFTD_KEYS.
      worker_key: public key file of those workers; default: SIFTD_WORKER_KEY, or worker.key beside `keys`.
      on_decision: called on a background thread with each decision: (scores [n] float32, kept rows [k] int64, ids
        uint64 [n]).

    With torch.distributed initialised every rank makes its own, around its own shard (siftd.distributed_loader); the
    first `next` is then a collective, and so is `step` for sharded models. Ranks agree on run, seed and scorer; local
    workers are spawned and fed with weights by the first rank of each node, a pool is fed by rank 0.

    Use from one thread, the training loop's. Raises ConfigError for arguments out of range, ExportError at the first
    batch when the model can't be exported for a pool, WorkerError when no worker can be had.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        model: nn.Module,
        loss: Loss | nn.Module = "cross_entropy",
        workers: str | int | Sequence[str] = "auto",
        policy: policies.Policy | str = "auto",
        beta: float | None = None,
        keep: float | None = None,
        sync_every: int = 20,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        batch_size: int | None = None,
        drop_last: bool | None = None,
        pin_memory: bool = False,
        device: torch.device | str | None = None,
        prefetch: int = 2,
        timeout: float = 600.0,
        starve_timeout: float = 5.0,
        start_timeout: float = 120.0,
        max_staleness_steps: int = 0,
        seed: int | None = None,
        ids: Callable[[Any], Sequence[int]] | None = None,
        pad: structure.Pad | None = None,
        targets: Sequence[str] | None = None,
        scorer: Scorer | PythonScorer | None = None,
        scale_factor: float = 1.0,
        score_dtype: str = "float32",
        score_resolution: int = 0,
        score_optimize: bool = False,
        rescore_every: int = 1,
        step_on_next: bool = False,
        feeder_process: bool = False,
        deterministic: bool = False,
        job: str = "default",
        keys: str | os.PathLike[str] | None = None,
        worker_key: str | os.PathLike[str] | None = None,
        on_decision: OnDecision | None = None,
    ) -> None:
        super().__init__()
        given = dict(locals())
        check_ranges(given)
        policies.resolve(policy, beta=beta, keep=keep, total_steps=total_steps)  # fails here, not at the first batch
        cost = ScoreCost(score_dtype, score_resolution, score_optimize)
        check_workers(workers, cost)
        if deterministic:
            check_deterministic(given)
        files = check_keys(workers, keys, worker_key)
        self._source = Source(loader, ids)
        self._source.check_rescoring(rescore_every)
        self._rescore_every = rescore_every
        self._passes = Passes(self._source, feeder_process)
        self._seed = torch.initial_seed() & 0xFFFFFFFFFFFFFFFF if seed is None else seed
        self._wishes = Wishes(
            model, loss, workers, policy, beta, keep, total_steps, sync_every, scorer, targets, scale_factor, job,
            self._seed, start_timeout, cost, deterministic, files,
        )  # fmt: skip
        self._model = model
        self._sync_every, self._total_steps, self._steps_per_epoch = sync_every, total_steps, steps_per_epoch
        self.batch_size = batch_size or self._source.batch_size
        self._drop_last = self._source.drop_last if drop_last is None else drop_last
        self._pin_memory, self._device, self._prefetch = pin_memory, device, prefetch
        self._timeout, self._starve_timeout = timeout, starve_timeout
        self._max_staleness_steps, self._step_on_next = max_staleness_steps, step_on_next
        self._pad = structure.infer_pad(self._source.collate_fn) | dict(pad or {})
        self._job, self._on_decision, self._deterministic = job, on_decision, deterministic
        self.sampler = _Sampler(self.set_epoch)
        self.scorer = scorer

    # ------------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        """The position: what is trained. Picklable; small but for at most one batch of tensors.

        The batch in hand counts as trained. Take it on the training loop's thread.
        """
        rank, world = rank_and_world()
        state: dict[str, Any] = {
            "schema": STATE_SCHEMA,
            "rank": rank,
            "world": world,
            "steps": self._steps,
            "epoch_steps": 0,
            "seed": self._seed,
            "data_size": self._source.data_size,
            "batch_size": self.batch_size or 0,
            "trained": [],
            "rows": [],
            "history": [],
            **self._passes.saved(ended_is_open=False)[1],
        }
        if self._engine is None:
            return self._passes.resume or state
        engine = self._engine
        with engine.lock:
            if self.last_batch_info is not None and not self._claims:
                engine.ledger.mark_trained(self.last_batch_info.ordinal)
            now, about = self._passes.saved(ended_is_open=len(engine.handed) > 0)
            state |= about
            if now is not None:
                intervals = engine.ledger.trained.get(now.number)
                state["trained"] = intervals.pairs() if intervals is not None else []
            if self._steps_per_epoch is not None:
                state["epoch_steps"] = self._trained_of_epoch(engine)
            state["rows"] = engine.rows_to_save(None if now is None else now.number, self._pad)
            state["history"] = engine.recent_scores()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Acts on the next iter(). {} does nothing. Takes what siftd.gather_state gave, too.

        Raises StateError when the state is another loader's, or of another number of ranks.
        """
        if not state:
            return
        state = own_state(state, *rank_and_world())
        if state.get("schema") != STATE_SCHEMA:
            raise StateError(f"schema is {state.get('schema')!r}; allowed: {STATE_SCHEMA}")
        for name, mine in (("data_size", self._source.data_size), ("batch_size", self.batch_size or 0)):
            if state[name] and mine and state[name] != mine:
                raise StateError(f"the state was saved with {name} {state[name]}, this loader has {mine}")
        self._cancel_pass()
        self._passes.load(state)
        self._seed = state["seed"]
        self._steps = state["steps"]
        self._wishes = replace(self._wishes, seed=self._seed)
        self.batch_size = self.batch_size or state["batch_size"] or None
        done = state["epoch_steps"]
        self._epoch_done = 0 if self._steps_per_epoch is None or done >= self._steps_per_epoch else done
        self._unclaimed.clear()
