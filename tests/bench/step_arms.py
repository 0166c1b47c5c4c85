# SPDX-License-Identifier: Apache-2.0
"""What is compared in the step benchmark: the same loop, fed from memory or by siftd, with and without neighbours."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pool import pool
from processes import Neighbour, feed, step_neighbour
from programs import BUILD
from step_loop import Loop, Round
from step_models import Batches, Copied
from threads import split_cores

import siftd

KEEP = 0.5
EXACT = "drop-in, deterministic"
FIXED_F, FIXED_WORKERS = 0.46, 2  # cost of scoring a row / of training it; the workers needed are f / keep = 0.92


@dataclass
class Arm:
    """`beside`: runs while this arm does, and else stands still."""

    name: str
    batches: Iterator[Any]
    after: Callable[[], None] | None = None
    beside: Neighbour | None = None
    fixed_cost: bool = False
    no_goal: bool = False
    rounds: list[Round] = field(default_factory=list)
    around: list[tuple[Round, Round]] = field(default_factory=list)  # of what it is compared with, by round

    @property
    def sifted(self) -> bool:
        return self.after is not None

    def round(self, loop: Loop, steps: int, warm: int) -> Round:
        if self.beside is not None:
            self.beside.go()
        try:
            return loop.run(self.batches, self.after, steps, warm)
        finally:
            if self.beside is not None:
                self.beside.stop()


@contextlib.contextmanager
def bound() -> Iterator[None]:
    """Binds this thread, and no other of the process, to the trainer's core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, split_cores()[0])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def fixed_cost_program() -> str | None:
    program = BUILD / "tests" / "bench" / "siftd_fixed_cost_worker"
    return str(program) if program.exists() else None


def make_arms(
    stack: contextlib.ExitStack, kind: str, rows: int, loop: Loop, which: Sequence[str], worker: str
) -> dict[str, Arm]:
    """The plain one, and those of `which` that can run here. Between their rounds all are idle, with full queues.

    `worker`: device of the workers that compute, and of the neighbour.
    """
    near = split_cores()[1]
    arms = {"plain": Arm("plain", iter(Batches(kind, rows)))}
    if "control" in which:
        beside = step_neighbour(kind, rows, worker, near)
        stack.callback(beside.close)
        arms["control"] = Arm("control", iter(Batches(kind, rows)), beside=beside)
        arms["copied"] = Arm("copied", iter(Copied(kind, rows)))
    makers = {"drop-in": _drop_in, "stream": _stream}
    real = (os.environ.get("SIFTD_BIN", str(BUILD / "worker" / "siftd")), "worker", "--device", worker)
    for name, make in makers.items():
        if name in which:
            arms[name] = make(name, stack, kind, rows, loop, _workers(stack, real, 1))
    if EXACT in which:
        arms[EXACT] = _drop_in(EXACT, stack, kind, rows, loop, _workers(stack, real, 1), deterministic=True)
        arms[EXACT].no_goal = True  # it costs what it costs
    program = fixed_cost_program()
    if program is not None and any(f"{name}, fixed cost" in which for name in makers):
        with bound():
            step = loop.run(arms["plain"].batches, None, 10, 3).alone
        fixed = (program, "--cost-us-per-row", f"{1e6 * FIXED_F * step / rows:.3f}")
        for plain_name, make in makers.items():
            if (name := f"{plain_name}, fixed cost") in which:
                arms[name] = make(name, stack, kind, rows, loop, _workers(stack, fixed, FIXED_WORKERS))
                arms[name].fixed_cost = True
    return arms


def _workers(stack: contextlib.ExitStack, command: Sequence[str], count: int) -> list[str]:
    flags = ("--allow-artifact-upload", "--threads", "1")
    return stack.enter_context(pool(command, count, *flags, cores=split_cores()[1])).endpoints


def _drop_in(
    name: str, stack: contextlib.ExitStack, kind: str, rows: int, loop: Loop, endpoints: list[str], **options: Any
) -> Arm:
    loader = siftd.SiftingDataLoader(
        Batches(kind, rows), model=loop.model, policy=siftd.Uniform(KEEP), workers=endpoints, **options
    )
    stack.callback(loader.close)
    return Arm(name, iter(loader), lambda: loader.step(loop.model))


def _stream(name: str, stack: contextlib.ExitStack, kind: str, rows: int, loop: Loop, endpoints: list[str]) -> Arm:
    example = next(iter(Batches(kind, rows)))
    loader = siftd.StreamLoader(
        endpoints, rows, model=loop.model, policy=siftd.Uniform(KEEP), example_batch=example, linger=0.5
    )
    stack.callback(loader.close)
    stack.enter_context(feed(kind, rows, endpoints, split_cores()[1]))
    return Arm(name, iter(loader), lambda: loader.step(loop.model))
