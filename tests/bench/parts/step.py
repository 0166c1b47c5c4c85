# SPDX-License-Identifier: Apache-2.0
"""Step time of a training loop fed by siftd against the same loop over batches in memory, interleaved A B C A B C.

C is the control: the plain loop while a neighbour core runs forwards of the same model, as a worker on this host does.
The ratio siftd / control is what siftd itself adds to a step; waiting for batches is told apart.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from measure import Goal, Measure, Options, Result
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import siftd

ABOUT = "step time with siftd against the same loop without"
ROUNDS, STEPS, WARM = 5, 60, 10
BATCH, WIDTH, CLASSES = 64, 256, 10

NEIGHBOUR = """
import torch
from torch import nn
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear({width}, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, {classes}))
x = torch.randn({batch}, {width})
print("ready", flush=True)
with torch.inference_mode():
    while True:
        model(x)
"""


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, CLASSES))


@contextmanager
def neighbour() -> Iterator[None]:
    code = NEIGHBOUR.format(width=WIDTH, batch=BATCH, classes=CLASSES)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def steps(batches: Iterable[Any], model: nn.Module, after: Any = None) -> list[float]:
    """Seconds of each step, waiting for its batch left out."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    times: list[float] = []
    for x, y in batches:
        began = time.perf_counter()
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if after is not None:
            after()
        times.append(time.perf_counter() - began)
        if len(times) == STEPS + WARM:
            break
    return times[WARM:]


def run(options: Options) -> Result:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    rows = BATCH * (STEPS + WARM)
    data = TensorDataset(
        torch.randn(rows, WIDTH, generator=generator), torch.randint(0, CLASSES, (rows,), generator=generator)
    )
    memory = list(DataLoader(data, BATCH)) * 20  # for both: loading is not what is measured, nor the turn of an epoch
    model = make_model()
    sifted = siftd.SiftingDataLoader(
        memory, batch_size=BATCH, model=model, policy=siftd.Uniform(0.5), workers=1,
        steps_per_epoch=STEPS + WARM,
    )  # fmt: skip
    plain, with_siftd, control = [], [], []
    wait = 0.0
    with sifted:
        steps(sifted, model, lambda: sifted.step(model))  # exports, starts the worker
        for _ in range(ROUNDS):
            plain += steps(memory, model)
            before = sifted.stats().wait_seconds
            with_siftd += steps(sifted, model, lambda: sifted.step(model))
            wait += sifted.stats().wait_seconds - before
            with neighbour():
                control += steps(memory, model)
        print(sifted.summary())
    a, b, c = (statistics.median(t) for t in (plain, with_siftd, control))
    return Result(
        [
            Measure("siftd / plain", b / a),
            Measure("siftd / control", b / c, goal=Goal(at_most=1.02)),
            Measure("wait per step", 1e3 * wait / len(with_siftd), "ms"),
        ]
    )
