# SPDX-License-Identifier: Apache-2.0
"""Where the benchmarks' trainer and workers compute, and clocks that are right on either kind of device."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch


@dataclass(frozen=True)
class Devices:
    """By torch's names, which are those of `siftd worker --device`: cpu, cuda:N."""

    trainer: str = "cpu"
    worker: str = "cpu"

    @property
    def shared(self) -> bool:
        """One accelerator for both. The models are then of its size; a core scores small ones only."""
        return self.trainer == self.worker != "cpu"

    def __str__(self) -> str:
        return f"trainer {self.trainer}, worker {self.worker}"


class Marks(Protocol):
    """Points of a loop, on the time line of the device that does its work."""

    def mark(self) -> None: ...
    def seconds(self) -> list[float]: ...  # from each mark to the next; waits for the device


class HostMarks:
    def __init__(self) -> None:
        self._at: list[float] = []

    def mark(self) -> None:
        self._at.append(time.perf_counter())

    def seconds(self) -> list[float]:
        return [b - a for a, b in pairwise(self._at)]


class CudaMarks:
    """Events in the loop's stream. The loop never waits for them, so the host runs ahead of the device as it would
    without them: what the host does costs time here only where the device has nothing left to do."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device)
        self._events: list[torch.cuda.Event] = []

    def mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        self._events.append(event)

    def seconds(self) -> list[float]:
        if self._events:
            self._events[-1].synchronize()
        return [1e-3 * a.elapsed_time(b) for a, b in pairwise(self._events)]


def marks_on(device: torch.device) -> Marks:
    return CudaMarks(device) if device.type == "cuda" else HostMarks()


def settle(device: torch.device) -> None:
    """Until what is queued there is done; before and after what the host's clock times."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_of(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device
