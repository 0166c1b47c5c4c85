# SPDX-License-Identifier: Apache-2.0
"""What SiftingDataLoader's arguments may be. Each check raises ConfigError: field, value, allowed range."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from siftd._checks import in_range, seconds
from siftd._delivery.score_cache import MOST_EVERY
from siftd._loop.distributed import rank_and_world
from siftd._net.keys import KeyFiles, key_files
from siftd._select.score_cost import ScoreCost
from siftd.errors import ConfigError


def check_ranges(given: Mapping[str, Any]) -> None:
    """`given`: the arguments by name."""
    in_range("sync_every", given["sync_every"], 1, 10**6)
    in_range("prefetch", given["prefetch"], 1, 1024)
    in_range("max_staleness_steps", given["max_staleness_steps"], 0, 10**9)
    for name, most in (("total_steps", 10**12), ("steps_per_epoch", 10**12), ("batch_size", 1 << 20)):
        if given[name] is not None:
            in_range(name, given[name], 1, most)
    seconds(**{name: given[name] for name in ("timeout", "starve_timeout", "start_timeout")})
    if not isinstance(given["model"], nn.Module):
        raise ConfigError("model", type(given["model"]).__name__, "a torch.nn.Module")
    if not 0 < given["scale_factor"] <= 1:
        raise ConfigError("scale_factor", given["scale_factor"], "(0, 1]")
    in_range("rescore_every", given["rescore_every"], 1, MOST_EVERY)


def check_workers(workers: Any, cost: ScoreCost) -> None:
    if isinstance(workers, str) and workers not in ("auto", "inline"):
        raise ConfigError("workers", workers, '"auto", "inline", a number, or a list of endpoints')
    if not isinstance(workers, str | int) and not workers:
        raise ConfigError("workers", workers, "at least one endpoint")
    if cost.optimize and (workers == "inline" or cost.dtype != "float32"):
        raise ConfigError("score_optimize", True, 'False with workers="inline", and with score_dtype="bf16"')
    if not isinstance(workers, str | int) and not cost.full:
        raise ConfigError(
            "score_dtype, score_resolution, score_optimize",
            f"{cost.dtype}, {cost.resolution}, {cost.optimize}",
            f'"float32", 0, False where the workers run already: start those with `{" ".join(cost.flags())}`',
        )


def check_keys(
    workers: Any, keys: str | os.PathLike[str] | None, worker_key: str | os.PathLike[str] | None
) -> KeyFiles | None:
    """The key files, for workers that run already."""
    if not isinstance(workers, str | int):
        return key_files(keys, worker_key)
    if keys is not None or worker_key is not None:
        raise ConfigError("keys", keys or worker_key, "None where workers start here: nobody else reaches those")
    return None


def check_deterministic(given: Mapping[str, Any]) -> None:
    """What can't be repeated exactly together with `deterministic`."""
    for name, plain in (("rescore_every", 1), ("max_staleness_steps", 0)):
        if given[name] != plain:
            raise ConfigError(name, given[name], f"{plain} where deterministic=True")


def check_one_rank() -> None:
    _, world = rank_and_world()
    if world > 1:
        raise ConfigError("deterministic", True, f"False where there are several ranks (here {world})")
