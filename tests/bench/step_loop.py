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
from devices import device_of, marks_on, settle
from threads import cpu_seconds
from torch import nn


@dataclass
class Round:
    """Some steps of one arm; seconds, on the time line of the model's device.

    `next`: asking for the batch. `step`: the rest, `loader.step` included.
    """

    next: list[float]
    step: list[float]
    step_host: list[float]  # by the host's clock; on an accelerator until all of the step is queued
    step_cpu: list[float]  # of the trainer's thread, next left out
    blocked: float  # times per step that the trainer's thread gave its core up to wait, next left out; the GIL, mostly
    others: dict[str, float]  # CPU of the process's other threads, per step
    device: torch.device

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
    def alone(self) -> float:
        """Of a step, whatever else uses the core; an accelerator's time line has no such figure."""
        return self.median if self.device.type == "cuda" else self.cpu

    @property
    def next_median(self) -> float:
        return statistics.median(self.next)

    @property
    def held_up(self) -> float:
        """Median time of a step in which the trainer's thread did not run: it waited for the GIL or for its core."""
        return statistics.median(wall - cpu for wall, cpu in zip(self.step_host, self.step_cpu, strict=True))


class Loop:
    """The trainer: plain SGD on one model; each `run` goes on with it."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.device = model, device_of(model)
        self._optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def run(self, batches: Iterator[Any], after: Callable[[], None] | None, steps: int, warm: int) -> Round:
        model, optimizer, clock, cpu_clock = self.model, self._optimizer, time.perf_counter, time.thread_time
        device, marks = self.device, marks_on(self.device)
        took: list[float] = []
        ran: list[float] = []
        others: dict[str, float] = {}
        blocked = 0
        settle(device)
        for i in range(steps + warm):
            if i == warm:
                others = cpu_seconds()
            marks.mark()
            x, y = next(batches)
            marks.mark()
            began, began_cpu = clock(), cpu_clock()
            blocked -= resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if i >= warm else 0
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if after is not None:
                after()
            blocked += resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if i >= warm else 0
            ran.append(cpu_clock() - began_cpu)
            took.append(clock() - began)
            marks.mark()
        between = marks.seconds()  # of each turn: next, step, and to the next turn
        spent = {n: (s - others.get(n, 0.0)) / steps for n, s in cpu_seconds().items() if n != "MainThread"}
        others = {n: s for n, s in spent.items() if s > 1e-7}
        got, step = between[3 * warm :: 3], between[3 * warm + 1 :: 3]
        return Round(got, step, took[warm:], ran[warm:], blocked / steps, others, device)
