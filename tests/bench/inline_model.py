# SPDX-License-Identifier: Apache-2.0
"""The inline benchmark's model and batches; as a program, the neighbour that runs its forwards."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from processes import run_forwards
from torch import nn

ROWS, CLASSES, POOL = 32, 10, 32  # POOL: batches in memory, handed out again and again


def make_model() -> nn.Module:
    """float32 [n, 3, 32, 32] -> [n, CLASSES]; a forward is nearly half of a step."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4, CLASSES))


class Batches:
    """Endless: no turn of a pass is measured, and no loading."""

    batch_size = ROWS

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        self.pool = [
            (torch.randn(ROWS, 3, 32, 32, generator=g), torch.randint(0, CLASSES, (ROWS,), generator=g))
            for _ in range(POOL)
        ]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from self.pool


if __name__ == "__main__":
    run_forwards(make_model(), Batches())
