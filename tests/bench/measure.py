# SPDX-License-Identifier: Apache-2.0
"""What a benchmark part returns, and how two things are timed side by side on a noisy host."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devices import Devices


@dataclass(frozen=True)
class Options:
    """`quick`: all parts together end within about five minutes; otherwise within about an hour, accuracy included.

    `out`: folder that a long part keeps its progress in. `resume`: go on with what it finds there. `data`: images.
    `devices`: read by the parts that `gpu` runs.
    """

    quick: bool = False
    out: Path | None = None
    resume: bool = False
    data: Path | None = None
    devices: Devices = Devices()


@dataclass(frozen=True)
class Goal:
    """What a measured value should be: `at_most`, `at_least`, or both."""

    at_most: float | None = None
    at_least: float | None = None

    def met(self, value: float) -> bool:
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)

    def __str__(self) -> str:
        bounds = [f">= {self.at_least:g}"] if self.at_least is not None else []
        return " and ".join(bounds + ([f"<= {self.at_most:g}"] if self.at_most is not None else []))


@dataclass
class Measure:
    """One figure of a part: a line of the table.

    `low`, `high`: quartiles of the repetitions, where there were any. `note`: the cause, where a goal is missed.
    `detail`: whatever else belongs into the JSON (single medians, settings).
    """

    name: str
    value: float
    unit: str = "x"
    goal: Goal | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.goal.met(self.value)


@dataclass
class Series:
    """A curve of the part's plot: y over x, with the quartiles of y where they were measured."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass
class Plot:
    title: str
    x_label: str
    y_label: str
    series: list[Series]
    log_x: bool = False
    log_y: bool = False


@dataclass
class Result:
    measures: list[Measure]
    plots: list[Plot] = field(default_factory=list)
    skipped: str = ""  # why the part, or some of it, did not run


class Stopped(Exception):
    """Ctrl-C, in a part that has something to show: what was measured until then."""

    def __init__(self, result: Result) -> None:
        super().__init__("stopped")
        self.result = result


def interleaved(arms: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Runs the arms in turn, A B C A B C, `rounds` times; their returned figures by arm."""
    out: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            out[name].append(arm())
    return out


def ratio(name: str, over: Sequence[float], under: Sequence[float], **more: Any) -> Measure:
    """Median and quartiles of over[i] / under[i], which were measured side by side in round i."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    low, high = quartiles(ratios)
    return Measure(name, statistics.median(ratios), low=low, high=high, **more)


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


class Clock:
    """Seconds of a `with` block: wall, and of this process's CPU."""

    wall = 0.0
    cpu = 0.0

    def __enter__(self) -> Clock:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self._wall
        self.cpu = time.process_time() - self._cpu
