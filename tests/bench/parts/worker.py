# SPDX-License-Identifier: Apache-2.0
"""Samples/s through a whole worker process against a bare LibTorch loop over the same scorer, batch and threads.

The worker has a core to itself, its loader and trainer another one; the bare loop runs on the worker's core while the
worker is idle. In turn: bare loop, worker, worker whose weights are swapped every second.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from devices import device_of, settle
from measure import Goal, Measure, Options, Result, quartiles, ratio
from pool import siftd_pool
from programs import program
from step_models import LARGE_TOKENS, WORDS, large_transformer
from torch import nn

import siftd

ABOUT = "samples/s through a worker against a bare loop of its scorer; swaps of weights"
ROWS, FEATURES, CLASSES = 128, 256, 10
# Forwards of about 1, 5 and 20 ms: the goal of each.
TARGETS = {1.0: 0.90, 5.0: 0.97, 20.0: 0.97}
QUICK = (1.0, 5.0)


def mlp(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


def forward_ms(model: nn.Module, x: torch.Tensor) -> float:
    times = []
    device = device_of(model)
    x = x.to(device)
    with torch.inference_mode():
        for _ in range(12):
            began = time.perf_counter()
            model(x)
            settle(device)
            times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times[2:])


def model_of(milliseconds: float, device: torch.device) -> tuple[nn.Module, torch.Tensor]:
    """The first of growing nets whose forward takes that long on this device, on the host, and its input.

    For an accelerator transformers: they compute the most for each byte of input.
    """
    torch.set_num_threads(1)
    if device.type == "cpu":
        x, make, size = torch.randn(ROWS, FEATURES), mlp, 64
    else:
        x, make, size = torch.randint(0, WORDS, (ROWS, LARGE_TOKENS)), large_transformer, 1
    while forward_ms(make(size).eval().to(device), x) < milliseconds:
        size = size * 5 // 4 // 16 * 16 if make is mlp else size + 1
    return make(size), x


def measure(milliseconds: float, options: Options) -> dict[str, Any]:
    cores = sorted(os.sched_getaffinity(0))
    client, worker = cores[0], cores[-1]
    device = options.devices.worker
    model, x = model_of(milliseconds, torch.device(device))
    example = [x, torch.zeros(ROWS, dtype=torch.int64)]
    scorer = siftd.export_scorer(model, example_batch=example)
    with tempfile.TemporaryDirectory(prefix="siftd-bench-") as folder:
        artifact = Path(folder, "scorer.pt")
        artifact.write_bytes(scorer.archive)
        flags = ("--threads", "1", "--score-batch-rows", str(ROWS))
        with siftd_pool(artifact, 1, *flags, device=device, cores={worker}) as pool:
            command = [
                str(program("siftd_worker_bench")), "--artifact", str(artifact), "--endpoint", pool.endpoints[0],
                "--rows", str(ROWS), "--client-core", str(client), "--worker-core", str(worker),
                "--worker-pid", str(pool.pids[0]), "--device", device,
                "--rounds", "2" if options.quick else "7", "--seconds", "1.3" if options.quick else "4",
            ]  # fmt: skip
            out = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, timeout=300)
    measured: dict[str, Any] = json.loads(out.stdout)
    return measured


def run(options: Options) -> Result:
    measures = []
    for target in QUICK if options.quick else TARGETS:
        m = measure(target, options)
        forward = statistics.median(m["forward_ms"])
        # What the forward really took decides on the goal, not what it was meant to take.
        goal = max((g for t, g in TARGETS.items() if forward >= 0.8 * t), default=None)
        least = Goal(at_least=goal) if goal is not None else None
        of = f"forward of {forward:.1f} ms"
        measures.append(ratio(f"worker / bare loop, {of}", m["worker"], m["bare"], goal=least, detail=m))
        # Less subject to neighbours than what the clock says.
        measures.append(ratio(f"the same by CPU time, {of}", m["forward_cpu_ms"], m["worker_cpu_ms"]))
        measures.append(ratio(f"swap every second / none, {of}", m["swapping"], m["worker"], goal=Goal(at_least=0.90)))
        quiet = statistics.median(m["delay_ms"])
        at_swaps = [d / quiet for d in m["swap_delay_ms"]]
        if at_swaps:
            low, high = quartiles(at_swaps)
            measures.append(
                Measure(
                    f"largest delay at a swap / median delay, {of}",
                    statistics.median(at_swaps),
                    goal=Goal(at_most=2.0),
                    low=low,
                    high=high,
                    detail={"median_delay_ms": quiet},
                )
            )
    return Result(measures)
