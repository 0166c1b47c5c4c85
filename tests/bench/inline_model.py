# SPDX-License-Identifier: Apache-2.0
"""The inline benchmark's models and batches; as a program, the neighbour: `inline_model.py small|large DEVICE`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from processes import run_forwards
from torch import nn

CLASSES, POOL = 10, 32  # POOL: batches in memory, handed out again and again


@dataclass(frozen=True)
class Size:
    rows: int  # of a batch
    width: int  # channels of the first layer


SIZES = {"small": Size(32, 8), "large": Size(256, 64)}  # large: for a GPU


def make_model(size: str) -> nn.Module:
    """float32 [n, 3, 32, 32] -> [n, CLASSES]; a forward is nearly half of a step on a core."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    inputs, width = 3, SIZES[size].width
    for outputs in (width, 2 * width, 4 * width, 8 * width):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        inputs = outputs
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * 4, CLASSES))


class Batches:
    """Endless: no turn of a pass is measured, and no loading."""

    def __init__(self, size: str) -> None:
        g = torch.Generator().manual_seed(0)
        rows = self.batch_size = SIZES[size].rows
        self.pool = [
            (torch.randn(rows, 3, 32, 32, generator=g), torch.randint(0, CLASSES, (rows,), generator=g))
            for _ in range(POOL)
        ]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from self.pool


if __name__ == "__main__":
    run_forwards(make_model(sys.argv[1]), Batches(sys.argv[1]), sys.argv[2])
