# SPDX-License-Identifier: Apache-2.0
"""What the accuracy benchmark makes of its runs, on runs whose figures are known."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

from cifar.arms import Record
from cifar.compare import Comparison, Reference


def record(arm: str, steps: int, accuracy: float, seconds: float, *, seed: int = 0, **more: float) -> Record:
    rows = {"candidates": steps * 128, "trained": steps * 128}
    figures = {"wait_seconds": 0.0, "score_seconds": 0.0, "device_seconds": seconds, "cores": 1, "kept": 1.0} | rows
    return Record("x", "10-class", arm, seed, steps, accuracy, seconds, **(figures | more))  # type: ignore[arg-type]


# A step takes 0.1 s; twice the steps are worth 10 points.
PLAIN = [record("no sifting", n, a, n / 10) for n, a in ((100, 50.0), (200, 60.0), (400, 70.0))]


def test_steps_between_two_budgets_are_linear_in_log_steps() -> None:
    reference = Reference.of(PLAIN)
    assert reference.steps_to(60) == pytest.approx(200)
    assert reference.steps_to(65) == pytest.approx(200 * 2**0.5)


def test_an_accuracy_outside_gives_a_bound() -> None:
    reference = Reference.of(PLAIN)
    assert (reference.steps_to(40), reference.outside(40)) == (100, "at most")
    assert (reference.steps_to(80), reference.outside(80)) == (400, "at least")
    assert reference.outside(55) == ""


def test_the_reference_never_falls_with_steps() -> None:
    noisy = [record("no sifting", n, a, n / 10) for n, a in ((100, 50.0), (200, 60.0), (400, 59.0))]
    assert Reference.of(noisy).accuracy == [50, 60, 60]


def test_the_ratios_of_a_decoupled_arm() -> None:
    """70 % after 200 steps and 25 s, 5 of them waiting: the unsifted loop takes 400 steps, 40 s."""
    arm = record("sifted", 200, 70.0, 25.0, wait_seconds=5.0, score_seconds=15.0, device_seconds=40.0, cores=2)
    c = Comparison([arm], PLAIN)
    assert c.g == pytest.approx(2)
    assert c.same_trainer.value == pytest.approx(40 / 25)
    assert c.never_waiting.value == pytest.approx(40 / 20)
    assert c.equal_hardware.value == pytest.approx(40 / 50)
    assert c.device_seconds.value == pytest.approx(40 / 40)


def test_a_seed_is_compared_with_the_unsifted_loop_of_that_seed() -> None:
    """Seed 1 ran while the host was half as fast."""
    slow = [record("no sifting", r.steps, r.accuracy, 2 * r.trainer_seconds, seed=1) for r in PLAIN]
    arms = [record("sifted", 200, 60.0, 20.0, seed=0), record("sifted", 200, 60.0, 40.0, seed=1)]
    ratio = Comparison(arms, PLAIN + slow).same_trainer
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1, 1, 1))


def test_f_of_both_kinds_of_scoring() -> None:
    apart = record("sifted", 100, 50.0, 12.0, wait_seconds=2.0, score_seconds=8.0, cores=2, candidates=25600)
    inline = record("inline", 100, 50.0, 18.0, score_seconds=8.0, candidates=25600)
    assert Comparison([apart], PLAIN).f == pytest.approx(0.4)
    assert Comparison([inline], PLAIN).f == pytest.approx(0.4)
    assert Comparison([apart], PLAIN).kept == pytest.approx(0.5)
