# SPDX-License-Identifier: Apache-2.0
"""What siftd's connections carry against raw ZeroMQ, the Python client against the C++ one, the latency of a verdict.

All throughputs are measured by loopback on this host, each arm in processes of its own, in turn. Besides GB/s each arm
tells its CPU seconds per GB, which a busy host changes less.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import Goal, Measure, Options, Plot, Result, Series, interleaved, quartiles, ratio
from pool import fixed_cost_pool
from programs import google_benchmark, program
from torch import nn

import siftd
from siftd._weights.sync import WeightsSync

ABOUT = "GB/s against raw ZeroMQ, the clients, CURVE, same-host paths, latency of a verdict"
KIB, MIB = 1 << 10, 1 << 20
SIZES = (64 * KIB, MIB, 8 * MIB)
TCP = "tcp://127.0.0.1:*"
# Of the arms by size; the last is only for the size that the goals are set at.
RAW, OWN, REFERENCES = ("push", "push ipc"), ("candidates", "selected", "candidates ipc", "selected ipc"), ("memfd",)
ONCE = ("dealer", "curve", "candidates-curve", "selected-curve")
ROWS, BATCH = 64, 48  # kept rows of a message, rows of a trainer's batch: most batches are made of two messages


@dataclass(frozen=True)
class Rate:
    gigabytes: float  # per second
    cpu: float  # seconds per GB, of the program that is measured


def _rate(line: str) -> Rate:
    return Rate(*map(float, line.split()))


def _size(nbytes: int) -> str:
    return f"{nbytes // MIB} MiB" if nbytes >= MIB else f"{nbytes // KIB} KiB"


def _link(arm: str, nbytes: int, volume: float, folder: Path) -> Rate:
    kind, _, path = arm.partition(" ")
    endpoint = f"ipc://{folder}/link.sock" if path else TCP
    messages = max(24, min(3000, int(volume * (0.1 if kind.endswith("curve") else 1.0) / nbytes)))
    command = [program("siftd_link_bench"), kind, endpoint, str(nbytes), str(messages)]
    return _rate(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)


def _interleaved(arms: dict[str, Callable[[], Rate]], rounds: int) -> dict[str, list[Rate]]:
    kept: dict[str, list[Rate]] = {name: [] for name in arms}

    def run(name: str) -> float:
        kept[name].append(arms[name]())
        return kept[name][-1].gigabytes

    interleaved({name: lambda name=name: run(name) for name in arms}, rounds)  # type: ignore[misc]
    return kept


def _over(what: str, over: Sequence[Rate], under: Sequence[Rate], goal: Goal | None = None) -> Measure:
    """The ratio of throughputs; that of CPU time beside it."""
    m = ratio(what, [r.gigabytes for r in over], [r.gigabytes for r in under], goal=goal)
    m.detail = {
        "GB/s": statistics.median(r.gigabytes for r in over),
        "reference GB/s": statistics.median(r.gigabytes for r in under),
        "CPU s/GB": statistics.median(r.cpu for r in over),
        "reference CPU s/GB": statistics.median(r.cpu for r in under),
    }
    cpu = statistics.median(a.cpu / b.cpu for a, b in zip(over, under, strict=True))
    if m.met is False:
        m.note = f"{m.detail['GB/s']:.2f} against {m.detail['reference GB/s']:.2f} GB/s; CPU per GB {cpu:.2f} x"
    return m


def _absolute(what: str, rates: Sequence[Rate]) -> Measure:
    values = [r.gigabytes for r in rates]
    low, high = quartiles(values)
    cpu = statistics.median(r.cpu for r in rates)
    return Measure(what, statistics.median(values), "GB/s", low=low, high=high, detail={"CPU s/GB": cpu})


def links(rounds: int, volume: float, folder: Path) -> tuple[list[Measure], Plot]:
    measures: list[Measure] = []
    curves: dict[str, list[float]] = {}
    for nbytes in SIZES:
        names = RAW + OWN + REFERENCES + (ONCE if nbytes == MIB else ())
        arms = {a: lambda a=a, n=nbytes: _link(a, n, volume, folder) for a in names}
        got, size = _interleaved(arms, rounds), _size(nbytes)
        goal = Goal(at_least=0.90) if nbytes == MIB else None
        measures.append(_absolute(f"raw PUSH/PULL, tcp, {size}", got["push"]))
        measures += [
            _over(f"{kind} / raw PUSH/PULL, {path}, {size}", got[own], got[raw], goal if path == "tcp" else None)
            for raw, path, suffix in (("push", "tcp", ""), ("push ipc", "ipc", " ipc"))
            for kind, own in (("Candidates", f"candidates{suffix}"), ("Selected", f"selected{suffix}"))
        ]
        if nbytes == MIB:
            measures.append(_over(f"raw DEALER/ROUTER / PUSH/PULL, tcp, {size}", got["dealer"], got["push"]))
            measures.append(_absolute(f"raw PUSH/PULL with CURVE, tcp, {size}", got["curve"]))
            measures += [
                _over(f"{kind} with CURVE / without, tcp, {size}", got[f"{own}-curve"], got[own])
                for kind, own in (("Candidates", "candidates"), ("Selected", "selected"))
            ]
        measures.append(_over(f"ipc / tcp, raw PUSH/PULL, {size}", got["push ipc"], got["push"]))
        measures.append(_over(f"ipc / tcp, Candidates, {size}", got["candidates ipc"], got["candidates"]))
        measures.append(_over(f"memfd prototype / tcp PUSH/PULL, {size}", got["memfd"], got["push"]))
        for name in RAW + OWN + REFERENCES:
            curves.setdefault(name, []).append(statistics.median(r.gigabytes for r in got[name]))
    series = [Series(name, [n / MIB for n in SIZES], values) for name, values in curves.items()]
    return measures, Plot("Loopback throughput", "MiB per frame", "GB/s", series, log_x=True)


class _PythonClient:
    """tests/bench/python_client.py, started once: importing torch takes longer than a measurement."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).resolve().parents[1] / "python_client.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, *arguments: str) -> Rate:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(*arguments, file=self._process.stdin, flush=True)
        return _rate(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


def clients(sizes: Sequence[int], rounds: int, volume: float) -> list[Measure]:
    measures = []
    python = _PythonClient()
    for nbytes in sizes:
        command = [str(program("siftd_peer_worker")), "tcp://127.0.0.1:0", str(nbytes), str(ROWS)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
            assert peer.stdout is not None
            endpoint = peer.stdout.readline().strip()

            def arguments(role: str, nbytes: int = nbytes, endpoint: str = endpoint) -> list[str]:
                part = BATCH / ROWS if role == "trainer" else 1.0
                messages = max(40, min(6000, int(volume / nbytes / part)))
                return [role, endpoint, *map(str, (nbytes, ROWS, BATCH, messages))]

            def cpp(role: str) -> Rate:
                command = [str(program("siftd_client_bench")), *arguments(role)]
                return _rate(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)

            arms: dict[str, Callable[[], Rate]] = {}
            for role in ("loader", "trainer"):
                arms[f"C++ {role}"] = lambda role=role: cpp(role)
                arms[f"Python {role}"] = lambda role=role: python(*arguments(role))
            got = _interleaved(arms, rounds)
            peer.communicate()
        goal = Goal(at_least=0.70) if nbytes == MIB else None
        for role, does in (("loader", "sending"), ("trainer", "receiving, into batches")):
            what = f"{role}, {does}, {_size(nbytes)}"
            measures.append(_absolute(f"C++ {what}", got[f"C++ {role}"]))
            measures.append(_over(f"Python / C++ {what}", got[f"Python {role}"], got[f"C++ {role}"], goal))
    python.close()
    return measures


def latency(count: int, folder: Path) -> list[Measure]:
    """Of one verdict, nothing else under way, from a real worker with a scorer that takes no time."""
    torch.manual_seed(0)
    width = 64 * KIB // ROWS // 4
    x, y = torch.randn(ROWS, width), torch.zeros(ROWS, dtype=torch.int64)
    model = nn.Linear(width, 10)
    scorer = siftd.export_scorer(model, "cross_entropy", (x, y))
    artifact = scorer.save(folder / "scorer.pt")
    measures = []
    for path, endpoint in (("tcp", "tcp://127.0.0.1:0"), ("ipc", f"ipc://{folder}/verdict.sock")):
        with fixed_cost_pool(artifact, 1, "--endpoint", endpoint) as pool:
            weights = WeightsSync(pool.endpoints, "bench", run := os.getpid(), scorer, sync_every=1)
            try:
                weights.start(model, 0, (), timeout=30.0)
                command = [program("siftd_verdict_bench"), pool.endpoints[0], str(run), str(64 * KIB), str(count)]
                out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
            finally:
                assert weights.publisher is not None
                weights.publisher.close()
        times = sorted(map(float, out.split()))
        for percent in (50, 99):
            value = times[min(len(times) - 1, len(times) * percent // 100)]
            measures.append(Measure(f"latency of a verdict on 64 KiB, {path}, p{percent}", value, "us"))
    return measures


def run(options: Options) -> Result:
    quick = options.quick
    with tempfile.TemporaryDirectory(prefix="siftd-bench-") as name:
        folder = Path(name)
        measures, plot = links(3 if quick else 11, 1e8 if quick else 4e8, folder)
        measures += clients((MIB,) if quick else SIZES, 3 if quick else 9, 1.5e8 if quick else 1.5e9)
        measures += latency(300 if quick else 5000, folder)
    measures += [
        Measure(name, r["real_time"], "ns", detail={"payload": "not copied"})
        for name, r in google_benchmark("Candidates", "--benchmark_min_time=0.1").items()
    ]
    return Result(measures, [plot])
