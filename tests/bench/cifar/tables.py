# SPDX-License-Identifier: Apache-2.0
"""All arms of all tasks: as text, and their curves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from measure import Plot, Series

from cifar.arms import Record
from cifar.compare import Comparison

HEAD = (
    "task", "arm", "seeds", "accuracy %", "steps", "kept", "stale", "trainer s", "waiting", "scoring s", "device s",
    "| to target:", "trainer s", "device s", "candidates", "trained",
    "| ratio:", "same trainer", "no waiting", "equal hardware",
)  # fmt: skip
LEGEND = """\
device s: the trainer's seconds and the workers' scoring. To target: until the accuracy of "no sifting, T", scaled by
the steps that the unsifted loop needs to the arm's own accuracy. Ratios: seconds of the unsifted loop to the arm's
accuracy over the arm's own; equal hardware: the unsifted loop has the arm's cores and scales ideally. <, >: a bound, as
the accuracy lies outside of the unsifted loop's."""

Runs = Mapping[tuple[str, str], Comparison]  # by task and arm


def _line(task: str, arm: str, c: Comparison, target_steps: float) -> tuple[str, ...]:
    share = target_steps / c.reference.steps_to(c.accuracy)
    bound = {"at least": "> ", "at most": "< ", "": ""}[c.outside]
    trainer, device = c.mean(lambda r: r.trainer_seconds), c.mean(lambda r: r.device_seconds)
    return (
        task, arm, str(len(c.runs)), f"{c.accuracy:.2f}" + ("" if math.isnan(c.sd) else f" +- {c.sd:.2f}"),
        f"{c.mean(lambda r: r.steps):.0f}", f"{c.kept:.0%}", f"{c.mean(lambda r: r.staleness):.0f}", f"{trainer:.1f}",
        f"{c.mean(lambda r: r.wait_seconds):.1f}", f"{c.mean(lambda r: r.score_seconds):.1f}", f"{device:.1f}", "|",
        f"{trainer * share:.1f}", f"{device * share:.1f}", f"{c.mean(lambda r: r.candidates) * share:,.0f}",
        f"{c.mean(lambda r: r.trained) * share:,.0f}", "|",
        *(f"{bound}{r.value:.2f}" for r in (c.same_trainer, c.never_waiting, c.equal_hardware)),
    )  # fmt: skip


def text(runs: Runs, target_steps: float) -> str:
    """`target_steps`: T, of the arm whose accuracy is the target."""
    lines = [HEAD, *(_line(task, arm, c, target_steps) for (task, arm), c in runs.items())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    rows = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*rows, "", LEGEND])


def _curve(label: str, runs: Sequence[Record], x: int) -> Series:
    """Mean over the seeds; `x`: which of a point's figures."""
    points = list(zip(*(r.curve for r in runs), strict=True))
    ys = [[point[3] for point in at] for at in points]
    return Series(
        label, [statistics.fmean(p[x] for p in at) for at in points], [statistics.fmean(y) for y in ys],
        [min(y) for y in ys], [max(y) for y in ys],
    )  # fmt: skip


def plots(runs: Runs, data: str) -> list[Plot]:
    """For each task: accuracy over the trainer's seconds, and over all seconds of computing."""
    out = []
    for task in dict.fromkeys(task for task, _ in runs):
        arms = {arm: c.runs for (t, arm), c in runs.items() if t == task}
        for x, what in ((1, "trainer time, s"), (2, "device time (trainer and scoring), s")):
            series = [_curve(arm, records, x) for arm, records in arms.items()]
            out.append(Plot(f"{data}, {task}: held-out accuracy", what, "accuracy, %", series))
    return out
