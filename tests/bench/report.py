# SPDX-License-Identifier: Apache-2.0
"""Table, JSON and plots of what the parts measured."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from measure import Measure, Plot, Result


def _spread(m: Measure) -> str:
    return "" if m.low is None or m.high is None else f" ({m.low:.3g} to {m.high:.3g})"


def _verdict(m: Measure) -> str:
    return {None: "", True: "met", False: "NOT MET"}[m.met]


def rows(results: dict[str, Result]) -> list[tuple[str, str, str, str, str]]:
    """Part, what, goal, measured, met or not."""
    out = []
    for part, result in results.items():
        for m in result.measures:
            unit = "" if m.unit == "x" else f" {m.unit}"
            out.append((part, m.name, str(m.goal or ""), f"{m.value:.4g}{unit}{_spread(m)}", _verdict(m)))
    return out


HEAD = ("part", "what", "goal", "measured (quartiles)", "goal met")


def table(results: dict[str, Result]) -> str:
    """Plain text, in columns; notes and what was skipped below."""
    lines = [HEAD, *rows(results)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "  ".join("-" * w for w in widths))
    for part, result in results.items():
        text += [f"{part}: {m.name}: {m.note}" for m in result.measures if m.note]
        if result.skipped:
            text.append(f"{part}: not run: {result.skipped}")
    return "\n".join(text)


def markdown(results: dict[str, Result]) -> str:
    lines = [HEAD, tuple("---" for _ in HEAD), *rows(results)]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def as_json(host: dict[str, Any], results: dict[str, Result]) -> str:
    parts = {
        part: {
            "measures": [{**asdict(m), "goal": str(m.goal or ""), "met": m.met} for m in r.measures],
            "plots": [asdict(p) for p in r.plots],
            "skipped": r.skipped,
        }
        for part, r in results.items()
    }
    return json.dumps({"host": host, "parts": parts}, indent=1, default=float) + "\n"


COLOURS = 10  # of matplotlib's cycle; further curves are dashed


def draw(plot: Plot, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.2), constrained_layout=True)
    for i, s in enumerate(plot.series):
        style = "-" if i < COLOURS else "--"
        (line,) = axes.plot(s.x, s.y, style, marker="o", markersize=4, linewidth=1.5, label=s.label)
        if s.low is not None and s.high is not None:
            axes.fill_between(s.x, s.low, s.high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label)
    if plot.log_x:
        axes.set_xscale("log")
    if plot.log_y:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    if len(plot.series) > 1:
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def write(folder: Path, host: dict[str, Any], results: dict[str, Result]) -> None:
    """bench.json, table.txt, table.md and one PNG per plot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(as_json(host, results))
    (folder / "table.txt").write_text(table(results) + "\n")
    (folder / "table.md").write_text(markdown(results) + "\n")
    for part, result in results.items():
        for i, plot in enumerate(result.plots):
            draw(plot, folder / f"{re.sub('[^a-z0-9]+', '-', part.lower())}-{i + 1}.png")
