# SPDX-License-Identifier: Apache-2.0
"""Selector: which rows of a scored batch are kept, decided in this process. The NumPy twin of pipeline/select: the same
scores give the same Decision to the last bit (but where two of composer_rank's keys lie within rounding of each other).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftd import policy as policies
from siftd._select.coin import coins
from siftd._select.loss_history import LossHistory
from siftd._wire.codec import wire_pb2
from siftd.errors import ConfigError
from siftd.v1 import policy_pb2

_Array = np.ndarray[Any, Any]

_EPOCHS_REMEMBERED = 8  # late batches of an older epoch are rare
_TEXT_MOST = 4096  # bytes


@dataclass(frozen=True)
class _Choice:
    """Of the finite rows [m]. None: the rule has no such number."""

    keep: _Array  # bool
    probability: _Array | None = None  # float32
    percentile: _Array | None = None  # float32


class _Rule:
    """Base of the policies' rules."""

    bernoulli = True  # rows are kept independently, each with its own probability

    def select(self, score: _Array, coin: _Array) -> _Choice:
        """`score`: float32 [m], finite. `coin`: float64 [m]."""
        raise NotImplementedError

    def observe(self, score: _Array) -> None:
        """A batch passed by outside of the policy's window: only the history learns from it."""


class _Uniform(_Rule):
    def __init__(self, options: policies.Uniform) -> None:
        self._keep = options.keep

    def select(self, score: _Array, coin: _Array) -> _Choice:
        p = np.full(len(score), self._keep, np.float32)
        return _Choice(coin < p, p)


class _Confidence(_Rule):
    def __init__(self, options: policies.Confidence) -> None:
        self._tau, self._floor = options.tau, options.floor

    def select(self, score: _Array, coin: _Array) -> _Choice:
        p = np.clip((1.0 - score.astype(np.float64)) / self._tau, self._floor, 1.0).astype(np.float32)
        return _Choice(coin < p, p)


class _LossCdf(_Rule):
    def __init__(self, options: policies.LossCdf) -> None:
        self._beta, self._floor, self._clip = options.strength, options.floor, options.clip
        self._history = LossHistory(options.loss_history_length)

    def observe(self, score: _Array) -> None:
        self._history.add(score)

    def select(self, score: _Array, coin: _Array) -> _Choice:
        self.observe(score)
        percentile = self._history.percentile(score)
        p = np.clip(_power(percentile, self._beta), self._floor, 1.0).astype(np.float32)
        p[percentile > self._clip] = 0
        return _Choice(coin < p, p, percentile.astype(np.float32))


class _ComposerRank(_Rule):
    bernoulli = False

    def __init__(self, options: policies.ComposerRank) -> None:
        self._keep = options.keep

    def select(self, score: _Array, coin: _Array) -> _Choice:
        n = len(score)
        percentile = np.empty(n)
        percentile[np.argsort(score, kind="stable")] = (np.arange(n) + 0.5) / n
        # -ln(1 - u) / weight, the key of Efraimidis and Spirakis, in logarithms: a weight may underflow.
        with np.errstate(divide="ignore"):
            key = np.log(-np.log1p(-coin)) - (1.0 / self._keep - 1.0) * np.log(percentile)
        keep = np.zeros(n, bool)
        keep[np.argsort(key, kind="stable")[: int(self._keep * n)]] = True
        return _Choice(keep, None, percentile.astype(np.float32))


class _TopK(_Rule):
    bernoulli = False

    def __init__(self, options: policies.TopK) -> None:
        self._keep = options.keep

    def select(self, score: _Array, coin: _Array) -> _Choice:
        keep = np.zeros(len(score), bool)
        keep[np.lexsort((coin, -score))[: math.ceil(self._keep * len(score))]] = True
        return _Choice(keep, keep.astype(np.float32))


_RULES: dict[type[policies.Policy], Any] = {
    policies.Uniform: _Uniform,
    policies.Confidence: _Confidence,
    policies.LossCdf: _LossCdf,
    policies.ComposerRank: _ComposerRank,
    policies.TopK: _TopK,
}


def _power(base: _Array, exponent: float) -> _Array:
    """base ** exponent, float64 [n], that rounds to the float32 which libm's pow rounds to.

    NumPy's own may differ from libm's in the last places. Where that could change the float32, libm's is taken.
    """
    if exponent == 1.0:
        return base
    power: _Array = np.power(base, exponent)
    slack = power * 2.0**-49
    unsure = np.flatnonzero((power - slack).astype(np.float32) != (power + slack).astype(np.float32))
    for row in unsure:  # about one row in 10^7
        power[row] = math.pow(base[row], exponent)
    return power


class _Window:
    """Whether the policy is in force (pipeline/select/sifting_window.h)."""

    def __init__(self, options: policies.Modifiers, total_steps: int) -> None:
        self._options, self._total_steps = options, total_steps
        self._start = 0.0 if options.start is None else options.start
        self._end = 1.0 if options.end is None else options.end
        self._epoch_began: dict[int, int] = {}

    def in_force(self, seq: int, epoch: int, trainer_step: int) -> bool:
        o = self._options
        began = 0
        if o.repeat_delay_per_epoch:
            began = self._epoch_began.setdefault(epoch, trainer_step)
            if len(self._epoch_began) > _EPOCHS_REMEMBERED:
                del self._epoch_began[min(self._epoch_began)]
        if trainer_step < began + o.sift_delay:
            return False
        if self._total_steps > 0 and not self._start <= trainer_step / self._total_steps < self._end:
            return False
        return o.interrupt == 0 or (seq + 1) % o.interrupt != 0


class Selector:
    """One caller at a time."""

    def __init__(self, policy: Any, seed: int, total_steps: int = 0, history: Sequence[float] | _Array = ()) -> None:
        """`policy`: a siftd.Policy or its message; one without a kind is chosen at the first batch, as a worker does.
        `history`: scores that the policy's percentiles begin with, oldest first. Raises ConfigError."""
        if isinstance(policy, policies.Policy) and type(policy) not in _RULES:
            raise ConfigError("policy", policy, "Uniform, Confidence, LossCdf, ComposerRank or TopK")
        self._asked = policy
        self._seed, self._total_steps = seed, total_steps
        first = np.asarray(history, np.float32)
        self._first: _Array = first[np.isfinite(first)]
        self.policy: policies.Policy | None = None  # once known
        if isinstance(policy, policies.Policy) or policy.WhichOneof("kind") is not None:
            self._adopt(())

    def _adopt(self, columns: Sequence[str]) -> policies.Policy:
        asked = self._asked
        self.policy = asked if isinstance(asked, policies.Policy) else _from_proto(asked, "confidence" in columns)
        self._column = column_of(self.policy)
        self._rule: _Rule = _RULES[type(self.policy)](self.policy)
        self._window = _Window(self.policy.modifiers, self._total_steps)
        self._rule.observe(self._first)
        return self.policy

    def select(
        self,
        key: tuple[int, int],
        epoch: int,
        sample_ids: Sequence[int] | _Array,
        occurrence: Sequence[int] | _Array,
        columns: Mapping[str, _Array],
        trainer_step: int,
    ) -> Any:
        """Decides one batch of n rows.

        Args:
          key: (pass, seq).
          sample_ids, occurrence: [n]; `occurrence` empty: all 0.
          columns: scores by name, float32 [n].
          trainer_step: optimizer steps done.

        Returns:
          A siftd.v1.Decision; what scored is left to the caller.
        """
        policy = self.policy or self._adopt(tuple(columns))
        n = len(sample_ids)
        score = columns.get(self._column)
        if score is None or len(score) != n:
            why = f"policy reads score column '{self._column}'; the artifact has: {', '.join(columns)}"
            if score is not None:
                why = f"score column '{self._column}' has {len(score)} rows; the batch has {n}"
            return rejected(n, wire_pb2.MODEL_MISMATCH, why)
        score = np.asarray(score, np.float32)
        decision = wire_pb2.Decision(rows=n, score=score.tolist(), column=self._column)
        finite = np.isfinite(score)
        if self._window.in_force(key[1], epoch, trainer_step):
            decision.outcome = wire_pb2.OUTCOME_DECIDED
            choice = self._rule.select(score[finite], coins(self._seed, epoch, sample_ids, occurrence)[finite])
            self._fill(decision, finite, choice, policy.modifiers.keep_non_finite)
        else:
            self._rule.observe(score[finite])
            decision.outcome = wire_pb2.OUTCOME_UNSIFTED
            decision.kept.extend(range(n))
        return decision

    def _fill(self, decision: Any, finite: _Array, choice: _Choice, keep_bad: bool) -> None:
        """Spreads the rule's answer for the finite rows over all."""

        def spread(values: _Array, others: float) -> _Array:
            full = np.full(len(finite), others, values.dtype)
            full[finite] = values
            return full

        kept = np.flatnonzero(spread(choice.keep, keep_bad))
        decision.kept.extend(kept.tolist())
        some = finite.any()
        if choice.probability is not None and some:
            p = spread(choice.probability, float(keep_bad))
            decision.keep_probability.extend(p.tolist())
            if self._rule.bernoulli:
                decision.weight.extend((np.float32(1) / p[kept]).tolist())
        elif self._rule.bernoulli:
            decision.weight.extend([1.0] * len(kept))
        if choice.percentile is not None and some:
            decision.percentile.extend(spread(choice.percentile, 1.0).tolist())


def column_of(policy: policies.Policy) -> str:
    """The score column that a policy reads."""
    return policy.modifiers.column or ("confidence" if isinstance(policy, policies.Confidence) else "loss")


def rejected(rows: int, code: int, text: str) -> Any:
    """A siftd.v1.Decision that keeps no row."""
    text = text.encode()[:_TEXT_MOST].decode(errors="ignore")
    return wire_pb2.Decision(outcome=wire_pb2.OUTCOME_REJECTED, code=code, text=text, rows=rows)


def _from_proto(proto: Any, sees_logits: bool) -> policies.Policy:
    """A policy from its message, defaults filled in as workers do. Raises ConfigError for values out of range."""
    m = proto.modifiers
    modifiers = policies.Modifiers(
        sift_delay=m.sift_delay,
        repeat_delay_per_epoch=m.repeat_delay_per_epoch,
        start=m.start if m.HasField("start") else None,
        end=m.end if m.HasField("end") else None,
        interrupt=m.interrupt,
        column=proto.column,
        keep_non_finite=proto.non_finite == policy_pb2.NON_FINITE_KEEP,
    )
    match proto.WhichOneof("kind"):
        case "uniform":
            return policies.Uniform(proto.uniform.keep, modifiers=modifiers)
        case "confidence":
            return policies.Confidence(modifiers=modifiers, **_given(proto.confidence))
        case "loss_cdf":
            given = _given(proto.loss_cdf)
            if given.get("beta") == 0:  # keeps every row
                given = {k: v for k, v in given.items() if k != "beta"} | {"keep": 1.0}
            return policies.LossCdf(modifiers=modifiers, **given)
        case "composer_rank":
            return policies.ComposerRank(proto.composer_rank.keep, modifiers=modifiers)
        case "top_k":
            return policies.TopK(proto.top_k.keep, modifiers=modifiers)
    if sees_logits:
        return policies.Confidence(modifiers=modifiers)
    return policies.LossCdf(modifiers=modifiers)


def _given(message: Any) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields()}
