# SPDX-License-Identifier: Apache-2.0
"""What the benchmark suite says of a figure: met or not, with its spread, in text, Markdown and JSON."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def test_a_goal_is_met_at_its_bounds_only() -> None:
    goal = importlib.import_module("measure").Goal(at_least=0.9, at_most=1.02)
    assert [goal.met(x) for x in (0.89, 0.9, 1.02, 1.03)] == [False, True, True, False]
    assert str(goal) == ">= 0.9 and <= 1.02"


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    m = importlib.import_module("measure").ratio("a / b", [2.0, 6.0, 4.0], [1.0, 2.0, 4.0])
    assert (m.value, m.low, m.high) == (2.0, 1.5, 2.5)  # of 2, 3, 1
    assert m.met is None


def test_arms_take_turns() -> None:
    order: list[str] = []

    def arm(name: str) -> Any:
        return lambda: order.append(name) or float(len(order))

    out = importlib.import_module("measure").interleaved({"a": arm("a"), "b": arm("b")}, 2)
    assert order == ["a", "b", "a", "b"]
    assert out == {"a": [1.0, 3.0], "b": [2.0, 4.0]}


def test_what_falls_short_is_said_so_with_its_cause(tmp_path: Path) -> None:
    measure, report = importlib.import_module("measure"), importlib.import_module("report")
    short = measure.Measure("x", 0.5, goal=measure.Goal(at_least=0.9), low=0.4, high=0.6, note="one core")
    results = {"wire": measure.Result([short]), "scale": measure.Result([], skipped="no pool")}
    text = report.table(results)
    assert "NOT MET" in text and "0.5 (0.4 to 0.6)" in text
    assert "wire: x: one core" in text and "scale: not run: no pool" in text
    assert "| wire | x | >= 0.9 | 0.5 (0.4 to 0.6) | NOT MET |" in report.markdown(results)
    curve = measure.Plot("p", "x", "y", [measure.Series("s", [1, 2], [1.0, 4.0], [0.5, 3.0], [2.0, 5.0])])
    results["wire"].plots.append(curve)
    report.write(tmp_path / "out", {"cores": 2}, results)
    told = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert told["parts"]["wire"]["measures"][0]["met"] is False
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["bench.json", "table.md", "table.txt", "wire-1.png"]


def test_every_part_has_its_line_and_its_run() -> None:
    run = importlib.import_module("run")
    for name in run.PARTS:
        part = importlib.import_module(f"parts.{name}")
        assert part.ABOUT and callable(part.run)
