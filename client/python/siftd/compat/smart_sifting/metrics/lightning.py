# SPDX-License-Identifier: Apache-2.0
"""TrainingMetricsRecorder for PyTorch Lightning. Importing this module needs Lightning."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from siftd.compat.smart_sifting._log import log
from siftd.compat.smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from siftd.dropin import SiftingDataLoader
from siftd.lightning import Sifting

__all__ = ["TrainingMetricsRecorder"]


class TrainingMetricsRecorder(Sifting):
    """Logs what each training step took, at level INFO, and drives the SiftingDataloader as siftd.lightning.Sifting
    does: weights, checkpoints, metrics of the sifting.

    Seconds are the host's: a GPU's work is in them as far as the host waited for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._recorded_steps = 0
        self._began_at = self._forward_done_at = self._backward_done_at = self._optimizer_began_at = 0.0

    def _train_dataloader(self, request: Callable[[], Any]) -> Any:
        given = request()
        if not isinstance(given, SiftingDataloader | SiftingDataLoader):
            return given  # this run of the script trains without sifting
        return super()._train_dataloader(lambda: given)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._began_at = self._forward_done_at = self._backward_done_at = self._optimizer_began_at = time.perf_counter()

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        self._forward_done_at = time.perf_counter()

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self._backward_done_at = time.perf_counter()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self._optimizer_began_at = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        now = time.perf_counter()
        self._recorded_steps += 1
        log.info("train step count: %d", self._recorded_steps)
        log.info("train forward pass latency: %.6f", self._forward_done_at - self._began_at)
        log.info("train backprop latency: %.6f", self._backward_done_at - self._forward_done_at)
        if self._optimizer_began_at > self._began_at:  # not while gradients are accumulated
            log.info("train optimizer step latency: %.6f", now - self._optimizer_began_at)
        log.info("train total step latency: %.6f", now - self._began_at)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
