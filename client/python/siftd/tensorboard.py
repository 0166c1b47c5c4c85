# SPDX-License-Identifier: Apache-2.0
"""A sifting loader's figures in TensorBoard, for plain loops. The framework adapters log by themselves."""

from __future__ import annotations

from typing import Any

import numpy as np

from siftd._loop.sifted import Sifted


def log(loader: Sifted, writer: Any, step: int | None = None) -> None:
    """Writes loader.metrics() as scalars, and histograms of what the batch in hand was kept by.

    Args:
      writer: a torch.utils.tensorboard.SummaryWriter, or anything with its add_scalar and add_histogram.
      step: of the x axis; default: the loader's own count of steps.
    """
    at = loader.stats().steps if step is None else step
    for name, value in loader.metrics().items():
        writer.add_scalar(name, value, at)
    info = loader.last_batch_info
    if info is None:
        return
    for name, values in (("score", info.scores), ("staleness_steps", info.staleness[info.staleness >= 0])):
        finite = values[np.isfinite(values)]
        if len(finite):
            writer.add_histogram(f"sifting/{name}", finite, at)
