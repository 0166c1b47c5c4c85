# SPDX-License-Identifier: Apache-2.0
"""The inline benchmark's model and batches, and a neighbour that runs forwards: as a program, it is that neighbour."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
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


class Neighbour:
    """Forwards of the model on other cores; stopped but between `go` and `stop`."""

    def __init__(self, cores: set[int]) -> None:
        self._process = subprocess.Popen([sys.executable, str(Path(__file__).resolve())], stdout=subprocess.PIPE)
        os.sched_setaffinity(self._process.pid, cores)  # before it makes threads
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self.stop()

    def go(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def main() -> None:
    torch.set_num_threads(1)
    model = make_model().eval()
    with torch.inference_mode():
        for i, (x, _) in enumerate(Batches()):
            model(x)
            if i == 0:
                print("ready", flush=True)


if __name__ == "__main__":
    main()
