# SPDX-License-Identifier: Apache-2.0
"""How many batches an epoch has where that must be known beforehand."""

from __future__ import annotations

import math
from typing import Any

from siftd._loop.distributed import distributed_loader
from siftd.compat.smart_sifting.sift_config.sift_configs import RelativeProbabilisticSiftConfig
from siftd.errors import ConfigError


def batches_per_epoch(source: Any, config: RelativeProbabilisticSiftConfig, world: int) -> int:
    """As many as one pass over a rank's share of `source` keeps in the long run, the same on all ranks.

    A delay that is repeated counts; the one at the start of the run does not. Raises ConfigError where `source` has no
    length.
    """
    try:
        batches = (
            len(distributed_loader(source, 0, world)) if world > 1 else len(source)
        )  # rank 0 has the largest share
    except TypeError as error:
        raise ConfigError(
            "orig_dataloader", type(source).__name__,
            "one with a length where there are several ranks, so that all make equal steps, or steps_per_epoch=N given "
            "to SiftingDataloader",
        ) from error  # fmt: skip
    delayed = min(config.base.sift_delay, batches) if config.base.repeat_delay_per_epoch else 0
    return kept_batches(batches, delayed, config.keep)


def kept_batches(batches: int, delayed: int, keep: float) -> int:
    """Of `batches`, `delayed` are kept whole; at least 1."""
    return max(1, math.ceil(delayed + (batches - delayed) * keep - 1e-9))
