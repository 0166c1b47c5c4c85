# SPDX-License-Identifier: Apache-2.0
"""One training loop, timed step by step, whatever feeds it."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from threads import cpu_seconds
from torch import nn


@dataclass
class Round:
    """Some steps of one arm; seconds. `next`: asking for the batch. `step`: the rest, `loader.step` included."""

    next: list[float]
    step: list[float]
    step_cpu: list[float]  # of the trainer's thread, next left out
    blocked: float  # times per step that the trainer's thread gave its core up to wait, next left out; the GIL, mostly
    others: dict[str, float]  # CPU of the process's other threads, per step

    @property
    def median(self) -> float:
        return statistics.median(self.step)

    @property
    def loop(self) -> float:
        """Mean of a whole turn of the loop: what an epoch takes, publishing and waiting included."""
        return statistics.fmean(self.step) + statistics.fmean(self.next)

    @property
    def cpu(self) -> float:
        """Median CPU time of a step, of the trainer's thread: its own work, whoever shares the core."""
        return statistics.median(self.step_cpu)

    @property
    def next_median(self) -> float:
        return statistics.median(self.next)

    @property
    def held_up(self) -> float:
        """Median time of a step in which the trainer's thread did not run: it waited for the GIL or for its core."""
        return statistics.median(wall - cpu for wall, cpu in zip(self.step, self.step_cpu, strict=True))


class Loop:
    """The trainer: plain SGD on one model; each `run` goes on with it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def run(self, batches: Iterator[Any], after: Callable[[], None] | None, steps: int, warm: int) -> Round:
        model, optimizer, clock, cpu_clock = self.model, self._optimizer, time.perf_counter, time.thread_time
        got: list[float] = []
        took: list[float] = []
        ran: list[float] = []
        others: dict[str, float] = {}
        blocked = 0
        for i in range(steps + warm):
            if i == warm:
                others = cpu_seconds()
            asked = clock()
            x, y = next(batches)
            began, began_cpu = clock(), cpu_clock()
            blocked -= resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if i >= warm else 0
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if after is not None:
                after()
            blocked += resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if i >= warm else 0
            ran.append(cpu_clock() - began_cpu)
            took.append(clock() - began)
            got.append(began - asked)
        spent = {n: (s - others.get(n, 0.0)) / steps for n, s in cpu_seconds().items() if n != "MainThread"}
        return Round(got[warm:], took[warm:], ran[warm:], blocked / steps, {n: s for n, s in spent.items() if s > 1e-7})
