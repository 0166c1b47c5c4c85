# SPDX-License-Identifier: Apache-2.0
"""`./dev soak`: the rows over and over, with random seeds and long stalls, until the time or a row is lost."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rows import HERE, matrix_rows

ROOT = HERE.parents[1]
DEADLINE = 600.0  # seconds of one row


@dataclass
class Outcome:
    row: str
    seed: int
    passed: bool
    seconds: float
    found: dict[str, Any]  # lost, repeated, trained
    output: str


def run_row(row: str, test: str, seed: int, folder: Path) -> Outcome:
    """One row in a process of its own; its logs are under `folder`."""
    folder.mkdir(parents=True)
    report = folder / "report.json"
    environment = os.environ | {
        "SIFTD_FAULT_SOAK": "1",
        "SIFTD_FAULT_SEED": str(seed),
        "SIFTD_FAULT_REPORT": str(report),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'tmp'}"]
    begin = time.monotonic()
    try:
        done = subprocess.run(
            [*command, f"--timeout={DEADLINE:.0f}", test],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE + 60,
        )  # fmt: skip
        passed, output = done.returncode == 0, done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        passed, output = False, f"not over after {error.timeout} s"
    found = json.loads(report.read_text()) if report.exists() else {}
    return Outcome(row, seed, passed, time.monotonic() - begin, found, output)


def table(outcomes: list[Outcome]) -> str:
    by_row: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_row[outcome.row].append(outcome)
    lines = [f"{'row':<52} {'runs':>5} {'lost':>5} {'repeated':>9} {'rows trained':>13} {'s a run':>8}"]
    for row, runs in sorted(by_row.items()):
        lost, repeated, trained = (sum(o.found.get(k, 0) for o in runs) for k in ("lost", "repeated", "trained"))
        seconds = sum(o.seconds for o in runs) / len(runs)
        lines.append(f"{row:<52} {len(runs):>5} {lost:>5} {repeated:>9} {trained:>13} {seconds:>8.1f}")
    return "\n".join(lines)


def soak(minutes: float, seed: int, pattern: str, jobs: int, out: Path) -> int:
    rows = {row: test for row, test in matrix_rows().items() if pattern in row}
    if not rows:
        print(f"soak: no row's name has '{pattern}'", file=sys.stderr)
        return 2
    draw = random.Random(seed)
    print(f"{len(rows)} rows for {minutes:g} minutes, first seed {seed}, {jobs} at a time, logs in {out}", flush=True)
    until = time.monotonic() + 60 * minutes
    outcomes: list[Outcome] = []
    failed: Outcome | None = None
    waiting: list[str] = []
    running: dict[Future[Outcome], Path] = {}
    count = 0
    with ThreadPoolExecutor(jobs) as pool:
        while failed is None and (running or time.monotonic() < until):
            while len(running) < jobs and time.monotonic() < until:
                if not waiting:
                    waiting = list(rows)
                    draw.shuffle(waiting)
                row = waiting.pop()
                folder = out / f"{count:05d}-{row}"
                count += 1
                running[pool.submit(run_row, row, rows[row], draw.randrange(1 << 31), folder)] = folder
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                folder = running.pop(future)
                outcome = future.result()
                outcomes.append(outcome)
                left = max(0.0, until - time.monotonic()) / 60
                word = "passed" if outcome.passed else "FAILED"
                print(f"{left:6.1f} min left  {outcome.row} {word} in {outcome.seconds:.1f} s", flush=True)
                if outcome.passed:
                    shutil.rmtree(folder)
                elif failed is None:
                    failed = outcome
                    (folder / "output.txt").write_text(outcome.output)
                    print(f"FAILED {outcome.row}, seed {outcome.seed}, logs kept in {folder}\n{outcome.output[-4000:]}")
    print(table(outcomes))
    if failed is not None:
        test = rows[failed.row]
        print(f"again: SIFTD_FAULT_SOAK=1 SIFTD_FAULT_SEED={failed.seed} python -m pytest {test}")
        return 1
    print(f"{len(outcomes)} runs of {len({o.row for o in outcomes})} rows: nothing lost, nothing trained twice")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--rows", default="", metavar="PATTERN", help="only rows whose name has this")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2)), help="rows at a time")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / time.strftime("soak-%Y%m%d-%H%M%S"))
    arguments = parser.parse_args()
    return soak(arguments.minutes, arguments.seed, arguments.rows, arguments.jobs, arguments.out.resolve())


if __name__ == "__main__":
    sys.exit(main())
