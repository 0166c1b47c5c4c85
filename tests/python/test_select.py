# SPDX-License-Identifier: Apache-2.0
"""The policies in NumPy by themselves; integration/test_select_conformance.py holds them against a real worker."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
import pytest

import siftd
from siftd._select import selector
from siftd._select.coin import coins
from siftd._select.loss_history import LossHistory
from siftd._select.selector import Selector
from siftd._wire.codec import wire_pb2
from siftd.errors import ConfigError
from siftd.v1 import policy_pb2

NAN, INF = float("nan"), float("inf")


def select(policy: Any, scores: list[float], seq: int = 0, step: int = 0, **options: Any) -> Any:
    column = np.asarray(scores, np.float32)
    return Selector(policy, 42, **options).select(
        (0, seq), 0, range(100, 100 + len(column)), (), {"loss": column}, step
    )


# ------------------------------------------------------------------ the history
@pytest.mark.parametrize("capacity", [1, 2, 97, 1000])
def test_percentiles_are_those_of_a_scan_over_the_window(capacity: int) -> None:
    rng = np.random.default_rng(capacity)
    history, window = LossHistory(capacity), deque[float](maxlen=capacity)
    for _ in range(300):
        scores = rng.integers(0, 50, int(rng.integers(0, 40))).astype(np.float32)  # many ties
        history.add(scores)
        window.extend(scores.tolist())
        probes = rng.integers(-1, 52, 20).astype(np.float32)
        below = [sum(held < probe for held in window) for probe in probes.tolist()]
        assert len(history) == len(window)
        assert history.percentile(probes).tolist() == [b / max(1, len(window)) for b in below]


def test_a_batch_longer_than_the_history_leaves_its_last_scores() -> None:
    history = LossHistory(4)
    history.add(np.arange(10, dtype=np.float32))
    assert history.percentile(np.float32([6, 6.5, 8, 99])).tolist() == [0, 0.25, 0.5, 1]
    history.add(np.float32([0]))  # the 6 leaves
    assert history.percentile(np.float32([7.5])).tolist() == [0.5]


# ------------------------------------------------------------------ rules
@pytest.mark.parametrize("beta", [0.25, 0.5, 2.0, 2.7, 9.0])
@pytest.mark.parametrize("ulps", [-3, 0, 3])
def test_powers_round_as_libms_where_numpys_own_are_off(
    beta: float, ulps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy's vector code may miss libm's double by some last places; the float32 must not show it."""
    rng = np.random.default_rng(1)
    f32 = rng.random(2000).astype(np.float32)
    between = (f32.astype(np.float64) + np.nextafter(f32, np.float32(2)).astype(np.float64)) / 2
    base = np.concatenate((between ** (1 / beta), rng.random(2000), [0.0, 1.0]))  # powers on the edge of two float32
    right = np.array([math.pow(b, beta) for b in base])

    def off(b: Any, e: float) -> Any:
        powers = right.copy()
        for _ in range(abs(ulps)):
            powers = np.nextafter(powers, INF if ulps > 0 else 0.0)
        return powers

    monkeypatch.setattr(np, "power", off)
    if ulps:
        assert (off(base, beta).astype(np.float32) != right.astype(np.float32)).any()
    assert np.array_equal(selector._power(base, beta).astype(np.float32), right.astype(np.float32))


def test_a_row_is_kept_by_the_coin_of_its_id() -> None:
    decision = select(siftd.Uniform(0.5), [1.0] * 64)
    assert list(decision.kept) == np.flatnonzero(coins(42, 0, range(100, 164)) < 0.5).tolist()
    assert decision.weight == [2.0] * len(decision.kept)
    assert (decision.outcome, decision.rows, decision.column) == (wire_pb2.OUTCOME_DECIDED, 64, "loss")


def test_a_batch_enters_the_history_before_its_percentiles_are_taken() -> None:
    assert select(siftd.LossCdf(loss_history_length=4), [4, 1, 3, 2]).percentile == [0.75, 0, 0.5, 0.25]


def test_scores_that_are_not_finite_are_dropped_or_kept_as_asked_and_never_ranked() -> None:
    scores = [1, NAN, 3, INF]
    kept = siftd.Modifiers(keep_non_finite=True)
    assert list(select(siftd.TopK(0.5), scores).kept) == [2]
    assert list(select(siftd.TopK(0.5, modifiers=kept), scores).kept) == [1, 2, 3]
    decision = select(siftd.LossCdf(modifiers=kept), scores)
    assert decision.keep_probability == [0, 1, 0.5, 1]
    assert decision.percentile == [0, 1, 0.5, 1]


@pytest.mark.parametrize("policy", [siftd.Uniform, siftd.LossCdf, siftd.ComposerRank, siftd.TopK])
def test_a_batch_without_a_finite_score(policy: Any) -> None:
    assert not select(policy(keep=0.5), [NAN, INF]).kept
    decision = select(policy(keep=0.5, modifiers=siftd.Modifiers(keep_non_finite=True)), [NAN, INF])
    assert list(decision.kept) == [0, 1]
    assert list(decision.weight) in ([1, 1], [])


def test_outside_of_the_window_all_rows_are_kept_and_the_history_learns() -> None:
    selector = Selector(siftd.LossCdf(modifiers=siftd.Modifiers(sift_delay=5)), 42)
    before = selector.select((0, 0), 0, [1, 2, 3], (), {"loss": np.float32([1, 2, 3])}, 4)
    assert before.outcome == wire_pb2.OUTCOME_UNSIFTED
    assert list(before.kept) == [0, 1, 2]
    assert not before.keep_probability
    after = selector.select((0, 1), 0, [4], (), {"loss": np.float32([2.5])}, 5)
    assert after.percentile == [0.5]


def test_a_delay_per_epoch_begins_with_each_epoch() -> None:
    modifiers = siftd.Modifiers(sift_delay=5, repeat_delay_per_epoch=True)
    selector = Selector(siftd.Uniform(1.0, modifiers=modifiers), 42)
    sifted = [
        selector.select((e, s), e, [1], (), {"loss": np.float32([1])}, step).outcome == wire_pb2.OUTCOME_DECIDED
        for e, s, step in [(0, 0, 0), (0, 1, 5), (1, 0, 100), (1, 1, 104), (1, 2, 105)]
    ]
    assert sifted == [False, True, False, False, True]


# ------------------------------------------------------------------ the policy given
def test_without_a_kind_the_columns_choose() -> None:
    columns = {"loss": np.float32([2, 1]), "confidence": np.float32([0, 0.99])}
    for names, kind in ((("loss",), siftd.LossCdf), (("loss", "confidence"), siftd.Confidence)):
        selector = Selector(policy_pb2.Policy(), 42)
        decision = selector.select((0, 0), 0, [1, 2], (), {n: columns[n] for n in names}, 0)
        assert decision.column == names[-1]
        assert isinstance(selector.policy, kind)


@pytest.mark.parametrize(
    "policy",
    [
        siftd.Uniform(0.25),
        siftd.Confidence(tau=0.3, floor=0.0),
        siftd.LossCdf(keep=0.3, floor=0.2, clip=0.8, loss_history_length=77),
        siftd.ComposerRank(0.4),
        siftd.TopK(0.4, modifiers=siftd.Modifiers(7, True, 0.0, 0.9, 3, "loss", True)),
    ],
    ids=str,
)
def test_a_message_means_the_policy_that_it_was_made_of(policy: siftd.Policy) -> None:
    read = Selector(policy.to_proto(), 1).policy
    assert read is not None
    assert read.to_proto() == policy.to_proto()


def test_a_message_leaves_its_defaults_to_the_reader() -> None:
    loss_cdf = policy_pb2.Policy(loss_cdf=policy_pb2.LossCdfPolicy())
    assert Selector(loss_cdf, 1).policy == siftd.LossCdf()
    loss_cdf.loss_cdf.beta = 0.0  # keeps every row
    assert list(select(loss_cdf, [3, 1, 2]).kept) == [0, 1, 2]
    confidence = policy_pb2.Policy(confidence=policy_pb2.ConfidencePolicy())
    assert Selector(confidence, 1).policy == siftd.Confidence()


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="keep is 0"):
        Selector(policy_pb2.Policy(top_k=policy_pb2.TopKPolicy()), 1)
    with pytest.raises(ConfigError, match="policy is"):
        Selector(siftd.Policy(), 1)
    decision = select(siftd.Uniform(0.5, modifiers=siftd.Modifiers(column="margin")), [1, 2])
    assert decision.outcome == wire_pb2.OUTCOME_REJECTED
    assert decision.text == "policy reads score column 'margin'; the artifact has: loss"
    short = Selector(siftd.Uniform(0.5), 1).select((0, 0), 0, [1, 2], (), {"loss": np.float32([1])}, 0)
    assert short.text == "score column 'loss' has 1 rows; the batch has 2"
