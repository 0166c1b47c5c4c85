# SPDX-License-Identifier: Apache-2.0
"""The tasks on one set of images, and their endless candidate batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from cifar.data import Images

FIRST_KIND = (0, 1, 8, 9)  # vehicles, in CIFAR-10
NOISE = 0.2
BATCH = 128
MEAN, SPREAD = 120.0, 63.0  # of a pixel


@dataclass(frozen=True)
class Task:
    """`x`: uint8 [n, 3, 32, 32]; labels int64 [n]. Test labels are never noisy."""

    name: str
    classes: int
    x: torch.Tensor
    y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor


def make(name: str, images: Images, seed: int) -> Task:
    """`name`: "10-class", "2-class" (vehicle or animal) or "noise" (10 classes, 20 % of the labels wrong)."""
    y, test_y, classes = images.train_labels, images.test_labels, 10
    if name == "2-class":
        kind = torch.tensor([int(c in FIRST_KIND) for c in range(10)])
        y, test_y, classes = kind[y], kind[test_y], 2
    elif name == "noise":
        g = torch.Generator().manual_seed(1000 + seed)
        wrong = torch.rand(len(y), generator=g) < NOISE
        y = torch.where(wrong, (y + torch.randint(1, 10, (len(y),), generator=g)) % 10, y)
    return Task(name, classes, images.train, y, images.test, test_y)


def pixels(x: torch.Tensor) -> torch.Tensor:
    return x.float().sub_(MEAN).div_(SPREAD)


class Candidates:
    """Batches (float32 [BATCH, 3, 32, 32], int64 [BATCH]), mirrored at random; epochs follow each other without end."""

    def __init__(self, task: Task, seed: int) -> None:
        self.batch_size = BATCH
        self._task, self._seed = task, seed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        g = torch.Generator().manual_seed(self._seed)
        n = len(self._task.y)
        while True:
            order = torch.randperm(n, generator=g)
            for i in range(0, n - BATCH + 1, BATCH):
                rows = order[i : i + BATCH]
                x = self._task.x[rows]
                mirrored = torch.rand(BATCH, generator=g) < 0.5
                x[mirrored] = x[mirrored].flip(3)
                yield pixels(x), self._task.y[rows]
