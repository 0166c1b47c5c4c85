# SPDX-License-Identifier: Apache-2.0
"""The parts of `./dev bench gpu`, through the code that a GPU would take, on the CPU and much shortened."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
NOWHERE = "cuda:99"

EXPECTED = {
    "step": ["mlp 32: drop-in: loop, waits included / control", "mlp 32: control / plain"],
    "worker": ["worker / bare loop, forward", "the same by CPU time", "swap every second / none"],
    "weights": ["loop held above one copy, 1 MB", "bare copy, 1 MB", "until all score with it, 1 MB to 1 worker"],
    "inline": ["beta 1: inline / decoupled, one worker", "beta 1: slowdown by a neighbour's forwards"],
}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    step, inline = importlib.import_module("parts.step"), importlib.import_module("parts.inline")
    monkeypatch.setattr(step, "QUICK", (("mlp", 32, ("control", "drop-in")),))
    monkeypatch.setattr(step, "QUICK_ROUND_SECONDS", 0.05)
    monkeypatch.setattr(importlib.import_module("parts.worker"), "QUICK", (0.3,))
    weights = importlib.import_module("parts.weights")
    monkeypatch.setattr(weights, "MEGABYTES", (1,))
    monkeypatch.setattr(weights, "QUICK_WORKERS", (1,))
    monkeypatch.setattr(inline, "SAVED", {1: inline.SAVED[1]})


def jobs() -> list[Any]:
    found: list[Any] = importlib.import_module("gpu").jobs(importlib.import_module("measure").Options(True), "cpu")
    return found


def test_the_skipped_half_is_told() -> None:
    assert [(j.label, j.skipped) for j in jobs() if j.skipped] == [
        ("gpu", "trainer and worker on one GPU: --device is cpu")
    ]


@pytest.mark.parametrize("part", EXPECTED)
def test_a_part_yields_its_measures(part: str) -> None:
    (job,) = (j for j in jobs() if j.part == part)
    result = importlib.import_module(f"parts.{part}").run(job.options)
    names = [m.name for m in result.measures]
    for expected in EXPECTED[part]:
        assert any(name.startswith(expected) for name in names), (expected, names)
    assert all(math.isfinite(m.value) for m in result.measures)
    assert str(job.options.devices) == "trainer cpu, worker cpu"


@pytest.mark.parametrize("part", ["step", "weights"])
def test_the_worker_is_started_on_its_device(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("parts.step"), "QUICK", (("mlp", 32, ("drop-in",)),))
    options = importlib.import_module("measure").Options(
        quick=True, devices=importlib.import_module("devices").Devices("cpu", NOWHERE)
    )
    with pytest.raises(RuntimeError, match=f"did not start[^$]*{NOWHERE}"):
        importlib.import_module(f"parts.{part}").run(options)


def test_a_neighbour_that_can_not_start_is_told() -> None:
    processes = importlib.import_module("processes")
    with pytest.raises(RuntimeError, match=f"the neighbour did not start.*{NOWHERE}"):
        processes.step_neighbour("mlp", 4, NOWHERE, {0})
