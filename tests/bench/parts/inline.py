# SPDX-License-Identifier: Apache-2.0
"""The same policy inline in the trainer's process and decoupled, on the same batches, interleaved.

f: cost of scoring a row over that of training it, both by bare loops in the same rounds. Per candidate inline costs
kept + f rows of training, decoupled with N workers max(kept, f / N): their ratio is the bound. One worker scores on the
neighbour core, whose slowdown of the trainer (control: the plain loop beside bare forwards) is divided out; N workers
take the time of a forward without taking CPU, as devices of their own would.
"""

from __future__ import annotations

import contextlib
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
from inline_model import ROWS, Batches, make_model
from measure import Goal, Measure, Options, Plot, Result, Series, quartiles
from pool import pool
from processes import Neighbour
from programs import BUILD, program
from step_arms import bound
from step_loop import Loop
from threads import split_cores

import siftd

ABOUT = "the same policy inline and decoupled, against the bound"
SHARE_OF_BOUND = Goal(at_least=0.9)
SAVED = {1: Goal(at_least=45), 2: Goal(at_least=62), 3: Goal(at_least=70)}  # percent, by beta

FLAGS = ("--endpoint", "tcp://127.0.0.1:0", "--allow-artifact-upload", "--threads", "1")  # of a worker
BUSY = 1.5  # a neighbour on a core of its own slows the loop by less


@dataclass(frozen=True)
class Plan:
    rounds: int
    steps: int  # timed in a round
    warm: int  # before those: what the workers scored meanwhile is used up


QUICK, FULL = Plan(2, 12, 6), Plan(9, 40, 16)


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


def _forward(model: torch.nn.Module, batches: Iterator[Any], count: int) -> float:
    """Seconds of a bare forward, as scoring does it."""
    model.eval()
    with torch.no_grad():
        model(next(batches)[0])
        began = time.perf_counter()
        for _ in range(count):
            model(next(batches)[0])
        took = (time.perf_counter() - began) / count
    model.train()
    return took


def _sifted(stack: contextlib.ExitStack, loop: Loop, beta: int, workers: Any) -> Arm:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # beta > 1 is what is compared
        loader = siftd.SiftingDataLoader(
            Batches(), model=loop.model, policy=siftd.LossCdf(beta=beta), workers=workers, seed=0, starve_timeout=60.0
        )
    stack.callback(loader.close)
    return Arm(loop, iter(loader), loader)


@dataclass
class Rounds:
    """What was measured at one beta. `forward`: seconds by round."""

    beta: int
    workers: int  # of those without CPU
    plain: Arm
    control: Arm
    inline: Arm
    one: Arm
    many: Arm
    forward: list[float]

    @property
    def f(self) -> list[float]:
        return [a / b for a, b in zip(self.forward, self.plain.seconds, strict=True)]

    @property
    def slowdown(self) -> list[float]:
        return [a / b for a, b in zip(self.control.seconds, self.plain.seconds, strict=True)]


def _measure(beta: int, plan: Plan) -> Rounds:
    with contextlib.ExitStack() as stack:
        near = split_cores()[1]
        loop = Loop(make_model())
        plain, control = Arm(loop, iter(Batches())), Arm(loop, iter(Batches()))
        beside = Neighbour(near, inline_model.__file__)
        stack.callback(beside.close)
        batches = iter(Batches())
        with bound():
            loop.run(batches, None, 4, 2)
            forward = min(_forward(loop.model, batches, 8) for _ in range(3))
            step = min(loop.run(batches, None, 8, 0).loop for _ in range(3))
        count = math.ceil(forward / step * (1 + beta)) + 1
        real = [os.environ.get("SIFTD_BIN", str(BUILD / "worker" / "siftd")), "worker"]
        timed = [str(program("siftd_fixed_cost_worker")), "--cost-us-per-row", f"{1e6 * forward / ROWS:.3f}"]
        out = Rounds(
            beta, count, plain, control,
            inline=_sifted(stack, loop, beta, "inline"),
            one=_sifted(stack, loop, beta, stack.enter_context(pool(real, 1, *FLAGS, cores=near)).endpoints),
            many=_sifted(stack, loop, beta, stack.enter_context(pool(timed, count, *FLAGS, cores=near)).endpoints),
            forward=[],
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
                for arm in fed:
                    arm.run(plan)
        return out


def _spread(name: str, values: list[float], **more: Any) -> Measure:
    low, high = quartiles(values)
    return Measure(name, statistics.median(values), low=low, high=high, **more)


def _times(*columns: list[float]) -> Iterator[tuple[float, ...]]:
    return zip(*columns, strict=True)


@dataclass
class Decoupled:
    """One decoupled arm against inline, by round. `share`: of the bound."""

    ratio: list[float]
    bound: list[float]
    share: list[float]
    saved: list[float]  # percent of the unsifted loop's time per candidate


def _against_inline(r: Rounds, arm: Arm, workers: int, slowdown: list[float]) -> Decoupled:
    own = [t / slow for t, slow in _times(arm.per_candidate, slowdown)]
    ratio = [a / b for a, b in _times(r.inline.per_candidate, own)]
    best = [(r.inline.kept + f) / max(arm.kept, f / workers) for f in r.f]
    return Decoupled(
        ratio, best, [a / b for a, b in _times(ratio, best)],
        [100 * (1 - a / b) for a, b in _times(own, r.plain.seconds)],
    )  # fmt: skip


def _cause(r: Rounds, arm: Arm) -> str:
    stats = arm.stats
    step = statistics.median(s - w for s, w in _times(arm.seconds, arm.waits))
    plain = statistics.median(r.plain.seconds)
    scored = ROWS * stats.score_seconds / max(1, stats.scored_rows)
    return (
        f"step without waiting {1e3 * step:.2f} ms (plain {1e3 * plain:.2f}, control "
        f"{1e3 * statistics.median(r.control.seconds):.2f}), waiting {1e3 * statistics.median(arm.waits):.2f} ms; a "
        f"worker's forward {1e3 * scored:.2f} ms (bare {1e3 * statistics.median(r.forward):.2f}), kept {arm.kept:.3f}, "
        f"staleness {stats.staleness:.1f} steps; CPU of the trainer's thread per step "
        f"{1e3 * statistics.median(arm.cpu):.2f} ms (plain {1e3 * statistics.median(r.plain.cpu):.2f}, control "
        f"{1e3 * statistics.median(r.control.cpu):.2f})"
    )


def _measures(r: Rounds) -> tuple[list[Measure], Decoupled, Decoupled]:
    one = _against_inline(r, r.one, 1, r.slowdown)
    many = _against_inline(r, r.many, r.workers, [1.0] * len(r.f))
    beta, f = f"beta {r.beta}", statistics.median(r.f)
    devices = f"{r.workers} workers of fixed cost"
    busy = statistics.median(r.slowdown) >= BUSY
    own = [t / ((r.inline.kept + f) * p) for t, f, p in _times(r.inline.per_candidate, r.f, r.plain.seconds)]
    out = [
        _spread(f"{beta}: inline / (kept + f) of the plain loop", own, note=f"f {f:.3f}, kept {r.inline.kept:.3f}"),
        _spread(
            f"{beta}: CPU of the trainer's thread per candidate, inline / decoupled, one worker",
            [a * r.inline.kept / (b * r.one.kept) for a, b in _times(r.inline.cpu, r.one.cpu)],
            note="unlike the others hardly touched by a busy host",
        ),
        _spread(
            f"{beta}: slowdown by a forward on the neighbour core (control / plain)",
            r.slowdown,
            note="" if statistics.median(r.slowdown) < BUSY else "a busy host's, not a neighbour's: not judged",
        ),
    ]
    for what, d, arm in (("one worker", one, r.one), (devices, many, r.many)):
        note = f"bound {statistics.median(d.bound):.2f}"
        out.append(_spread(f"{beta}: inline / decoupled, {what}", d.ratio, note=note))
        out.append(_spread(f"{beta}: the same over its bound, {what}", d.share, goal=None if busy else SHARE_OF_BOUND))
        if out[-1].met is False:
            out[-1].note = _cause(r, arm)
        goal = SAVED[r.beta] if d is many and not busy else None
        out.append(
            _spread(f"{beta}: time saved per candidate against no sifting, {what}", d.saved, unit="%", goal=goal)
        )
        if out[-1].met is False:
            out[-1].note = "see its share of the bound" if out[-2].note else _cause(r, arm)
    return out, one, many


def run(options: Options) -> Result:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = [_measure(beta, QUICK if options.quick else FULL) for beta in SAVED]
    finally:
        torch.set_num_threads(threads)
    measures: list[Measure] = []
    curves: dict[str, list[float]] = {}
    for r in found:
        of_beta, one, many = _measures(r)
        measures += of_beta
        for label, values in (
            ("one worker", one.ratio), ("its bound", one.bound), ("workers of fixed cost", many.ratio),
            ("their bound", many.bound),
        ):  # fmt: skip
            curves.setdefault(label, []).append(statistics.median(values))
    betas = [r.beta for r in found]
    series = [Series(label, betas, y) for label, y in curves.items()]
    return Result(measures, [Plot("Inline time / decoupled time, per candidate", "beta", "ratio", series)])
