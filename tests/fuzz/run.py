# SPDX-License-Identifier: Apache-2.0
"""Runs the libFuzzer programs of a build folder, as many at a time as there are cores, and prints what they did.

usage: run.py --build FOLDER [--seconds N] [--runs N] [TARGET...]; ./dev fuzz builds and calls it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
GRACE = 120  # seconds that a program may take to start and to end
# Protobuf is built without the sanitizer: containers that it fills look too large to it.
SANITIZERS = {
    "ASAN_OPTIONS": "detect_container_overflow=0:detect_stack_use_after_return=0:allocator_may_return_null=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}
STATUS = re.compile(r"^#(\d+)\s.*?cov: (\d+)(?:.*exec/s: (\d+))?", re.MULTILINE)


@dataclass
class Run:
    target: str
    executions: int = 0
    per_second: int = 0
    edges: int = 0
    seconds: float = 0.0
    running: bool = False
    error: str = ""
    findings: list[Path] = field(default_factory=list)


def command(run: Run, args: argparse.Namespace, folder: Path) -> list[str]:
    program = args.build / "tests" / "fuzz" / f"fuzz_{run.target}"
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = [args.build / "tests" / "fuzz" / "seeds" / run.target, HERE / "findings" / run.target]
    # The first folder takes what is new.
    folders = [str(f) for f in (corpus, *seeds) if f.is_dir()]
    limit = [f"-runs={args.runs}"] if args.runs else [f"-max_total_time={args.seconds}"]
    # Entropic weights take three quarters of the time where an input reaches thousands of features, as the cores' do.
    options = ["-entropic=0", "-max_len=8192", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]
    return [str(program), *limit, *options, f"-artifact_prefix={folder}/", *folders]


def fuzz(run: Run, args: argparse.Namespace) -> Run:
    folder = args.out / run.target
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    log = folder / "log.txt"
    run.running, began = True, time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(
            command(run, args, folder), stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **SANITIZERS}
        )
        limit = None if args.runs else args.seconds + GRACE
        while process.poll() is None:
            try:
                process.wait(1)
            except subprocess.TimeoutExpired:
                read(run, log)
                if limit is not None and time.monotonic() - began > limit:
                    process.kill()
                    run.error = f"did not end {GRACE} s after its {args.seconds} s"
    run.running, run.seconds = False, time.monotonic() - began
    read(run, log)
    run.findings = sorted(
        f for f in set(folder.iterdir()) - before if re.match(r"(crash|leak|oom|timeout|slow)-", f.name)
    )
    if process.returncode != 0 and not run.findings and not run.error:
        run.error = f"ended with exit code {process.returncode} and no finding; see {log}"
    return run


def read(run: Run, log: Path) -> None:
    text = log.read_text(errors="replace")
    for number, edges, rate in STATUS.findall(text):
        run.executions, run.edges = int(number), int(edges)
        run.per_second = int(rate) if rate else run.per_second
    if match := re.search(r"stat::number_of_executed_units:\s*(\d+)", text):
        run.executions = int(match[1])
    if match := re.search(r"stat::average_exec_per_sec:\s*(\d+)", text):
        run.per_second = int(match[1])


def progress(runs: list[Run], done: threading.Event) -> None:
    began, shown = time.monotonic(), sys.stderr.isatty()
    while not done.wait(1 if shown else 30):
        now = ", ".join(r.target for r in runs if r.running)
        total = sum(r.executions for r in runs)
        ended = sum(r.seconds > 0 for r in runs)
        line = f"{time.monotonic() - began:5.0f} s  {ended}/{len(runs)} targets, {total:,} executions; running: {now}"
        print(f"\r\033[K{line}" if shown else line, end="" if shown else "\n", file=sys.stderr, flush=True)
    if shown:
        print("\r\033[K", end="", file=sys.stderr)


def table(runs: list[Run]) -> str:
    lines = [f"{'target':<16}{'executions':>14}{'exec/s':>10}{'edges':>8}{'seconds':>9}{'findings':>10}"]
    lines += [
        f"{r.target:<16}{r.executions:>14,}{r.per_second:>10,}{r.edges:>8,}{r.seconds:>9.0f}{len(r.findings):>10}"
        for r in runs
    ]
    total = sum(r.executions for r in runs)
    lines.append(f"{'all':<16}{total:>14,}{'':>27}{sum(len(r.findings) for r in runs):>10}")
    return "\n".join(lines)


def known() -> list[str]:
    return re.findall(r'Target\{"(\w+)"', (HERE / "targets.h").read_text())


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev fuzz")
    parser.description = (
        "Runs the fuzz targets, each for some time or some executions; tests/fuzz/README.md has the map."
    )
    parser.add_argument("--build", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "fuzz", help="corpora, logs and findings go here")
    parser.add_argument("--seconds", type=int, default=60, help="of each target (default 60)")
    parser.add_argument("--runs", type=int, default=0, help="executions of each target, instead of seconds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at a time (default: all cores)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(known())}")
    args = parser.parse_args()
    unknown = sorted(set(args.targets) - set(known()))
    if unknown:
        parser.error(f"no target is called {unknown[0]!r}; targets: {', '.join(known())}")
    args.build, args.out = args.build.resolve(), args.out.resolve()
    runs = [Run(name) for name in args.targets or known()]
    done = threading.Event()
    teller = threading.Thread(target=progress, args=(runs, done))
    teller.start()
    try:
        with ThreadPoolExecutor(max(1, args.jobs)) as pool:
            list(pool.map(lambda run: fuzz(run, args), runs))
    finally:
        done.set()
        teller.join()
    print(table(runs))
    for run in runs:
        for finding in run.findings:
            program = args.build / "tests" / "fuzz" / f"fuzz_{run.target}"
            options = " ".join(f"{k}={v}" for k, v in SANITIZERS.items())
            print(f"\nfinding of {run.target}: {finding}\n  repeat: {options} {program} {finding}")
            print("  mend it, then keep it: see tests/fuzz/README.md, A finding")
        if run.error:
            print(f"\n{run.target}: {run.error}")
    return 1 if any(run.findings or run.error for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
