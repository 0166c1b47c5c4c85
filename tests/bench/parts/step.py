# SPDX-License-Identifier: Apache-2.0
"""Step time of a training loop fed by siftd against the same loop over batches in memory, in turn: A B A C A B A C.

The control is the plain loop while the neighbour core runs forwards of the same model, as a worker there does; workers
whose scorer takes time and no CPU are compared with the plain loop. tests/bench/README.md says what each figure is.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from typing import Any

import torch
from measure import Goal, Measure, Options, Plot, Result, Series, quartiles, ratio
from step_arms import EXACT, Arm, bound, fixed_cost_program, make_arms
from step_loop import Loop, Round
from step_models import make_model
from threads import cores

ABOUT = "step time with siftd against the same loop without"
CPU_KINDS, ROWS = ("mlp", "cnn", "transformer"), (32, 128, 512)  # ROWS: of a batch
GOAL, GOAL_FROM = Goal(at_most=1.02), 5e-3  # for steps of at least these seconds
BUSY, VOID = 0.1, "no goal: other programs had the trainer's core for more than a tenth of the loop without siftd"
# Short rounds: a host's speed changes within seconds.
ROUNDS, ROUND_SECONDS = 16, 0.12
QUICK_ROUNDS, QUICK_ROUND_SECONDS = 8, 0.1
STEPS = (8, 60)  # of a round: as many as fill it, within these bounds
WARM = 3
ALL = ("control", "drop-in", "stream", "drop-in, fixed cost", "stream, fixed cost")
QUICK = (("mlp", 128, ALL), ("transformer", 128, ("control", "drop-in")), ("cnn", 128, ("control", "drop-in")))
# On a GPU. Fixed-cost workers stand for devices of their own; a core keeps up with the small models only.
SHARED = (
    ("large-cnn", 128, ALL[:3]), ("large-cnn", 512, ALL[:3]),
    ("large-transformer", 512, ALL[:3]), ("large-transformer", 128, ALL[:3]),
)  # fmt: skip
APART = (
    ("mlp", 128, ALL), ("cnn", 128, ALL), ("transformer", 128, ALL),
    ("large-cnn", 128, ALL[3:]), ("large-transformer", 128, ALL[3:]),
)  # fmt: skip
COMPILED_THREADS = ("siftd-link",)
PYTHON_THREADS = ("siftd-feed", "siftd-loader", "siftd-trainer", "siftd-publish", "siftd-ring")  # take the GIL


def run(options: Options) -> Result:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run(options)
    finally:
        torch.set_num_threads(before)


def _run(options: Options) -> Result:
    measures: list[Measure] = []
    for kind, rows, which in _plan(options):
        measures += _measure(kind, rows, which, options)
    skipped = []
    if fixed_cost_program() is None:
        skipped.append("arms with fixed-cost workers: siftd_fixed_cost_worker is not built")
    if len(cores()) < 2:
        skipped.append("a core for the neighbours: there is one core, which trainer, workers and neighbour share")
    return Result(measures, [_plot(measures)], "; ".join(skipped))


def _plan(options: Options) -> tuple[tuple[str, int, tuple[str, ...]], ...]:
    """Model, rows of a batch, arms beside the plain one."""
    devices = options.devices
    if devices.trainer == "cpu":
        full = ((kind, rows, (*ALL, EXACT) if rows == 128 else ALL) for kind in CPU_KINDS for rows in ROWS)
        return QUICK if options.quick else tuple(full)
    plan = SHARED if devices.shared else APART
    return (plan[0], plan[-1]) if options.quick else plan


def _measure(kind: str, rows: int, which: tuple[str, ...], options: Options) -> list[Measure]:
    devices = options.devices
    rounds, seconds = (QUICK_ROUNDS, QUICK_ROUND_SECONDS) if options.quick else (ROUNDS, ROUND_SECONDS)
    with contextlib.ExitStack() as stack:
        loop = Loop(make_model(kind).to(devices.trainer))
        arms = make_arms(stack, kind, rows, loop, which, devices.worker)
        for arm in arms.values():  # outside of the binding, which the client's threads would inherit
            arm.round(loop, 15, WARM)
        with bound():
            step = _settle(arms["plain"], loop)
            steps = int(min(max(seconds / step, STEPS[0]), STEPS[1]))
            for _ in range(rounds):
                _in_turn(arms, loop, steps)
        return _figures(f"{kind} {rows}", arms)


def _settle(plain: Arm, loop: Loop) -> float:
    return plain.round(loop, 15, WARM).median


def _against(arm: Arm, arms: dict[str, Arm]) -> Arm:
    """What it is compared with."""
    beside_a_worker = arm.sifted and not arm.fixed_cost
    return arms["control" if beside_a_worker and "control" in arms else "plain"]


def _in_turn(arms: dict[str, Arm], loop: Loop, steps: int) -> None:
    """A round of each arm, between two of what it is compared with."""
    for reference in (arms[n] for n in ("plain", "control") if n in arms):
        compared = [a for a in arms.values() if a is not arms["plain"] and _against(a, arms) is reference]
        before = reference.round(loop, steps, WARM)
        for arm in compared:
            arm.rounds.append(arm.round(loop, steps, WARM))
            after = reference.round(loop, steps, WARM)
            arm.around.append((before, after))
            before = after


def _figures(config: str, arms: dict[str, Arm]) -> list[Measure]:
    out = []
    for name, arm in arms.items():
        if arm.sifted:
            out += _figures_of(arm, f"{config}: {name}", _against(arm, arms).name)
    for name in ("control", "copied"):
        if name in arms:
            out.append(_over(f"{config}: {name} / plain", arms[name], lambda r: r.median))
    return out


def _over(what: str, arm: Arm, figure: Callable[[Round], float], **more: Any) -> Measure:
    """Of each round, over the mean of the two around it."""
    around = [(figure(before) + figure(after)) / 2 for before, after in arm.around]
    return ratio(what, list(map(figure, arm.rounds)), around, **more)


def _figures_of(arm: Arm, what: str, against: str) -> list[Measure]:
    rounds = arm.rounds
    without = [r for pair in arm.around for r in pair]
    step = statistics.median(r.median for r in without)
    on_cpu = without[0].device.type == "cpu"
    # On an accelerator the thread waits for the device, too.
    void = on_cpu and statistics.median(r.held_up for r in without) > BUSY * step
    goal = GOAL if step >= GOAL_FROM and not (void or arm.no_goal) else None
    threads = sorted({name for r in rounds for name in r.others})
    detail = {
        "arm": arm.name,
        "step_ms": 1e3 * statistics.median(r.median for r in rounds),
        "without_ms": 1e3 * step,
        "next_us": 1e6 * statistics.median(r.next_median for r in rounds),
        "threads_us": {n: 1e6 * statistics.median(r.others.get(n, 0.0) for r in rounds) for n in threads},
    }

    def over(name: str, figure: Callable[[Round], float], **more: Any) -> Measure:
        return _over(f"{what}: {name} / {against}", arm, figure, **more)

    return [
        over(f"step of {1e3 * step:.1f} ms", lambda r: r.median, goal=goal, detail=detail, note=VOID if void else ""),
        # With capacity to spare nothing should be waited for either.
        over("loop, waits included", lambda r: r.loop, goal=goal if arm.fixed_cost else None),
        over("CPU of a step", lambda r: r.cpu),
        _each(f"{what}: wait per step", rounds, lambda r: 1e3 * statistics.fmean(r.next), "ms"),
        _each(f"{what}: CPU of the client's threads in Python per step", rounds, _us(PYTHON_THREADS), "us"),
        _each(f"{what}: CPU of its compiled thread per step", rounds, _us(COMPILED_THREADS), "us"),
        _each(f"{what}: trainer's thread held up per step", rounds, lambda r: 1e6 * r.held_up, "us"),
        _each(f"{what}: trainer's thread waits per step", rounds, lambda r: r.blocked, "times"),
    ]


def _us(threads: tuple[str, ...]) -> Callable[[Round], float]:
    return lambda r: 1e6 * sum(r.others.get(name, 0.0) for name in threads)


def _each(name: str, rounds: list[Round], figure: Callable[[Round], float], unit: str) -> Measure:
    values = [figure(r) for r in rounds]
    low, high = quartiles(values)
    return Measure(name, statistics.median(values), unit, low=low, high=high)


def _plot(measures: list[Measure]) -> Plot:
    """Ratio over step time, one curve for each way of feeding."""
    by_arm: dict[str, list[Measure]] = {}
    for m in measures:
        if "without_ms" in m.detail:
            by_arm.setdefault(m.detail["arm"], []).append(m)
    series = []
    for name, found in by_arm.items():
        found.sort(key=lambda m: float(m.detail["without_ms"]))
        series.append(
            Series(
                name,
                [m.detail["without_ms"] for m in found],
                [m.value for m in found],
                [m.low or m.value for m in found],
                [m.high or m.value for m in found],
            )
        )
    return Plot("Step time with siftd / without", "step without siftd, ms", "ratio", series, log_x=True)
