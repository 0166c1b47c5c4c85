# SPDX-License-Identifier: Apache-2.0
"""ScoreCost: what makes a scoring forward cheaper, at some loss of agreement with the full one. Of a worker; here for
its Python children, for `workers="inline"`, and as flags of local workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from siftd._checks import in_range
from siftd.errors import ConfigError

DTYPES = ("float32", "bf16")


@dataclass(frozen=True)
class ScoreCost:
    """Raises ConfigError for values out of range.

    Attributes:
      dtype: "float32", as the model is; "bf16": operators that are cheaper in bfloat16 run in it.
      resolution: larger image inputs [n, c, h, w], floating-point or uint8, become [n, c, N, N]; 0 = as they come.
      optimize: the exported scorer is folded and fused for the worker's CPU at each version; nothing here.
    """

    dtype: str = "float32"
    resolution: int = 0
    optimize: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError("score_dtype", self.dtype, " or ".join(DTYPES))
        if self.resolution != 0:
            in_range("score_resolution", self.resolution, 8, 4096)

    @property
    def full(self) -> bool:
        return self == ScoreCost()

    def flags(self) -> tuple[str, ...]:
        """Of `siftd worker`."""
        if self.full:
            return ()
        optimize = ("--score-optimize",) if self.optimize else ()
        return "--score-dtype", self.dtype, "--score-resolution", str(self.resolution), *optimize

    def shrunk(self, fields: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [self._shrunk(f) if self._is_larger_image(f) else f for f in fields]

    @contextlib.contextmanager
    def casts(self, device: torch.device) -> Iterator[None]:
        if self.dtype == "float32":
            yield
            return
        # No cache: the weights change under it.
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            yield

    def _is_larger_image(self, x: torch.Tensor) -> bool:
        image = x.dim() == 4 and (x.is_floating_point() or x.dtype == torch.uint8)
        return 0 < self.resolution < max(x.shape[2:]) if image else False

    def _shrunk(self, x: torch.Tensor) -> torch.Tensor:
        values = x.float() if x.dtype == torch.uint8 else x
        values = F.interpolate(values, size=(self.resolution, self.resolution), mode="bilinear", align_corners=False)
        return values.round_().clamp_(0, 255).to(x.dtype) if x.dtype == torch.uint8 else values
