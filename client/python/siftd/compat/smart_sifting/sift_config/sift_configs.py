# SPDX-License-Identifier: Apache-2.0
"""SageMaker's configuration classes. Each takes the one below it as an object or as a dict of its arguments.

Raises SiftConfigValidationException (a siftd.ConfigError) for a value out of its range, or a key that is not known.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from siftd.compat.smart_sifting.exceptions import SiftConfigValidationException
from siftd.policy import LossCdf, Modifiers

__all__ = [
    "LossConfig",
    "RelativeProbabilisticSiftConfig",
    "SiftConfigValidationException",
    "SiftingBaseConfig",
]

_HISTORY_MOST = 10_000_000
T = TypeVar("T")


@dataclass
class SiftingBaseConfig:
    """When sifting is in force.

    Args:
      sift_delay: training steps before it begins, >= 0.
      repeat_delay_per_epoch: the delay starts again with each epoch.
    """

    sift_delay: int = 1000
    repeat_delay_per_epoch: bool = False

    def __post_init__(self) -> None:
        self.sift_delay = _whole("sift_delay", self.sift_delay, 0, 10**12)
        if not isinstance(self.repeat_delay_per_epoch, bool):
            raise SiftConfigValidationException("repeat_delay_per_epoch", self.repeat_delay_per_epoch, "True or False")


@dataclass
class LossConfig:
    """Args:
    sift_config: a SiftingBaseConfig, or a dict of its arguments.
    """

    sift_config: SiftingBaseConfig = field(default_factory=SiftingBaseConfig)

    def __post_init__(self) -> None:
        self.sift_config = made(SiftingBaseConfig, "sift_config", self.sift_config)


@dataclass
class RelativeProbabilisticSiftConfig:
    """Keeps a sample with probability percentile(loss) ** beta_value: the share 1 / (1 + beta_value) in the long run.

    Args:
      beta_value: > 0. 0.5 keeps two thirds, 1 half, 3 a quarter, as in the table of SageMaker's reference (its guide
        calls it "the proportion of data that should be used"). While losses fall, fewer are kept: the history is older.
      loss_history_length: newest losses that the percentile is taken in, >= 1; a single one is taken as 2.
      loss_based_sift_config: a LossConfig, or a dict of its arguments.
    """

    beta_value: float
    loss_history_length: int
    loss_based_sift_config: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        beta = self.beta_value
        if isinstance(beta, bool) or not isinstance(beta, numbers.Real) or not 0 < float(beta) < math.inf:
            raise SiftConfigValidationException("beta_value", beta, "a finite number > 0")
        self.beta_value = float(beta)
        self.loss_history_length = _whole("loss_history_length", self.loss_history_length, 1, _HISTORY_MOST)
        self.loss_based_sift_config = made(LossConfig, "loss_based_sift_config", self.loss_based_sift_config)

    @property
    def base(self) -> SiftingBaseConfig:
        return self.loss_based_sift_config.sift_config

    @property
    def keep(self) -> float:
        """The share of samples that is kept in the long run."""
        return 1 / (1 + self.beta_value)

    def policy(self) -> LossCdf:
        """The same rule as siftd's policy."""
        return LossCdf(
            beta=self.beta_value,
            loss_history_length=max(2, self.loss_history_length),
            modifiers=Modifiers(
                sift_delay=self.base.sift_delay, repeat_delay_per_epoch=self.base.repeat_delay_per_epoch
            ),
        )


def made(kind: type[T], name: str, given: Any) -> T:
    """`given`, or the `kind` that a dict describes."""
    if isinstance(given, kind):
        return given
    if not isinstance(given, Mapping):
        raise SiftConfigValidationException(name, given, f"a {kind.__name__}, or a dict of its arguments")
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(str(k) for k in given if k not in known)
    if unknown:
        raise SiftConfigValidationException(f"{name} key", ", ".join(unknown), ", ".join(known))
    try:
        return kind(**given)
    except TypeError as error:  # an argument without default is missing
        missing = [k for k in ("beta_value", "loss_history_length") if k in known and k not in given]
        raise SiftConfigValidationException(name, dict(given), f"one with {', '.join(missing)}") from error


def _whole(name: str, value: Any, least: int, most: int) -> int:
    whole = isinstance(value, numbers.Integral) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not least <= value <= most:
        raise SiftConfigValidationException(name, value, f"a whole number, [{least}, {most}]")
    return int(value)
