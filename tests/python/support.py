# SPDX-License-Identifier: Apache-2.0
"""Real workers for the tests, a toy model, and waiting on a state with a deadline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

ROOT = Path(__file__).resolve().parents[2]


def binary() -> str:
    named = os.environ.get("SIFTD_BIN", str(ROOT / "build" / "worker" / "siftd"))
    assert os.access(named, os.X_OK), f"{named} is not there: run ./dev build"
    return named


def wait_until(what: str, condition: Callable[[], Any], timeout: float = 30.0) -> Any:
    """The condition's first true value; fails by name at the deadline."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.01)  # between two looks at a state


class Worker:
    """A worker process on a free port."""

    def __init__(self, tmp: Path, *flags: str, name: str = "w", stdout: Any = subprocess.PIPE) -> None:
        self.port_file = tmp / f"{name}.port"
        self.port_file.unlink(missing_ok=True)
        self.log = tmp / f"{name}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [
                    binary(),
                    "worker",
                    "--port-file",
                    str(self.port_file),
                    "--allow-artifact-upload",
                    "--threads",
                    "1",
                    "--name",
                    name,
                    *flags,
                ],
                stdout=stdout,
                stderr=log,
                text=True,
            )
        wait_until(f"port file of {name}", lambda: self.port_file.exists() or self.process.poll() is not None)
        assert self.port_file.exists(), self.log.read_text()
        self.endpoint = self.port_file.read_text().strip()

    def ready_line(self) -> str:
        assert self.process.stdout is not None
        return str(self.process.stdout.readline())

    def status(self) -> dict[str, Any]:
        out = subprocess.run(
            [binary(), "status", "--json", self.endpoint], capture_output=True, text=True, timeout=30, check=True
        )
        status: dict[str, Any] = json.loads(out.stdout)[0]["status"]
        return status

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def end(self, timeout: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


class Rows(Dataset[tuple[torch.Tensor, int]]):
    """n rows whose features name them: x[i] = [i, noise...], y[i] = i % classes."""

    def __init__(self, n: int, width: int = 8, classes: int = 5) -> None:
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(n, width, generator=generator)
        self.x[:, 0] = torch.arange(n) / n
        self.y = torch.arange(n) % classes

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.x[i], int(self.y[i])


def toy_model(width: int = 8, classes: int = 5, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, classes))


def eager_losses(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    was = model.training
    model.eval()
    with torch.no_grad():
        losses = nn.functional.cross_entropy(model(x), y, reduction="none")
    model.train(was)
    return losses
