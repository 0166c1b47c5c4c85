# SPDX-License-Identifier: Apache-2.0
"""What a publish costs the training loop, and when its workers score with it, by bytes and number of workers.

The workers are real ones on this host whose scorer takes no CPU (for an accelerator `siftd worker`): staging, checksums
and acks are those of any worker, and compete with the loop for this host's cores.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from contextlib import AbstractContextManager
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from devices import Devices, device_of, settle
from measure import Goal, Measure, Options, Plot, Result, Series, interleaved, quartiles
from pool import Pool, fixed_cost_pool, siftd_pool
from torch import nn

import siftd
from siftd._weights.sync import WeightsSync

ABOUT = "time of a publish, and what it costs the training loop: 1, 10, 100 MB to 1, 4, 16 workers"
MEGABYTES = (1, 10, 100)
WORKERS, QUICK_WORKERS = (1, 4, 16), (1, 4)
WIDTH = 512  # a layer has 2^18 + 2^9 float32, about 1.05 MB
STEP_SECONDS = 0.005
HELD_MOST = 1.0  # ms above a bare copy
BUSY, VOID = 0.1, "no goal: other programs had the loop's core for more than a tenth of a bare copy"
TIMEOUT = 120.0


class _Loop:
    """A training loop's compute: one thread, about STEP_SECONDS a step, each waited for."""

    def __init__(self, device: torch.device) -> None:
        width = 384 if device.type == "cpu" else 2048
        self._device, self._a = device, torch.randn(width, width, device=device)
        self._repeat = 1
        self._repeat = max(1, round(STEP_SECONDS / statistics.median(self.step() for _ in range(50))))

    def step(self) -> float:
        began = time.perf_counter()
        for _ in range(self._repeat):
            torch.mm(self._a, self._a)
        settle(self._device)
        return time.perf_counter() - began


class _Published:
    """A model of `megabytes` whose weights go to `endpoints`."""

    def __init__(self, model: nn.Module, scorer: siftd.Scorer, endpoints: list[str], run: int) -> None:
        self._model, self._workers = model, len(endpoints)
        self._sync = WeightsSync(endpoints, "bench", run, scorer, sync_every=1)
        self._history = [0.5] * 1024  # as loss_cdf keeps by default
        self._step = 0
        self._sync.start(model, 0, self._history, TIMEOUT)
        self.wait()

    def publish(self) -> float:
        """Seconds that the caller is held."""
        self._step += 1
        began = time.perf_counter()
        self._sync.publish(self._model, self._step, self._history)
        return time.perf_counter() - began

    def wait(self) -> None:
        assert self._sync.publisher is not None
        if not self._sync.publisher.wait(self._sync.version, TIMEOUT, self._workers):
            raise RuntimeError(f"bench: not applied: {self._sync.publisher.core.refusals[-1:]}")

    @property
    def applied(self) -> bool:
        assert self._sync.publisher is not None
        return self._sync.publisher.core.applied(self._sync.version) >= self._workers

    def close(self) -> None:
        assert self._sync.publisher is not None
        self._sync.publisher.close()


def _model(megabytes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(megabytes)))


def _held(what: str, model: nn.Module, published: _Published, rounds: int) -> list[Measure]:
    """Milliseconds above the bare copy of the same bytes to the host, in turn with it; nothing else under way."""
    device = device_of(model)
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    into = torch.empty_like(flat, device="cpu", pin_memory=device.type == "cuda")
    settle(device)
    views = [into[a:b] for a, b in pairwise(accumulate((p.numel() for p in model.parameters()), initial=0))]
    parameters = [p.detach().reshape(-1) for p in model.parameters()]
    cpu: dict[str, list[float]] = {"copy": [], "publish": []}

    def copy() -> float:
        # Not timed: what the publish before leaves behind (workers free their old version) would be the copy's.
        into.copy_(flat)
        before = time.thread_time()
        began = time.perf_counter()
        into.copy_(flat, non_blocking=True)
        settle(device)
        seconds = time.perf_counter() - began
        cpu["copy"].append(time.thread_time() - before)
        return seconds

    def publish() -> float:
        torch._foreach_copy_(views, parameters)  # as above: the parameters are as warm as `flat` is there
        before = time.thread_time()
        seconds = published.publish()
        cpu["publish"].append(time.thread_time() - before)
        published.wait()
        return seconds

    copy(), publish()
    got = interleaved({"copy": copy, "publish": publish}, rounds)
    above, cpu_above = (
        [1e3 * (p - c) for c, p in zip(of["copy"][-rounds:], of["publish"][-rounds:], strict=True)] for of in (got, cpu)
    )
    low, high = quartiles(above)
    detail = {f"{name} ms": 1e3 * statistics.median(seconds) for name, seconds in got.items()}
    detail |= {f"{name} CPU ms": 1e3 * statistics.median(seconds) for name, seconds in cpu.items()}
    value = statistics.median(above)
    # On an accelerator the thread waits for the device.
    void = device.type == "cpu" and detail["copy ms"] - detail["copy CPU ms"] > BUSY * detail["copy ms"]
    goal = None if void else Goal(at_most=HELD_MOST)
    note = ", ".join(f"{name} {ms:.2f}" for name, ms in detail.items()) if value > HELD_MOST else ""
    note = VOID if void else note
    return [
        Measure(f"loop held above one copy, {what}", value, "ms", goal, low, high, note, detail),
        Measure(f"the same by CPU time, {what}", statistics.median(cpu_above), "ms", None, *quartiles(cpu_above)),
        Measure(f"bare copy, {what}", detail["copy ms"], "ms"),
    ]


def _impact(what: str, published: _Published, loop: _Loop, rounds: int) -> tuple[list[Measure], float]:
    """A loop that publishes, until all workers have it, against the same loop in between."""
    ratios, extra, applied = [], [], []
    for _ in range(rounds):
        plain = statistics.mean(loop.step() for _ in range(40))
        began = time.perf_counter()
        steps = [published.publish() + loop.step()]
        while not published.applied and time.perf_counter() - began < TIMEOUT:
            steps.append(loop.step())
        applied.append(time.perf_counter() - began)
        ratios.append(statistics.mean(steps) / plain)
        extra.append(1e3 * (sum(steps) - plain * len(steps)))
    seconds, (low, high) = statistics.median(applied), quartiles(applied)
    ratio_low, ratio_high = quartiles(ratios)
    return [
        Measure(f"until all score with it, {what}", 1e3 * seconds, "ms", None, 1e3 * low, 1e3 * high),
        Measure(
            f"step meanwhile / step, {what}", statistics.median(ratios), "x", None, ratio_low, ratio_high,
            detail={"ms lost per publish": statistics.median(extra)},
        ),
    ], seconds  # fmt: skip


def _workers(artifact: Path, count: int, device: str) -> AbstractContextManager[Pool]:
    if device == "cpu":
        return fixed_cost_pool(artifact, count)
    return siftd_pool(artifact, count, "--threads", "1", device=device)


def _publish(
    megabytes: int, counts: tuple[int, ...], rounds: int, loop: _Loop, devices: Devices, folder: Path,
    runs: itertools.count[int],
) -> tuple[list[Measure], list[float]]:  # fmt: skip
    """Measures, and the seconds until all workers have it, by `counts`."""
    model = _model(megabytes)
    example = torch.randn(4, WIDTH), torch.zeros(4, dtype=torch.int64)
    scorer = siftd.export_scorer(model, "cross_entropy", example)
    model.to(devices.trainer)
    artifact = scorer.save(folder / f"{megabytes}.pt")
    measures: list[Measure] = []
    took = []
    with _workers(artifact, max(counts), devices.worker) as pool:
        for workers in counts:
            what = f"{megabytes} MB to {workers} worker{'s' if workers > 1 else ''}"
            published = _Published(model, scorer, pool.endpoints[:workers], next(runs))
            try:
                if workers == counts[0]:
                    measures += _held(f"{megabytes} MB", model, published, 4 * rounds)
                got, seconds = _impact(what, published, loop, rounds)
            finally:
                published.close()
            measures += got
            took.append(seconds)
    return measures, took


def run(options: Options) -> Result:
    counts = QUICK_WORKERS if options.quick else WORKERS
    rounds = 2 if options.quick else 5
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    measures: list[Measure] = []
    curves: dict[int, list[float]] = {n: [] for n in counts}
    runs = itertools.count(time.time_ns())
    try:
        loop = _Loop(torch.device(options.devices.trainer))
        with tempfile.TemporaryDirectory(prefix="siftd-bench-") as name:
            for megabytes in MEGABYTES:
                got, took = _publish(megabytes, counts, rounds, loop, options.devices, Path(name), runs)
                measures += got
                for workers, seconds in zip(counts, took, strict=True):
                    curves[workers].append(1e3 * seconds)
                (Path(name) / f"{megabytes}.pt").unlink()
    finally:
        torch.set_num_threads(threads)
    series = [Series(f"{n} workers on {os.cpu_count()} cores", MEGABYTES, ms) for n, ms in curves.items()]
    return Result(
        measures, [Plot("Publish until all workers score with it", "MB", "ms", series, log_x=True, log_y=True)]
    )
