# SPDX-License-Identifier: Apache-2.0
"""The same policy inline in the trainer's process and decoupled, on the same batches, interleaved.

f: cost of scoring a row over that of training it, both by bare loops in the same rounds. Per candidate inline costs
kept + f rows of training, decoupled with N workers max(kept, f / N): their ratio is the bound. One worker scores on the
neighbour core, whose slowdown of the trainer (control: the plain loop beside bare forwards) is divided out; N workers
take the time of a forward without taking CPU, as devices of their own would.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from inline_arms import Arm, Plan, Rounds, measure, neighbour
from measure import Goal, Measure, Options, Plot, Result, Series, quartiles

ABOUT = "the same policy inline and decoupled, against the bound"
SHARE_OF_BOUND = Goal(at_least=0.9)
SAVED = {1: Goal(at_least=45), 2: Goal(at_least=62), 3: Goal(at_least=70)}  # percent, by beta

BUSY = 1.5  # a neighbour on a core of its own slows the loop by less
QUICK, FULL = Plan(2, 12, 6), Plan(9, 40, 16)


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


def _against_inline(r: Rounds, arm: Arm, workers: int, forward: list[float], slowdown: list[float]) -> Decoupled:
    """`forward`: of one of its workers."""
    own = [t / slow for t, slow in _times(arm.per_candidate, slowdown)]
    ratio = [a / b for a, b in _times(r.inline.per_candidate, own)]
    best = [(r.inline.kept + f) / max(arm.kept, g / workers) for f, g in _times(r.f(r.forward), r.f(forward))]
    return Decoupled(
        ratio, best, [a / b for a, b in _times(ratio, best)],
        [100 * (1 - a / b) for a, b in _times(own, r.plain.seconds)],
    )  # fmt: skip


def _cause(r: Rounds, arm: Arm) -> str:
    stats = arm.stats
    step = statistics.median(s - w for s, w in _times(arm.seconds, arm.waits))
    plain = statistics.median(r.plain.seconds)
    scored = r.rows * stats.score_seconds / max(1, stats.scored_rows)
    return (
        f"step without waiting {1e3 * step:.2f} ms (plain {1e3 * plain:.2f}, control "
        f"{1e3 * statistics.median(r.control.seconds):.2f}), waiting {1e3 * statistics.median(arm.waits):.2f} ms; a "
        f"worker's forward {1e3 * scored:.2f} ms (bare {1e3 * statistics.median(r.worker_forward):.2f}), kept "
        f"{arm.kept:.3f}, staleness {stats.staleness:.1f} steps; CPU of the trainer's thread per step "
        f"{1e3 * statistics.median(arm.cpu):.2f} ms (plain {1e3 * statistics.median(r.plain.cpu):.2f}, control "
        f"{1e3 * statistics.median(r.control.cpu):.2f})"
    )


def _measures(r: Rounds) -> tuple[list[Measure], Decoupled, Decoupled]:
    one = _against_inline(r, r.one, 1, r.worker_forward, r.slowdown)
    f_of_rounds = r.f(r.forward)
    many = _against_inline(r, r.many, r.workers, r.forward, [1.0] * len(f_of_rounds))
    beta, f = f"beta {r.beta}", statistics.median(f_of_rounds)
    devices = f"{r.workers} workers of fixed cost"
    slowed = statistics.median(r.slowdown) >= BUSY
    busy = slowed and not r.devices.shared
    why = "the two share a device: one worker is not judged" if r.devices.shared else "a busy host's: not judged"
    own = [t / ((r.inline.kept + f) * p) for t, f, p in _times(r.inline.per_candidate, f_of_rounds, r.plain.seconds)]
    out = [
        _spread(f"{beta}: inline / (kept + f) of the plain loop", own, note=f"f {f:.3f}, kept {r.inline.kept:.3f}"),
        _spread(
            f"{beta}: CPU of the trainer's thread per candidate, inline / decoupled, one worker",
            [a * r.inline.kept / (b * r.one.kept) for a, b in _times(r.inline.cpu, r.one.cpu)],
            note="unlike the others hardly touched by a busy host",
        ),
        _spread(
            f"{beta}: slowdown by a neighbour's forwards (control / plain)",
            r.slowdown,
            note=why if slowed else "",
        ),
    ]
    for what, d, arm in (("one worker", one, r.one), (devices, many, r.many)):
        note = f"bound {statistics.median(d.bound):.2f}"
        out.append(_spread(f"{beta}: inline / decoupled, {what}", d.ratio, note=note))
        goal = None if busy or (slowed and d is one) else SHARE_OF_BOUND
        out.append(_spread(f"{beta}: the same over its bound, {what}", d.share, goal=goal))
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
        plan = QUICK if options.quick else FULL
        with neighbour(options.devices) as beside:
            found = [measure(beta, plan, options.devices, beside) for beta in SAVED]
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
