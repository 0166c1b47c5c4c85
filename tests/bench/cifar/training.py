# SPDX-License-Identifier: Apache-2.0
"""The trainer: a CNN that two CPU cores can train in seconds, and the loop that every arm runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cifar.tasks import Task, pixels

RATE, MOMENTUM, DECAY, WARM_UP = 0.2, 0.9, 5e-4, 0.1  # WARM_UP: fraction of the steps
PART = 2000  # held-out images of an evaluation on the way


def make_model(classes: int, seed: int) -> nn.Module:
    """float32 [n, 3, 32, 32] -> logits [n, classes]; four convolutions with BatchNorm."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 2), (16, 32, 2), (32, 64, 2), (64, 64, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    net: Any = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
    model: nn.Module = net.to(memory_format=torch.channels_last)
    return model


def rate(step: int, steps: int) -> float:
    """Of step [0, steps): linear warm-up, then a cosine to 0. In trained steps: the same for each arm."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return RATE * (step + 1) / warm
    return RATE * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@torch.no_grad()
def accuracy(model: nn.Module, task: Task, rows: int) -> float:
    """Percent of the first `rows` held-out images; leaves the model in training mode."""
    model.eval()
    x, y = task.test_x[:rows], task.test_y[:rows]
    right = sum(int((model(pixels(x[i : i + 500])).argmax(1) == y[i : i + 500]).sum()) for i in range(0, len(y), 500))
    model.train()
    return 100 * right / len(y)


@dataclass
class Point:
    """Seconds begin with the first batch, the time to it left out, and evaluation too."""

    step: int
    trainer: float  # seconds in the loop
    device: float  # those, and the workers' scoring
    accuracy: float  # percent
    wait: float  # of the trainer's: asking for batches
    start: float  # before all of these: to the first batch


def train(
    model: nn.Module,
    source: Iterable[tuple[torch.Tensor, torch.Tensor]],
    steps: int,
    after: Callable[[], None],
    scored: Callable[[], float],
    task: Task,
    points: Sequence[int],
) -> list[Point]:
    """Trains `steps` batches.

    `after`: called after each optimizer step. `scored`: the workers' seconds so far. `points`: steps after which a part
    of the held-out images is evaluated, the clock stopped; all of them are at the end.
    """
    clock = time.perf_counter
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY)
    curve: list[Point] = []
    trained = waited = 0.0
    asked = clock()
    batches = iter(source)
    x, y = next(batches)
    began = clock()
    start = began - asked
    for done in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = rate(done - 1, steps)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after()
        if done in points or done == steps:
            trained += clock() - began
            rows = len(task.test_y) if done == steps else PART
            curve.append(Point(done, trained, trained + scored(), accuracy(model, task, rows), waited, start))
            began = clock()
        if done < steps:
            asked = clock()
            x, y = next(batches)
            waited += clock() - asked
    return curve
