# SPDX-License-Identifier: Apache-2.0
"""The arms: what feeds the loop. One run of one arm gives one Record."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from pool import pool
from programs import BUILD

import siftd
from cifar.tasks import BATCH, Candidates, Task
from cifar.training import make_model, train

UNSIFTED_START = 1 / 16  # of the steps; 50 of 800
KEEP = 0.5  # of the random control


@dataclass(frozen=True)
class Arm:
    """`policy`: "" = no sifting. `sync`: trainer steps between published versions; 0 = inline: the trainer scores.

    `budget`: times the plan's steps. `end`: fraction of the run after which nothing is sifted.
    """

    name: str
    policy: str = ""
    sync: int = 0
    budget: float = 1.0
    end: float = 0.9

    @property
    def inline(self) -> bool:
        return bool(self.policy) and self.sync == 0

    def make_policy(self, steps: int) -> siftd.Policy:
        when = siftd.Modifiers(sift_delay=round(UNSIFTED_START * steps), end=self.end)
        if self.policy == "uniform":
            return siftd.Uniform(KEEP, modifiers=when)
        if self.policy == "confidence":
            return siftd.Confidence(modifiers=when)
        return siftd.LossCdf(beta=1.0, modifiers=when)


PLAIN = Arm("no sifting, T")
FLAGSHIP = Arm("confidence, sync 20", "confidence", 20)
RANDOM = Arm("random keep", "uniform", 20)
QUICK = (
    Arm("no sifting, T/2", budget=0.5),
    PLAIN,
    Arm("no sifting, 2T", budget=2.0),
    RANDOM,
    Arm("inline confidence", "confidence"),
    FLAGSHIP,
    Arm("loss_cdf, sync 20", "loss_cdf", 20),
)
FULL = (
    *QUICK,
    Arm("inline loss_cdf", "loss_cdf"),
    Arm("confidence, sync 1", "confidence", 1),
    Arm("confidence, sync 100", "confidence", 100),
    Arm("loss_cdf, sync 100", "loss_cdf", 100),
    Arm("confidence, sync 20, sifted to the end", "confidence", 20, end=1.0),
)


@dataclass
class Record:
    """Of one run. Seconds begin with the first batch; evaluation is left out. `curve`: Points as lists."""

    data: str
    task: str
    arm: str
    seed: int
    steps: int
    accuracy: float  # percent, of all held-out images
    trainer_seconds: float  # waiting included
    wait_seconds: float  # of those: for batches; unsifted: loading them; inline, where that is scoring too: 0
    score_seconds: float  # inside trainer_seconds where inline, else a worker's
    device_seconds: float  # trainer's and worker's
    cores: int
    candidates: int
    trained: int
    kept: float  # share of the candidates that were decided
    staleness: float = 0.0
    unsifted: int = 0
    start_seconds: float = 0.0  # to the first batch; not counted above
    curve: list[list[float]] = field(default_factory=list)

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.data, self.task, self.arm, self.seed, self.steps)


@contextmanager
def _sifted(arm: Arm, task: Task, seed: int, steps: int, model: torch.nn.Module) -> Iterator[siftd.SiftingDataLoader]:
    def loader(workers: Any) -> siftd.SiftingDataLoader:
        return siftd.SiftingDataLoader(
            Candidates(task, seed), model=model, workers=workers, policy=arm.make_policy(steps), total_steps=steps,
            sync_every=max(1, arm.sync), seed=seed, starve_timeout=60.0,
        )  # fmt: skip

    if arm.inline:
        with loader("inline") as sifted:
            yield sifted
        return
    binary = os.environ.get("SIFTD_BIN", str(BUILD / "worker" / "siftd"))
    command = [binary, "worker", "--allow-artifact-upload", "--endpoint", "tcp://127.0.0.1:0"]
    with pool(command, 1, "--threads", "1") as workers, loader(workers.endpoints) as sifted:
        yield sifted


def run(arm: Arm, task: Task, data: str, seed: int, steps: int, points: Sequence[float]) -> Record:
    """`points`: fractions of the run at which to evaluate. Expects torch's threads to be set."""
    model = make_model(task.classes, seed)
    at = [round(p * steps) for p in points]
    if not arm.policy:
        curve = train(model, Candidates(task, seed), steps, lambda: None, lambda: 0.0, task, at)
        stats = siftd.Stats(decided=steps * BATCH, kept=steps * BATCH, trained=steps * BATCH)
    else:
        with _sifted(arm, task, seed, steps, model) as sifted:

            def scored() -> float:
                return 0.0 if arm.inline else sifted.stats().score_seconds

            curve = train(model, sifted, steps, lambda: sifted.step(model), scored, task, at)
            stats = sifted.stats()
    last = curve[-1]
    return Record(
        data=data, task=task.name, arm=arm.name, seed=seed, steps=steps, accuracy=last.accuracy,
        trainer_seconds=last.trainer, wait_seconds=0.0 if arm.inline else last.wait, score_seconds=stats.score_seconds,
        device_seconds=last.device, cores=2 if arm.sync else 1, candidates=stats.decided, trained=stats.trained,
        kept=stats.keep_fraction, staleness=stats.staleness, unsifted=stats.unsifted, start_seconds=last.start,
        curve=[[p.step, p.trainer, p.device, p.accuracy] for p in curve],
    )  # fmt: skip
