# SPDX-License-Identifier: Apache-2.0
"""How a pool grows: workers whose scorer sleeps, so that 64 of them fit on a small host; clients in C++ and Python."""

from __future__ import annotations

import contextlib
import functools
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from measure import Goal, Measure, Options, Plot, Result, Series, ratio
from pool import Pool, fixed_cost_pool
from programs import BUILD, program
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import siftd

ABOUT = "1 to 64 workers of fixed cost: throughput, fairness, memory and CPU of the clients"
ROWS, FEATURES = 128, 16
COUNTS = (1, 2, 4, 8)
FORWARD_MS = 20.0  # of a worker, where the pool grows with the rate
RATE = 100.0  # batches/s of the whole pool, where the rate stays
KIB = 1024.0
MOST = 1.05  # more than the scorers can give is an error of the measurement, not a success


@functools.cache  # two exports differ
def scorer() -> siftd.Scorer:
    example = [torch.randn(ROWS, FEATURES), torch.zeros(ROWS, dtype=torch.int64)]
    return siftd.export_scorer(nn.Linear(FEATURES, 4), example_batch=example)


@contextlib.contextmanager
def workers_of(milliseconds: float, count: int, *more: str) -> Iterator[Pool]:
    with tempfile.TemporaryDirectory(prefix="siftd-bench-") as folder:
        artifact = Path(folder, "scorer.pt")
        artifact.write_bytes(scorer().archive)
        flags = ("--score-batch-rows", str(ROWS), "--log-level", "error", *more)
        with fixed_cost_pool(artifact, count, *flags, us=1e3 * milliseconds) as pool:
            yield pool


def feed(endpoints: Sequence[str], seconds: float, warm: float, ranks: int = 1) -> list[dict[str, float]]:
    """`ranks` processes, each a loader and a rank; what each measured in the same `seconds`, `warm` after the start."""
    run = str(time.time_ns())
    command = [str(program("siftd_scale_bench")), "--run", run, "--rows", str(ROWS), "--features", str(FEATURES)]
    command += ["--count", str(ranks)]
    for endpoint in endpoints:
        command += ["--endpoint", endpoint]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen([*command, "--index", str(i)], stdin=pipe, stdout=pipe, text=True) for i in range(ranks)
    ]
    try:
        for p in processes:
            _line(p)
        for pause in (warm, seconds, 0.0):  # go, begin, end: the same times for all
            for p in processes:
                assert p.stdin is not None
                p.stdin.write("\n")
                p.stdin.flush()
            time.sleep(pause)
        lines = [_line(p) for p in processes]
        for p in processes:
            p.communicate(timeout=60)  # they end with their standard input
        return [json.loads(line) for line in lines]
    finally:
        for p in processes:
            p.kill()
            p.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"siftd_scale_bench ended with code {process.wait()}")
    return line


def resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1]) * KIB
    raise RuntimeError(f"no VmRSS of process {pid}")


def decided(pool: Pool) -> list[int]:
    """Batches that each worker decided."""
    out = subprocess.run(
        [str(BUILD / "worker" / "siftd"), "status", "--json", *pool.endpoints],
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(w["status"]["decided_batches"]) for w in json.loads(out.stdout)]


def jain(shares: Sequence[float]) -> float:
    """Jain's index: 1 if all shares are equal, 1 / n if one has all."""
    return sum(shares) ** 2 / (len(shares) * sum(s * s for s in shares))


def linear(options: Options) -> tuple[list[Measure], Plot]:
    """The pool grows from 1 to 8 workers, fed by one loader and rank."""
    rounds, seconds = (2, 1.0) if options.quick else (5, 4.0)
    rates: dict[int, list[float]] = {n: [] for n in COUNTS}
    with workers_of(FORWARD_MS, max(COUNTS)) as pool:
        for _ in range(rounds):
            for n in COUNTS:
                m = feed(pool.endpoints[:n], seconds, warm=0.5)[0]
                rates[n].append(ROWS * m["batches"] / m["seconds"])
    measures = [
        ratio(
            f"candidates/s with {n} workers / {n} x with one",
            rates[n],
            [n * r for r in rates[1]],
            goal=Goal(at_least=0.95, at_most=MOST),
            detail={"candidates_per_second": rates[n]},
        )
        for n in COUNTS[1:]
    ]
    medians = [statistics.median(rates[n]) for n in COUNTS]
    ideal = ROWS * 1e3 / FORWARD_MS
    measures.append(Measure("candidates/s with one worker / its scorer's", medians[0] / ideal))
    plot = Plot(
        "Candidates/s by workers",
        "workers",
        "candidates/s",
        [Series("measured", COUNTS, medians), Series("scorers alone", COUNTS, [ideal * n for n in COUNTS])],
    )
    return measures, plot


def crowd(options: Options) -> list[Measure]:
    """Many workers, loaders and ranks at a time."""
    workers, ranks, seconds = (16, 4, 4.0) if options.quick else (64, 16, 20.0)
    forward = 1e3 * workers / RATE
    of = f"{workers} workers, {ranks} loaders, {ranks} ranks"
    # A worker's queue is served in order, so ranks have their shares only once it was emptied of its first filling.
    window = 2
    warm = 1.5 * ranks * window * forward / 1e3
    with workers_of(forward, workers, "--loader-window", str(window)) as pool:
        before = statistics.mean(resident(pid) for pid in pool.pids)
        began = decided(pool)
        shares = feed(pool.endpoints, seconds, warm=warm, ranks=ranks)
        by_worker = [b - a for a, b in zip(began, decided(pool), strict=True)]
        after = statistics.mean(resident(pid) for pid in pool.pids)
    rate = sum(s["batches"] / s["seconds"] for s in shares)
    by_rank = [s["batches"] for s in shares]
    return [
        Measure(f"candidates/s / the scorers', {of}", rate / RATE, goal=Goal(at_least=0.90, at_most=MOST)),
        Measure("Jain's index over workers", jain(by_worker), goal=Goal(at_least=0.95), detail={"batches": by_worker}),
        Measure("Jain's index over ranks", jain(by_rank), goal=Goal(at_least=0.95), detail={"batches": by_rank}),
        Measure("memory of a worker per connection", (after - before) / (2 * ranks + 1) / KIB, "KiB"),
    ]


class Python:
    """The drop-in over `endpoints`, without a training step."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        data = TensorDataset(torch.zeros(ROWS * 64, FEATURES), torch.zeros(ROWS * 64, dtype=torch.int64))
        self._batches = list(DataLoader(data, ROWS)) * 10_000
        self._endpoints = list(endpoints)

    def cpu_per_batch(self, seconds: float, warm: float) -> float:
        torch.manual_seed(0)
        model = nn.Linear(FEATURES, 4)
        policy = siftd.Uniform(0.5)
        loader = siftd.SiftingDataLoader(
            self._batches, batch_size=ROWS, model=model, policy=policy, workers=self._endpoints, scorer=scorer(),
            steps_per_epoch=1 << 30, sync_every=1_000_000, step_on_next=True,
        )  # fmt: skip
        with loader:
            batches = iter(loader)
            self._take(batches, warm)
            cpu = time.process_time()
            handed = self._take(batches, seconds)
            return (time.process_time() - cpu) / handed

    @staticmethod
    def _take(batches: Iterator[Any], seconds: float) -> int:
        handed, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            next(batches)
            handed += 1
        return handed


def growth(options: Options) -> tuple[list[Measure], Plot]:
    """The same rate from more workers: what a batch costs the clients."""
    counts = (1, 8, 16) if options.quick else (1, 8, 64)
    rounds, seconds = (1, 1.0) if options.quick else (3, 6.0)
    cpp: dict[int, list[float]] = {n: [] for n in counts}
    python: dict[int, list[float]] = {n: [] for n in counts}
    memory: dict[int, float] = {}
    for _ in range(rounds):
        for n in counts:
            forward = 1e3 * n / RATE
            warm = 0.5 + 2 * forward / 1e3
            with workers_of(forward, n) as pool:
                m = feed(pool.endpoints, seconds, warm)[0]
                cpp[n].append(1e6 * m["cpu_seconds"] / m["batches"])
                memory[n] = m["resident_bytes"]
                python[n].append(1e6 * Python(pool.endpoints).cpu_per_batch(seconds, warm))
    most = counts[-1]
    connections = 3 * (most - 1)  # loader's, trainer's, publisher's
    measures = [Measure("memory of a C++ client per connection", (memory[most] - memory[1]) / connections / KIB, "KiB")]
    for label, cost in (("C++ loader and trainer", cpp), ("Python drop-in", python)):
        measures.append(Measure(f"CPU per batch, {label}, one worker", statistics.median(cost[1]), "us"))
        measures.append(ratio(f"the same with {most} workers / with one", cost[most], cost[1], goal=Goal(at_most=1.5)))
    plot = Plot(
        f"CPU of the clients per batch, at {RATE:.0f} batches/s of all workers",
        "workers",
        "us",
        [
            Series(label, counts, [statistics.median(cost[n]) for n in counts])
            for label, cost in (("C++ loader and trainer", cpp), ("Python drop-in", python))
        ],
        log_x=True,
    )
    return measures, plot


def run(options: Options) -> Result:
    scaling, scaling_plot = linear(options)
    growing, growing_plot = growth(options)
    return Result([*scaling, *crowd(options), *growing], [scaling_plot, growing_plot])
