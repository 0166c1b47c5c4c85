# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import siftd
from siftd import policy
from siftd.errors import ConfigError
from siftd.v1 import policy_pb2


def test_auto_is_confidence_where_logits_are_seen_and_the_losses_rank_elsewhere() -> None:
    assert isinstance(policy.resolve(sees_logits=True), siftd.Confidence)
    other = policy.resolve(sees_logits=False)
    assert isinstance(other, siftd.LossCdf)
    assert other.strength == 1
    assert other.modifiers.sift_delay == policy.WARM_UP


def test_an_explicit_beta_or_keep_is_loss_cdf_as_in_sagemaker() -> None:
    assert policy.resolve(beta=1, sees_logits=True).requested_keep == 0.5
    quarter = policy.resolve(keep=0.5)
    assert isinstance(quarter, siftd.LossCdf)
    assert quarter.strength == pytest.approx(1)


def test_beta_above_1_warns_with_the_measured_figures() -> None:
    with pytest.warns(UserWarning, match="CIFAR-10"):
        policy.resolve(beta=2)


def test_the_end_of_a_run_of_known_length_stays_unsifted() -> None:
    assert policy.resolve(total_steps=1000).modifiers.end == policy.UNSIFTED_END
    own = siftd.Uniform(0.5, modifiers=siftd.Modifiers(end=1.0))
    assert policy.resolve(own, total_steps=1000).modifiers.end == 1.0
    assert policy.resolve(siftd.Uniform(0.5)).modifiers.end is None


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: siftd.Uniform(0), "keep is 0; allowed: "),
        (lambda: siftd.Uniform(1.5), "keep is 1.5; allowed: "),
        (lambda: siftd.Confidence(tau=0), "tau is 0; allowed: "),
        (lambda: siftd.Confidence(floor=-0.1), "floor is -0.1; allowed: "),
        (lambda: siftd.LossCdf(beta=0), "beta is 0; allowed: "),
        (lambda: siftd.LossCdf(beta=1, keep=0.5), "beta and keep"),
        (lambda: siftd.LossCdf(loss_history_length=1), "loss_history_length is 1; allowed: "),
        (lambda: siftd.TopK(2), "keep is 2; allowed: "),
        (lambda: siftd.ComposerRank(-1), "keep is -1; allowed: "),
        (lambda: siftd.Modifiers(sift_delay=-1), "sift_delay is -1; allowed: "),
        (lambda: siftd.Modifiers(start=0.5, end=0.4), "start is 0.5; allowed: below end = 0.4"),
        (lambda: siftd.Modifiers(interrupt=1), "interrupt is 1; allowed: "),
        (lambda: policy.resolve("hardest"), "policy is 'hardest'; allowed: "),
        (lambda: policy.resolve(siftd.Uniform(0.5), keep=0.5), "not given together with policy"),
        (lambda: policy.resolve(siftd.Uniform(0.5, modifiers=siftd.Modifiers(end=0.9))), "only with total_steps"),
    ],
)
def test_refusals_name_field_value_and_range(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace("(", "\\(")):
        make()


def test_a_policy_on_the_wire_says_the_same() -> None:
    modifiers = siftd.Modifiers(sift_delay=7, interrupt=3, column="grad_norm", keep_non_finite=True)
    chosen = siftd.LossCdf(keep=0.25, floor=0.1, modifiers=modifiers)
    proto = chosen.to_proto()
    assert proto.WhichOneof("kind") == "loss_cdf"
    assert proto.loss_cdf.beta == pytest.approx(3)
    assert proto.loss_cdf.floor == pytest.approx(0.1)
    assert (proto.modifiers.sift_delay, proto.modifiers.interrupt, proto.column) == (7, 3, "grad_norm")
    assert proto.non_finite == policy_pb2.NON_FINITE_KEEP
