# SPDX-License-Identifier: Apache-2.0
"""Held-out accuracy over the trainer's time, and over all device time: no sifting, random rows, inline, decoupled."""

from __future__ import annotations

import json
import math
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from cifar import tables, tasks
from cifar.arms import FLAGSHIP, FULL, PLAIN, QUICK, RANDOM, Arm, Record
from cifar.arms import run as run_arm
from cifar.compare import Comparison, Ratio
from cifar.data import load
from measure import Goal, Measure, Options, Result, Stopped, quartiles

ABOUT = "accuracy over trainer time on CIFAR-10: no sifting, random rows, inline, decoupled"
TASKS = ("10-class", "2-class", "noise")
# At equal accuracy, unsifted seconds over sifted ones: of a redundant task, a hard one, and one with wrong labels.
GOALS = {"10-class": Goal(at_least=1.05), "2-class": Goal(at_least=1.5), "noise": Goal(at_least=1.0)}


@dataclass(frozen=True)
class Plan:
    """`points`: fractions of a run at which it is evaluated; all are at the end."""

    steps: int  # T, of batch 128
    seeds: int
    arms: tuple[Arm, ...]
    points: tuple[float, ...]
    every: int = 1  # n: each n-th image of the data only


FULL_PLAN, QUICK_PLAN = Plan(600, 3, FULL, (0.25, 0.5, 0.75, 0.9)), Plan(50, 1, QUICK, (0.5,), 6)


def run(options: Options) -> Result:
    plan = QUICK_PLAN if options.quick else FULL_PLAN
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run(options, plan)
    finally:
        torch.set_num_threads(threads)


def _run(options: Options, plan: Plan) -> Result:
    images = load(options.data, plan.every)
    if images.note:
        print(f"   {images.note}", file=sys.stderr)
    path = None if options.out is None else options.out / "accuracy.jsonl"
    records = _read(path) if options.resume else {}
    todo = [(seed, task, arm) for seed in range(plan.seeds) for task in TASKS for arm in plan.arms]
    wanted, failed, stopped = [], [], False
    began, ran = time.monotonic(), 0
    for i, (seed, name, arm) in enumerate(todo):
        steps = round(plan.steps * arm.budget)
        key = (images.name, name, arm.name, seed, steps)
        if key not in records:
            try:
                record = run_arm(arm, tasks.make(name, images, seed), images.name, seed, steps, plan.points)
            except KeyboardInterrupt:
                stopped = True
                break
            except Exception as error:
                traceback.print_exc()
                failed.append(f"{name}, {arm.name}, seed {seed}: {error}")
                continue
            records[record.key] = record
            _append(path, record)
            ran += 1
            left = (time.monotonic() - began) / ran * (len(todo) - i - 1) / 60
            print(f"   {i + 1}/{len(todo)} {_told(record)}; about {left:.0f} min left", file=sys.stderr, flush=True)
        wanted.append(records[key])
    result = _result(wanted, plan, options, images.note)
    lost = [f"stopped after {len(wanted)} of {len(todo)} runs"] if stopped else []
    result.skipped = "; ".join([*([images.note] if images.note else []), *lost, *failed])
    if stopped:
        raise Stopped(result)
    return result


def _told(r: Record) -> str:
    text = f"{r.task}, {r.arm}, seed {r.seed}: {r.accuracy:.2f} %, {r.trainer_seconds:.1f} s"
    if r.kept < 1:
        text += f" (waiting {r.wait_seconds:.1f}), kept {r.kept:.0%}"
    return text


def _read(path: Path | None) -> dict[tuple[object, ...], Record]:
    if path is None or not path.exists():
        return {}
    found = [Record(**json.loads(line)) for line in path.read_text().splitlines() if line.strip()]
    return {r.key: r for r in found}


def _append(path: Path | None, record: Record) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as f:
            f.write(json.dumps(asdict(record)) + "\n")


def _result(records: list[Record], plan: Plan, options: Options, note: str) -> Result:
    runs = _compare(records)
    if not runs:
        return Result([])
    text = tables.text(runs, plan.steps)
    print(text, file=sys.stderr)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "accuracy.txt").write_text(text + "\n")
    measures = [
        m for (task, arm), c in runs.items() for m in _measures(task, arm, c, runs, options.quick or bool(note))
    ]
    return Result(measures, tables.plots(runs, records[0].data))


def _compare(records: Iterable[Record]) -> tables.Runs:
    """By task and arm, for tasks of which the unsifted loop ran at T."""
    records = list(records)
    out = {}
    for task in TASKS:
        of_task = [r for r in records if r.task == task]
        plain = [r for r in of_task if r.arm.startswith("no sifting")]
        if any(r.arm == PLAIN.name for r in plain):
            for arm in dict.fromkeys(r.arm for r in of_task):
                out[task, arm] = Comparison([r for r in of_task if r.arm == arm], plain)
    return out


def _measures(task: str, arm: str, c: Comparison, runs: tables.Runs, short: bool) -> list[Measure]:
    """Speed: seconds of the unsifted loop to the arm's accuracy / the arm's. `short`: the goals don't apply."""
    detail = {"sd": c.sd if not math.isnan(c.sd) else None, "seeds": len(c.runs), "runs": [asdict(r) for r in c.runs]}
    accuracy = Measure(f"{task}, {arm}: accuracy", c.accuracy, "%", detail=detail)
    several = len(c.runs) > 1
    if several:
        accuracy.low, accuracy.high = quartiles([r.accuracy for r in c.runs])
    if arm.startswith("no sifting"):
        return [accuracy]
    if arm == RANDOM.name:
        accuracy.note = f"the control; no sifting at as many steps: {runs[task, PLAIN.name].accuracy:.2f}"

    def measure(what: str, ratio: Ratio, goal: Goal | None = None) -> Measure:
        m = Measure(f"{task}, {arm}: {what}", ratio.value, goal=goal)
        if several:
            m.low, m.high = ratio.low, ratio.high
        notes = [f"{c.outside} this: its accuracy lies outside of the unsifted loop's"] if c.outside else []
        if goal is not None and not m.met:
            notes.append(c.cause())
        m.note = "; ".join(notes)
        return m

    if arm != FLAGSHIP.name:
        return [accuracy, measure("speed at equal accuracy, same trainer", c.same_trainer)]
    goal = None if short else GOALS[task]
    return [
        accuracy,
        measure("speed at equal accuracy, same trainer", c.same_trainer, goal),
        measure("the same, waiting left out (enough workers)", c.never_waiting, goal),
        measure("the same, equal hardware (unsifted on all cores)", c.equal_hardware),
        measure("the same, device seconds (trainer and scoring)", c.device_seconds),
    ]
