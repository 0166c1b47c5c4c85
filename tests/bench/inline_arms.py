# SPDX-License-Identifier: Apache-2.0
"""What is compared in the inline benchmark, and how its rounds are measured."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import inline_model
import torch
from devices import Devices, device_of, settle
from inline_model import SIZES, Batches, make_model
from pool import pool
from processes import Neighbour
from programs import BUILD, program
from step_arms import bound
from step_loop import Loop
from threads import split_cores

import siftd

FLAGS = ("--endpoint", "tcp://127.0.0.1:0", "--allow-artifact-upload", "--threads", "1")  # of a worker


@dataclass(frozen=True)
class Plan:
    rounds: int
    steps: int  # timed in a round
    warm: int  # before those: what the workers scored meanwhile is used up


class Arm:
    """A loop fed by `batches`; `seconds`: of a turn of the loop, by round: mean, waiting included."""

    def __init__(self, loop: Loop, batches: Iterator[Any], sifted: siftd.SiftingDataLoader | None = None) -> None:
        self._loop, self._batches, self.sifted = loop, batches, sifted
        self.seconds: list[float] = []
        self.waits: list[float] = []
        self.cpu: list[float] = []  # of this thread; untimed steps included

    def run(self, plan: Plan) -> None:
        after = None if self.sifted is None else self._step
        began = time.thread_time()
        took = self._loop.run(self._batches, after, plan.steps, plan.warm)
        self.cpu.append((time.thread_time() - began) / (plan.steps + plan.warm))
        self.seconds.append(took.loop)
        self.waits.append(statistics.fmean(took.next))

    def _step(self) -> None:
        assert self.sifted is not None
        self.sifted.step(self._loop.model)

    def forget(self) -> None:
        self.seconds.clear()
        self.waits.clear()
        self.cpu.clear()

    @property
    def stats(self) -> siftd.Stats:
        """Also after the loader was closed."""
        return siftd.Stats() if self.sifted is None else self.sifted.stats()

    @property
    def kept(self) -> float:
        return self.stats.keep_fraction

    @property
    def per_candidate(self) -> list[float]:
        """Seconds of the loop for as many candidates as a batch has rows; by round."""
        return [s * self.kept for s in self.seconds]


@dataclass
class Rounds:
    """What was measured at one beta.

    `forward`: seconds of one on the trainer's device, by round; `worker_forward`: on the worker's.
    """

    beta: int
    workers: int  # of those without CPU
    devices: Devices
    plain: Arm
    control: Arm
    inline: Arm
    one: Arm
    many: Arm
    forward: list[float]
    worker_forward: list[float]

    @property
    def rows(self) -> int:
        """Of a batch."""
        return SIZES[_size(self.devices)].rows

    def f(self, forward: list[float]) -> list[float]:
        return [a / b for a, b in zip(forward, self.plain.seconds, strict=True)]

    @property
    def slowdown(self) -> list[float]:
        return [a / b for a, b in zip(self.control.seconds, self.plain.seconds, strict=True)]


def _size(devices: Devices) -> str:
    """A core as worker scores small models only."""
    return "large" if devices.shared else "small"


def _forward(model: torch.nn.Module, batches: Iterator[Any], count: int) -> float:
    """Seconds of a bare forward, as scoring does it."""
    device = device_of(model)
    model.eval()
    with torch.no_grad():
        model(next(batches)[0].to(device))
        settle(device)
        began = time.perf_counter()
        for _ in range(count):
            model(next(batches)[0].to(device))
        settle(device)
        took = (time.perf_counter() - began) / count
    model.train()
    return took


def _sifted(stack: contextlib.ExitStack, loop: Loop, size: str, beta: int, workers: Any) -> Arm:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # beta > 1 is what is compared
        loader = siftd.SiftingDataLoader(
            Batches(size), model=loop.model, policy=siftd.LossCdf(beta=beta), workers=workers, seed=0,
            starve_timeout=60.0,
        )  # fmt: skip
    stack.callback(loader.close)
    return Arm(loop, iter(loader), loader)


@contextlib.contextmanager
def neighbour(devices: Devices) -> Iterator[Neighbour]:
    """Of the control; one for all betas, as it takes seconds to start."""
    started = Neighbour(split_cores()[1], inline_model.__file__, _size(devices), devices.worker)
    try:
        yield started
    finally:
        started.close()


def measure(beta: int, plan: Plan, devices: Devices, beside: Neighbour) -> Rounds:
    size = _size(devices)
    with contextlib.ExitStack() as stack:
        near = split_cores()[1]
        loop = Loop(make_model(size).to(devices.trainer))
        there = loop.model if devices.worker == devices.trainer else copy.deepcopy(loop.model).to(devices.worker)
        plain, control = Arm(loop, iter(Batches(size))), Arm(loop, iter(Batches(size)))
        batches = iter(Batches(size))
        with bound():
            loop.run(batches, None, 4, 2)
            forward = min(_forward(loop.model, batches, 8) for _ in range(3))
            step = min(loop.run(batches, None, 8, 0).loop for _ in range(3))
        count = math.ceil(forward / step * (1 + beta)) + 1
        real = [os.environ.get("SIFTD_BIN", str(BUILD / "worker" / "siftd")), "worker", "--device", devices.worker]
        timed = [
            str(program("siftd_fixed_cost_worker")),
            "--cost-us-per-row",
            f"{1e6 * forward / SIZES[size].rows:.3f}",
        ]

        def fed_by(command: list[str], workers: int) -> Arm:
            started = stack.enter_context(pool(command, workers, *FLAGS, cores=near))
            return _sifted(stack, loop, size, beta, started.endpoints)

        out = Rounds(
            beta, count, devices, plain, control, _sifted(stack, loop, size, beta, "inline"), fed_by(real, 1),
            fed_by(timed, count), forward=[], worker_forward=[],
        )  # fmt: skip
        fed = (out.inline, out.one, out.many)
        for arm in fed:  # exports, takes the first weights; outside of the binding, which its threads would inherit
            arm.run(Plan(1, 1, 2 * plan.warm))
            arm.forget()
        with bound():
            for _ in range(plan.rounds):
                plain.run(plan)
                beside.go()
                control.run(plan)
                beside.stop()
                out.forward.append(_forward(loop.model, batches, plan.steps))
                same = there is loop.model
                out.worker_forward.append(out.forward[-1] if same else _forward(there, batches, plan.steps))
                for arm in fed:
                    arm.run(plan)
        return out
