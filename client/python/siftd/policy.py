# SPDX-License-Identifier: Apache-2.0
"""Which rows are kept. Ranges and defaults are those of proto/siftd/v1/policy.proto."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from siftd.errors import ConfigError
from siftd.v1 import policy_pb2


@dataclass(frozen=True)
class Modifiers:
    """When a policy is in force; outside of it every row is kept.

    Attributes:
      sift_delay: trainer steps at the start of the run before sifting begins.
      repeat_delay_per_epoch: the delay starts again with each epoch.
      start, end: fractions of the run, in [0, 1]; they need `total_steps`.
      interrupt: every n-th candidate batch stays unsifted; 0 = never.
      column: score column to read ("loss", "confidence", "grad_norm"); "" = the policy's own.
      keep_non_finite: a row with a NaN or infinite score is kept instead of dropped.
    """

    sift_delay: int = 0
    repeat_delay_per_epoch: bool = False
    start: float | None = None
    end: float | None = None
    interrupt: int = 0
    column: str = ""
    keep_non_finite: bool = False

    def __post_init__(self) -> None:
        if self.sift_delay < 0:
            raise ConfigError("sift_delay", self.sift_delay, ">= 0 steps")
        for name in ("start", "end"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(name, value, "[0, 1], a fraction of the run")
        if (self.start or 0.0) >= (1.0 if self.end is None else self.end):
            raise ConfigError("start", self.start, f"below end = {self.end}")
        if self.interrupt < 0 or self.interrupt == 1:
            raise ConfigError("interrupt", self.interrupt, "0 (never) or >= 2")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Base of the policies."""

    modifiers: Modifiers = field(default_factory=Modifiers)

    @property
    def requested_keep(self) -> float | None:
        """The kept fraction asked for; None where the policy adapts it."""
        return None

    def _fill(self, proto: Any) -> None:
        raise TypeError("use Uniform, Confidence, LossCdf, ComposerRank or TopK")

    def to_proto(self) -> Any:
        proto = policy_pb2.Policy(column=self.modifiers.column)
        self._fill(proto)
        m = self.modifiers
        proto.modifiers.sift_delay = m.sift_delay
        proto.modifiers.repeat_delay_per_epoch = m.repeat_delay_per_epoch
        if m.start is not None:
            proto.modifiers.start = m.start
        if m.end is not None:
            proto.modifiers.end = m.end
        proto.modifiers.interrupt = m.interrupt
        proto.non_finite = policy_pb2.NON_FINITE_KEEP if m.keep_non_finite else policy_pb2.NON_FINITE_DROP
        return proto


def _fraction(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ConfigError(name, value, "(0, 1]")


def _unit(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(name, value, "[0, 1]")


@dataclass(frozen=True)
class _Share(Policy):
    """Base of the policies that keep a share asked for."""

    keep: float
    _kind: ClassVar[str]

    def __post_init__(self) -> None:
        _fraction("keep", self.keep)

    @property
    def requested_keep(self) -> float | None:
        return self.keep

    def _fill(self, proto: Any) -> None:
        getattr(proto, self._kind).keep = self.keep

    def __str__(self) -> str:
        return f"{self._kind}(keep={self.keep:g})"


@dataclass(frozen=True)
class Uniform(_Share):
    """Keeps each row with the same probability: the control that any other policy has to beat."""

    keep: float
    _kind = "uniform"


@dataclass(frozen=True)
class Confidence(Policy):
    """Keeps a row with p = clamp((1 - p_max) / tau, floor, 1); needs a scorer that sees logits."""

    tau: float = 0.5
    floor: float = 0.05

    def __post_init__(self) -> None:
        _fraction("tau", self.tau)
        _unit("floor", self.floor)

    def _fill(self, proto: Any) -> None:
        proto.confidence.tau = self.tau
        proto.confidence.floor = self.floor

    def __str__(self) -> str:
        return f"confidence(tau={self.tau:g}, floor={self.floor:g})"


@dataclass(frozen=True)
class LossCdf(Policy):
    """Keeps a row with p = percentile(loss)^beta; kept fraction 1 / (1 + beta).

    Selective-Backprop (arXiv 1910.00762) and Amazon SageMaker smart sifting.
    """

    beta: float | None = None  # default 1
    keep: float | None = None  # the same as beta = 1 / keep - 1
    loss_history_length: int = 1024
    floor: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.beta is not None and self.keep is not None:
            raise ConfigError("beta and keep", (self.beta, self.keep), "one of the two")
        if self.beta is not None and not (0 < self.beta < math.inf):
            raise ConfigError("beta", self.beta, "> 0")
        if self.keep is not None:
            _fraction("keep", self.keep)
        if not 2 <= self.loss_history_length <= 10_000_000:
            raise ConfigError("loss_history_length", self.loss_history_length, "[2, 10000000]")
        _unit("floor", self.floor)
        _fraction("clip", self.clip)

    @property
    def strength(self) -> float:
        """beta, whichever of the two was given."""
        if self.keep is not None:
            return 1 / self.keep - 1
        return 1.0 if self.beta is None else self.beta

    @property
    def requested_keep(self) -> float | None:
        return 1 / (1 + self.strength)

    def _fill(self, proto: Any) -> None:
        proto.loss_cdf.beta = self.strength
        proto.loss_cdf.loss_history_length = self.loss_history_length
        proto.loss_cdf.floor = self.floor
        proto.loss_cdf.clip = self.clip

    def __str__(self) -> str:
        delay = f", sift_delay={self.modifiers.sift_delay}" if self.modifiers.sift_delay else ""
        return f"loss_cdf(beta={self.strength:g}{delay})"


@dataclass(frozen=True)
class ComposerRank(_Share):
    """Keeps exactly int(keep * n) rows of a batch by Composer's SelectiveBackprop rule."""

    keep: float = 0.5
    _kind = "composer_rank"


@dataclass(frozen=True)
class TopK(_Share):
    """Keeps the ceil(keep * n) rows of a batch with the highest score. Known to hurt on ordinary data."""

    keep: float = 0.5
    _kind = "top_k"


# Steps: losses of an untrained model tell nothing, and keeping the highest of them held a small CNN at chance.
# (SageMaker's own default is 1,000.)
WARM_UP = 100
UNSIFTED_END = 0.8  # of a run of known length: the last part trains on everything (BatchNorm statistics)


def resolve(
    policy: Policy | str = "auto",
    *,
    beta: float | None = None,
    keep: float | None = None,
    sees_logits: bool = False,
    total_steps: int | None = None,
) -> Policy:
    """The policy meant by the arguments of a loader.

    "auto" is Confidence where the scorer sees logits, else LossCdf(beta=1); an explicit `beta` or `keep` means
    LossCdf, as in SageMaker, after WARM_UP steps. Where total_steps is known and no `end` was given, the last 20 % stay
    unsifted.
    """
    if isinstance(policy, str) and policy != "auto":
        raise ConfigError("policy", policy, '"auto" or a policy such as siftd.Confidence()')
    if not isinstance(policy, str) and (beta is not None or keep is not None):
        raise ConfigError("beta, keep", (beta, keep), "not given together with policy")
    warm_up = Modifiers(sift_delay=WARM_UP)
    if isinstance(policy, Policy):
        chosen = policy
    elif beta is not None or keep is not None:
        chosen = LossCdf(beta=beta, keep=keep, modifiers=warm_up)
    else:
        chosen = Confidence() if sees_logits else LossCdf(beta=1.0, modifiers=warm_up)
    if isinstance(chosen, LossCdf) and chosen.strength > 1:
        warnings.warn(
            f"beta is {chosen.strength:g}. Measured on CIFAR-10 (a small CNN), beta 2 lost accuracy on three of four "
            "tasks against training on random rows, beta 1 on one; compare with siftd.Uniform(keep)",
            stacklevel=3,
        )
    if (chosen.modifiers.start is not None or chosen.modifiers.end is not None) and not total_steps:
        raise ConfigError("start, end", (chosen.modifiers.start, chosen.modifiers.end), "only with total_steps")
    if total_steps and chosen.modifiers.end is None:
        chosen = replace(chosen, modifiers=replace(chosen.modifiers, end=UNSIFTED_END))
    return chosen
