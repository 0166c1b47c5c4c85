# SPDX-License-Identifier: Apache-2.0
"""The training loop of the demo: the README's, plus what it takes to measure it."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from .model import SmallCNN, accuracy
from .record import Arm


@dataclass(frozen=True)
class Setting:
    """What all arms share."""

    epochs: int
    batch_size: int
    workers: int
    seed: int
    lr: float = 2e-3
    sync_every: int = 10


class Progress:
    """One line that is rewritten on a terminal, and printed once per epoch elsewhere."""

    def __init__(self, name: str) -> None:
        self.name, self.tty, self.last = name, sys.stderr.isatty(), 0.0

    def step(self, text: str) -> None:
        now = time.monotonic()
        if self.tty and now - self.last > 0.1:
            self.last = now
            print(f"\r\033[K{self.name:>12}  {text}", end="", file=sys.stderr, flush=True)

    def epoch(self, text: str) -> None:
        print(("\r\033[K" if self.tty else "") + f"{self.name:>12}  {text}", file=sys.stderr, flush=True)


def fresh_model(seed: int) -> SmallCNN:
    torch.manual_seed(seed)
    return SmallCNN()


def train(
    arm: Arm,
    setting: Setting,
    model: SmallCNN,
    batches: Callable[[int], Iterable[Any]],
    after_step: Callable[[], None],
    observe: Callable[[int], str],
    test: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Trains `model` for setting.epochs; the learning rate falls to zero with the epochs in every arm.

    Args:
      batches: the epoch's iterable. The wait for the very first batch (export, workers and loaders coming up) is
        no trainer time: arm.start_seconds.
      after_step: called after each optimizer step (publishes weights).
      observe: called with the epoch after each batch was trained; records it, returns a text for the progress line.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=setting.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=setting.epochs)
    progress = Progress(arm.name)
    step = 0
    began = time.perf_counter()
    for epoch in range(setting.epochs):
        iterator = iter(batches(epoch))
        if epoch == 0:
            first = next(iterator)
            arm.start_seconds = time.perf_counter() - began
            iterator = itertools.chain([first], iterator)
            began = time.perf_counter()
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            waited = time.perf_counter() - asked
            if batch is None:
                break
            x, y = batch
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after_step()
            step += 1
            arm.wait.append(waited)
            arm.wait_seconds += waited
            progress.step(f"epoch {epoch + 1}/{setting.epochs}  step {step}  {observe(epoch)}")
        schedule.step()
        arm.trainer_seconds += time.perf_counter() - began
        arm.accuracy = accuracy(model, *test)
        arm.accuracy_curve.append((arm.trainer_seconds, arm.accuracy))
        progress.epoch(
            f"epoch {epoch + 1}/{setting.epochs}  step {step}  accuracy {100 * arm.accuracy:.2f} %  "
            f"trainer {arm.trainer_seconds:.1f} s  wait {arm.wait_seconds:.2f} s"
        )
        began = time.perf_counter()
