# SPDX-License-Identifier: Apache-2.0
"""Factories for workers with `backend: python`: models whose Python depends on values, and ways to fail."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from torch import nn

POISON = 999.0  # in x[:, 1]
# Set for a worker: what poison does to its children. CRASH, or the path of a file that tells of a forward that hangs.
POISON_DOES = "SIFTD_TEST_POISON_DOES"
CRASH = "crash"


def swallow_poison() -> None:
    effect = os.environ.get(POISON_DOES)
    if effect == CRASH:
        os.kill(os.getpid(), signal.SIGSEGV)
    elif effect is not None:
        Path(effect).write_text(str(os.getpid()))
        threading.Event().wait()


class Routed(nn.Module):
    """Each row goes through the expert that its own value picks, in plain Python: a trace would hold the example's."""

    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(width, classes) for _ in range(3))
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("frequencies", torch.ones(2, dtype=torch.complex64))  # of a type that can't travel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x[:, 1] == POISON).any()):
            swallow_poison()
        picks = [int(row[0] * 100) % len(self.experts) for row in x]
        z = self.drop(self.norm(x))
        return torch.stack([self.experts[pick](row) for pick, row in zip(picks, z, strict=True)])


def routed_model(seed: int = 0) -> Routed:
    torch.manual_seed(seed)
    return Routed()


def example() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(4, 8), torch.tensor([0, 1, 2, 3])


def routed() -> Any:
    return routed_model(seed=1), "cross_entropy", example()


def routed_as_dict() -> Any:
    return {"model": routed_model(seed=2), "loss": "cross_entropy", "example_batch": example()}


SHARED = nn.Linear(8, 5)


def shared() -> Any:
    return SHARED, "cross_entropy", example()


def another() -> Any:
    return nn.Linear(8, 5), "cross_entropy", example()


def raises() -> Any:
    raise FileNotFoundError("weights.bin is not there\nand a second line")


def returns_a_model() -> Any:
    return routed_model()


def reduced_loss() -> Any:
    return routed_model(), lambda out, y: nn.functional.cross_entropy(out, y), example()


NOT_A_FUNCTION = 3
