# SPDX-License-Identifier: Apache-2.0
"""What each option of cheaper scores costs against the full score, and how far it agrees with it.

One worker per arm, all on the same data in the same order, epoch by epoch in turn, while one model goes on training and
is published to all of them between the epochs. Cost: seconds of forwards per row, as the worker tells them. Agreement,
with the full arm's epoch at the same weights: Spearman's rank correlation of the scores, and the kept sets' overlap
(both / either) by the same policy and the same coins; two that know nothing of each other overlap by chance, as told.
"""

from __future__ import annotations

import contextlib
import logging
import os
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Measure, Options, Plot, Result, Series, quartiles, ratio
from pool import siftd_pool
from scipy.stats import spearmanr
from scores_data import KINDS, Task
from torch.utils.data import DataLoader, TensorDataset

import siftd

ABOUT = "cost of cheaper scores, and their agreement with full ones"
BATCH = 64
PUBLISH_DEADLINE = 120.0  # seconds


@dataclass
class Arm:
    name: str
    flags: tuple[str, ...] = ()
    rescore_every: int = 1
    images: bool = False  # only for models that take them
    score_rows: int = BATCH
    seconds: list[float] = field(default_factory=list)  # of forwards, by epoch
    scores: dict[int, float] = field(default_factory=dict)  # of the epoch, by id
    kept: set[int] = field(default_factory=set)
    spearman: list[float] = field(default_factory=list)
    overlap: list[float] = field(default_factory=list)
    chance: list[float] = field(default_factory=list)

    def on_decision(self, scores: Any, kept: Any, ids: Any) -> None:
        self.scores.update(zip(ids.tolist(), scores.tolist(), strict=True))
        self.kept.update(ids[kept].tolist())


def arms(task: Task) -> list[Arm]:
    every = [
        Arm("full"),
        Arm("full again"),  # what noise alone makes of the figures
        Arm("score_batch_rows 512", score_rows=512),
        Arm("score_optimize", ("--score-optimize",)),
        Arm("score_dtype bf16", ("--score-dtype", "bf16")),
        Arm("score_resolution 24", ("--score-resolution", "24"), images=True),
        Arm("score_resolution 16", ("--score-resolution", "16"), images=True),
        Arm("rescore_every 2", rescore_every=2),
        Arm("rescore_every 4", rescore_every=4),
    ]
    return [arm for arm in every if task.images or not arm.images]


@contextlib.contextmanager
def sifted(arm: Arm, task: Task, scorer: siftd.Scorer, artifact: Path) -> Iterator[siftd.SiftingDataLoader]:
    flags = ("--threads", "1", "--score-batch-rows", str(arm.score_rows), *arm.flags)
    with (
        siftd_pool(artifact, 1, *flags) as pool,
        siftd.SiftingDataLoader(
            DataLoader(TensorDataset(task.x, task.y), BATCH), workers=pool.endpoints, model=task.model, scorer=scorer,
            policy=siftd.Confidence(), sync_every=1, seed=1, rescore_every=arm.rescore_every, starve_timeout=600.0,
            on_decision=arm.on_decision,
        ) as loader,
    ):  # fmt: skip
        yield loader


def epoch(arm: Arm, loader: siftd.SiftingDataLoader) -> None:
    arm.scores, arm.kept = {}, set()
    before = loader.stats().score_seconds
    for _ in loader:
        pass
    arm.seconds.append(loader.stats().score_seconds - before)


def compare(arm: Arm, full: Arm) -> None:
    ids = sorted(full.scores)
    a, b = (np.array([of.scores[i] for i in ids]) for of in (arm, full))
    arm.spearman.append(float(spearmanr(a, b).statistic))
    arm.overlap.append(len(arm.kept & full.kept) / max(1, len(arm.kept | full.kept)))
    p, q = len(arm.kept) / len(ids), len(full.kept) / len(ids)
    arm.chance.append(p * q / (p + q - p * q))


def publish(task: Task, loaders: list[siftd.SiftingDataLoader]) -> None:
    """The weights as they are, in force at every worker."""
    for loader in loaders:
        loader.step(task.model)
    for loader in loaders:
        weights = loader._running.weights if loader._running is not None else None
        assert weights is not None and weights.publisher is not None
        if not weights.publisher.wait(weights.version, PUBLISH_DEADLINE):
            raise RuntimeError("bench: a worker did not take the weights")


def measured(task: Task, rounds: int) -> list[Arm]:
    scorer = siftd.export_scorer(task.model, "cross_entropy", (task.x[:BATCH], task.y[:BATCH]))
    found = arms(task)
    with tempfile.TemporaryDirectory(prefix="siftd-bench-") as folder, contextlib.ExitStack() as stack:
        artifact = Path(folder) / "scorer.pt"
        artifact.write_bytes(scorer.archive)
        loaders = [stack.enter_context(sifted(arm, task, scorer, artifact)) for arm in found]
        for number in range(rounds + 1):
            for arm, loader in zip(found, loaders, strict=True):
                epoch(arm, loader)
            if number > 0:  # the first one warms up, and fills the loaders' scores
                for arm in found:
                    compare(arm, found[0])
            task.train()
            publish(task, loaders)
    return found


def measures_of(kind: str, found: list[Arm]) -> list[Measure]:
    out = []
    full = found[0].seconds[1:]
    for arm in found[1:]:
        seconds = {"arm": arm.seconds, "full": found[0].seconds}
        out.append(ratio(f"{kind}, {arm.name}: cost / full", arm.seconds[1:], full, detail=seconds))
        for what, values in (("Spearman", arm.spearman), ("kept overlap", arm.overlap)):
            low, high = quartiles(values)
            detail = {"by chance": statistics.median(arm.chance)} if values is arm.overlap else {}
            name = f"{kind}, {arm.name}: {what}"
            out.append(Measure(name, statistics.median(values), "", low=low, high=high, detail=detail))
    return out


def run(options: Options) -> Result:
    torch.set_num_threads(1)
    logging.getLogger("siftd").setLevel(logging.ERROR)  # it warns of loops that train without step()
    measures, plots = [], []
    for kind, make in KINDS.items():
        task = make(options.quick, os.environ.get("SIFTD_BENCH_CIFAR10"))
        found = measured(task, 4 if options.quick else 12)
        measures += measures_of(kind, found)
        points = [
            Series(a.name, [statistics.median(a.seconds[1:]) / statistics.median(found[0].seconds[1:])],
                   [statistics.median(a.spearman)])
            for a in found[1:]
        ]  # fmt: skip
        plots.append(Plot(f"Cheaper scores: {kind}, {task.about}", "cost / full", "Spearman with full", points))
    return Result(measures, plots)
