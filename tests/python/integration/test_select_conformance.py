# SPDX-License-Identifier: Apache-2.0
"""The policies in NumPy against a real worker: the same scores, the same Decision, bit for bit."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import siftd
from siftd._delivery.loader_core import Lease, LoaderCore, LoaderOptions
from siftd._delivery.session import new_incarnation
from siftd._net.transport import IoThread
from siftd._select.selector import Selector
from siftd._weights.sync import WeightsSync
from siftd._wire.codec import wire_pb2
from siftd._wire.tensor import pack
from support import Worker

SEED = 0x0123456789ABCDEF
PATIENCE = 30.0  # seconds


@dataclass
class Batch:
    """A candidate batch whose scores are given."""

    scores: Any  # [n]
    seq: int = 0
    number: int = 0
    epoch: int = 0
    step: int = 0
    ids: list[int] = field(default_factory=list)  # empty: 1000 + row
    occurrence: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scores = np.asarray(self.scores, np.float32)
        self.ids = self.ids or [1000 + row for row in range(len(self.scores))]


class Echo(nn.Module):
    """The score of a row is its only feature."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.one


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder: Path = tmp_path_factory.mktemp("worker")
    with Worker(folder) as w:
        yield w


@contextmanager
def job(
    worker: Worker, policy: Any, total_steps: int, history: list[float]
) -> Iterator[tuple[LoaderCore, IoThread, queue.Queue[Any], queue.Queue[Any]]]:
    """A run of its own at the worker: (core, its thread, batches in, decisions out)."""
    model = Echo()
    scorer = siftd.export_scorer(model, lambda out: out, torch.rand(4))
    run = time.time_ns()
    spec = wire_pb2.JobSpec(
        mode=wire_pb2.MODE_VERDICTS, policy=policy, seed=SEED, artifact_sha256=scorer.sha256, total_steps=total_steps
    )
    options = LoaderOptions(wire_pb2.MODE_VERDICTS, run=run, job_spec=spec, data_size=1, batch_size=4, seed=SEED)
    core = LoaderCore(options, new_incarnation())
    batches: queue.Queue[Batch] = queue.Queue()
    decisions: queue.Queue[Any] = queue.Queue()

    def turn(now: float) -> None:
        while not batches.empty():
            b = batches.get_nowait()
            tensors, payload = pack({"0": torch.from_numpy(b.scores)})
            core.step = b.step
            core.offer(Lease((b.number, b.seq), b.epoch, b.ids, tensors, payload, b.occurrence), now)
        for verdicted in core.verdicts:
            decisions.put(verdicted.decision)
        core.verdicts = []

    weights = WeightsSync([worker.endpoint], "default", run, scorer, 1)
    weights.start(model, 0, history, PATIENCE)
    io = IoThread("test", [worker.endpoint], core, turn)
    io.start()
    try:
        yield core, io, batches, decisions
    finally:
        io.stop()
        weights.publisher.close()


def decided_by_worker(
    worker: Worker, policy: Any, batches: list[Batch], total_steps: int = 0, history: list[float] | None = None
) -> list[Any]:
    with job(worker, policy, total_steps, history or []) as (_, io, offered, decisions):
        out = []
        for batch in batches:  # one at a time: the order of the history is that of the batches
            offered.put(batch)
            io.wake()
            out.append(decisions.get(timeout=PATIENCE))
    return out


def decided_here(
    policy: Any, batches: list[Batch], total_steps: int = 0, history: list[float] | None = None
) -> list[Any]:
    selector = Selector(policy, SEED, total_steps, history or [])
    return [
        selector.select((b.number, b.seq), b.epoch, b.ids, b.occurrence, {"loss": b.scores}, b.step) for b in batches
    ]


def bits(decision: Any) -> dict[str, Any]:
    """The fields that selection fills, floats as their bits: NaN equals NaN, 0.0 is not -0.0."""
    floats = ("score", "keep_probability", "weight", "percentile")
    same = {name: np.asarray(getattr(decision, name), np.float32).view(np.uint32).tolist() for name in floats}
    return same | {
        name: list(decision.kept) if name == "kept" else getattr(decision, name)
        for name in ("outcome", "code", "text", "rows", "kept", "column")
    }


def compare(worker: Worker, policy: siftd.Policy, batches: list[Batch], **options: Any) -> list[Any]:
    """Asserts that both decide alike; the decisions."""
    theirs = decided_by_worker(worker, policy.to_proto(), batches, **options)
    ours = decided_here(policy, batches, **options)
    for at, (a, b) in enumerate(zip(theirs, ours, strict=True)):
        assert bits(b) == bits(a), f"batch {at} of {policy}"
    return ours


def some_batches(count: int = 24, at_most: int = 90, confidence: bool = False) -> list[Batch]:
    """Sizes from 1 row up, several epochs, ties, repeated ids, scores that are not finite, zeros of both signs."""
    rng = np.random.default_rng(5)
    batches = []
    for seq in range(count):
        n = int(rng.integers(1, at_most))
        scores = rng.random(n) if confidence else rng.exponential(1.0, n)
        scores[rng.random(n) < 0.2] = 0.25  # ties
        if seq % 3 == 2:
            scores[rng.random(n) < 0.15] = np.nan
            scores[rng.random(n) < 0.1] = np.inf
            scores[rng.random(n) < 0.1] = -np.inf
        if seq % 5 == 4:
            scores[rng.random(n) < 0.3] = 0.0
            scores[rng.random(n) < 0.3] = -0.0
        ids = rng.integers(0, 2**63, n).tolist()
        occurrence = rng.integers(0, 4, n).tolist() if seq % 4 == 1 else []
        batches.append(Batch(scores, seq % 6, seq // 6, seq // 6, 2 * seq, ids, occurrence))
    return batches


@pytest.mark.parametrize(
    "policy",
    [
        siftd.Uniform(0.3),
        siftd.Confidence(modifiers=siftd.Modifiers(column="loss")),
        siftd.Confidence(tau=0.07, floor=0.0, modifiers=siftd.Modifiers(column="loss", keep_non_finite=True)),
        siftd.LossCdf(),
        siftd.LossCdf(beta=0.37, loss_history_length=100),
        siftd.LossCdf(keep=0.45, loss_history_length=7, floor=0.1, clip=0.9),  # shorter than most batches
        siftd.LossCdf(beta=1.0, modifiers=siftd.Modifiers(keep_non_finite=True)),
        siftd.ComposerRank(0.5),
        siftd.ComposerRank(0.013),
        siftd.ComposerRank(1.0),
        siftd.TopK(0.31),
        siftd.TopK(0.5, modifiers=siftd.Modifiers(keep_non_finite=True)),
    ],
    ids=str,
)
def test_each_policy_decides_as_a_worker_does(one_worker: Worker, policy: siftd.Policy) -> None:
    decisions = compare(one_worker, policy, some_batches(confidence=isinstance(policy, siftd.Confidence)))
    assert {d.outcome for d in decisions} == {wire_pb2.OUTCOME_DECIDED}
    assert any(d.kept for d in decisions)


@pytest.mark.parametrize(
    "modifiers",
    [
        siftd.Modifiers(sift_delay=13),
        siftd.Modifiers(sift_delay=5, repeat_delay_per_epoch=True),
        siftd.Modifiers(start=0.25, end=0.75),
        siftd.Modifiers(start=0.1, end=0.8, interrupt=2, sift_delay=7),
        siftd.Modifiers(interrupt=3),
        siftd.Modifiers(),  # its end is that of the run
    ],
    ids=["delay", "delay-per-epoch", "window", "all", "interrupt", "none"],
)
def test_each_modifier_acts_as_at_a_worker(one_worker: Worker, modifiers: siftd.Modifiers) -> None:
    policy = siftd.LossCdf(loss_history_length=200, modifiers=modifiers)
    decisions = compare(one_worker, policy, some_batches(), total_steps=40)  # the steps are 0 to 46
    assert {d.outcome for d in decisions} == {wire_pb2.OUTCOME_DECIDED, wire_pb2.OUTCOME_UNSIFTED}


@pytest.mark.parametrize("policy", [siftd.Uniform, siftd.LossCdf, siftd.ComposerRank, siftd.TopK])
@pytest.mark.parametrize("kept", [False, True], ids=["dropped", "kept"])
def test_a_batch_without_a_finite_score_is_decided_alike(worker: Worker, policy: Any, kept: bool) -> None:
    lost = Batch([np.nan, np.inf, np.nan])
    chosen = policy(keep=0.5, modifiers=siftd.Modifiers(keep_non_finite=kept))
    decisions = compare(worker, chosen, [lost, Batch([1.0, np.nan, 2.0], seq=1)])
    assert list(decisions[0].kept) == ([0, 1, 2] if kept else [])


def test_the_history_that_a_run_begins_with_counts(one_worker: Worker) -> None:
    history = np.random.default_rng(8).exponential(1.0, 300).astype(np.float32).tolist() + [float("nan")]
    policy = siftd.LossCdf(beta=0.8, loss_history_length=256)
    decisions = compare(one_worker, policy, some_batches(4), history=history)
    assert bits(decisions[0]) != bits(decided_here(policy, some_batches(1))[0])


def test_a_policy_left_to_the_worker_is_chosen_alike(one_worker: Worker) -> None:
    left = siftd.Uniform(1.0, modifiers=siftd.Modifiers(sift_delay=3)).to_proto()
    left.ClearField("uniform")
    batches = some_batches(6)
    theirs = decided_by_worker(one_worker, left, batches)
    assert [bits(d) for d in decided_here(left, batches)] == [bits(d) for d in theirs]
    assert len(theirs[-1].percentile) == len(batches[-1].scores)


def test_a_column_that_is_not_there_is_told_alike(one_worker: Worker) -> None:
    policy = siftd.Uniform(0.5, modifiers=siftd.Modifiers(column="grad_norm"))
    decisions = compare(one_worker, policy, some_batches(1))
    assert decisions[0].code == wire_pb2.MODEL_MISMATCH
