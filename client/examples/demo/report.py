# SPDX-License-Identifier: Apache-2.0
"""The demo's closing table, summary.json and the HTML report with its plots."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from .record import LOSS_BINS, Arm

COLOURS = ["#1f6fb4", "#d95f02", "#555555", "#7fb800", "#8e44ad"]
COLUMNS = [
    ("arm", "{name}"),
    ("policy", "{policy}"),
    ("accuracy %", "{accuracy_percent:.2f}"),
    ("candidates", "{candidates}"),
    ("kept %", "{kept_percent:.1f}"),
    ("trained", "{trained}"),
    ("trainer s", "{trainer_seconds:.1f}"),
    ("wait s", "{wait_seconds:.2f}"),
    ("stale steps", "{staleness_steps:.0f}"),
    ("lost", "{lost}"),
    ("twice", "{duplicates_trained}"),
]


def rows(arms: list[Arm]) -> list[list[str]]:
    table = []
    for arm in arms:
        values = arm.summary() | {
            "accuracy_percent": 100 * arm.accuracy,
            "kept_percent": 100 * arm.keep_fraction,
        }
        table.append([pattern.format(**values) for _, pattern in COLUMNS])
    return table


def text_table(arms: list[Arm]) -> str:
    lines = [[title for title, _ in COLUMNS], *rows(arms)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    numeric = [i > 1 for i in range(len(COLUMNS))]
    out = [
        "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True))
        for line in lines
    ]
    return "\n".join([out[0], "-" * len(out[0]), *out[1:]])


def findings(arms: list[Arm]) -> list[str]:
    """What the numbers say, in words; whatever comes out."""
    by = {arm.name: arm for arm in arms}
    said = []
    sifted, control, plain = by.get("sifted"), by.get("random keep"), by.get("no sifting")
    if sifted and control:
        gap = 100 * (sifted.accuracy - control.accuracy)
        verdict = f"sifting wins by {gap:.2f} points" if gap > 0 else "random keep wins or ties"
        said.append(
            f"At an equal kept share ({100 * sifted.keep_fraction:.0f} %) {verdict}: "
            f"{100 * sifted.accuracy:.2f} % sifted, {100 * control.accuracy:.2f} % random keep."
        )
    if sifted and plain:
        gap = 100 * (sifted.accuracy - plain.accuracy)
        time_share = sifted.trainer_seconds / plain.trainer_seconds
        said.append(
            f"Against no sifting at equal candidates: {gap:+.2f} points of accuracy, "
            f"{100 * sifted.trained / plain.trained:.0f} % of the trained samples, "
            f"{100 * time_share:.0f} % of the trainer's seconds "
            f"(of which {sifted.wait_seconds:.1f} s waiting for the workers)."
        )
    starts = ", ".join(f"{arm.name} {arm.start_seconds:.1f} s" for arm in arms)
    said.append(f"Not counted, until the first batch (export, processes coming up): {starts}.")
    said.append("One seed, 1,000 test images: runs of the same arm differ by up to two points.")
    return said


def write(out: Path, arms: list[Arm], setting: Mapping[str, object]) -> Path:
    """Writes summary.json and report.html into `out`; returns the report's path."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").write_text(
        json.dumps({"setting": setting, "arms": [arm.summary() for arm in arms]}, indent=2) + "\n"
    )
    report = out / "report.html"
    report.write_text(page(arms, setting), encoding="utf-8")
    return report


def page(arms: list[Arm], setting: Mapping[str, object]) -> str:
    head = "".join(f"<th>{html.escape(title)}</th>" for title, _ in COLUMNS)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows(arms))
    plots = [
        ("Accuracy against trainer time", accuracy_plot(arms), "Seconds in the training loop, evaluation left out."),
        (
            "Loss of kept and dropped rows",
            loss_plot(arms),
            "As the workers scored them; -ln(p_max) where the policy reads the confidence.",
        ),
        ("Keep rate", keep_plot(arms), "Kept share of the last 20 decided batches; dashed: requested."),
        ("Staleness", staleness_plot(arms), "Trainer steps between the snapshot that scored a batch and its step."),
        ("Queue and wait", wait_plot(arms), "Batches ready when the loop asked, and how long it waited."),
    ]
    figures = "".join(
        f"<figure><figcaption><b>{html.escape(title)}</b> {html.escape(note)}</figcaption>"
        f'<img alt="{html.escape(title)}" src="data:image/png;base64,{png}"></figure>'
        for title, png, note in plots
    )
    words = "".join(f"<li>{html.escape(f)}</li>" for f in findings(arms))
    options = ", ".join(f"{k} {v}" for k, v in setting.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>siftd demo</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
td, th {{ padding: .3em .7em; border-bottom: 1px solid #ddd; text-align: right }}
td:nth-child(-n+2), th:nth-child(-n+2) {{ text-align: left }}
figure {{ display: inline-block; width: 520px; margin: 1em 10px; vertical-align: top }}
figure img {{ width: 100% }} figcaption {{ color: #555 }} figcaption b {{ color: #222 }}
</style></head><body>
<h1>siftd demo</h1><p>{html.escape(options)}</p>
<table><tr>{head}</tr>{body}</table><ul>{words}</ul>{figures}
</body></html>
"""


def figure(panels: int = 1) -> tuple[plt.Figure, list[Axes]]:
    fig, axes = plt.subplots(1, panels, figsize=(6.4, 3.6), dpi=120, squeeze=False)
    for ax in axes[0]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    return fig, list(axes[0])


def encode(fig: plt.Figure) -> str:
    buffer = io.BytesIO()
    fig.tight_layout()
    fig.savefig(buffer, format="png")
    plt.close(fig)
    return base64.b64encode(buffer.getvalue()).decode()


def accuracy_plot(arms: list[Arm]) -> str:
    fig, (ax,) = figure()
    for arm, colour in zip(arms, COLOURS):
        seconds, share = zip(*arm.accuracy_curve) if arm.accuracy_curve else ((), ())
        ax.plot(seconds, 100 * np.asarray(share), "o-", ms=3, color=colour, label=arm.name)
    ax.set(xlabel="trainer seconds", ylabel="test accuracy (%)")
    lows = [100 * arm.accuracy_curve[0][1] for arm in arms if arm.accuracy_curve]
    if lows:
        ax.set_ylim(max(0, min(lows) - 1), 100)
    ax.legend(frameon=False)
    return encode(fig)


def loss_plot(arms: list[Arm]) -> str:
    shown = [a for a in arms if a.loss_kept.sum() + a.loss_dropped.sum() > 0]
    fig, axes = figure(max(1, len(shown)))
    edges = np.maximum(LOSS_BINS, LOSS_BINS[1] / 2)
    for ax, arm in zip(axes, shown):
        ax.stairs(arm.loss_dropped[:-1], edges, fill=True, alpha=0.5, color="#999999", label="dropped")
        ax.stairs(arm.loss_kept[:-1], edges, color="#1f6fb4", lw=1.5, label="kept")
        ax.set(xscale="log", xlabel="loss", title=arm.name)
    axes[0].set_ylabel("rows")
    axes[0].legend(frameon=False)
    return encode(fig)


def keep_plot(arms: list[Arm]) -> str:
    fig, (ax,) = figure()
    for arm, colour in zip(arms, COLOURS):
        if not arm.keep_curve:
            continue
        steps, share = zip(*arm.keep_curve)
        ax.plot(steps, 100 * np.asarray(share), color=colour, label=arm.name, lw=1.2)
        if arm.keep_fraction_requested is not None:
            ax.axhline(100 * arm.keep_fraction_requested, color=colour, ls="--", lw=0.8)
    ax.set(xlabel="trainer step", ylabel="kept (%)", ylim=(0, 102))
    ax.legend(frameon=False)
    return encode(fig)


def staleness_plot(arms: list[Arm]) -> str:
    fig, (ax,) = figure()
    top = max([max(a.staleness, default=0) for a in arms] + [1])
    for arm, colour in zip(arms, COLOURS):
        if arm.staleness:
            ax.hist(arm.staleness, bins=list(range(top + 2)), histtype="step", color=colour, label=arm.name)
    ax.set(xlabel="staleness (trainer steps)", ylabel="batches")
    ax.legend(frameon=False)
    return encode(fig)


def wait_plot(arms: list[Arm]) -> str:
    fig, (left, right) = figure(2)
    for arm, colour in zip(arms, COLOURS):
        if arm.queue:
            left.hist(
                arm.queue,
                bins=[b - 0.5 for b in range(max(arm.queue) + 2)],
                histtype="step",
                color=colour,
                label=arm.name,
            )
        if arm.wait:
            ordered = 1e3 * np.sort(arm.wait)
            right.plot(ordered, np.linspace(0, 100, len(ordered)), color=colour, label=arm.name)
    left.set(xlabel="batches ready", ylabel="steps")
    right.set(xlabel="wait per step (ms)", ylabel="steps with at most this (%)", xscale="symlog")
    right.legend(frameon=False, fontsize=8)
    return encode(fig)
