# SPDX-License-Identifier: Apache-2.0
"""Time per row of each policy, by the length of its history."""

from __future__ import annotations

import statistics

from measure import Goal, Measure, Options, Plot, Result, Series, quartiles
from programs import google_benchmark

ABOUT = "ns per row of each policy at history 500, 10,000 and 1,000,000; allocations of a batch"


def run(options: Options) -> Result:
    rounds, least = (2, "0.05") if options.quick else (7, "0.3")
    ns: dict[str, list[float]] = {}
    for _ in range(rounds):
        out = google_benchmark("^(Uniform|Confidence|ComposerRank|TopK|LossCdf)", f"--benchmark_min_time={least}")
        for name, r in out.items():
            ns.setdefault(name, []).append(1e9 / r["items_per_second"])
    measures = []
    for name, values in ns.items():
        goal = Goal(at_most=200) if name == "LossCdf/10000" else None
        measures.append(Measure(name, statistics.median(values), "ns/row", goal, *quartiles(values)))
    median = {name: m.value for name, m in zip(ns, measures, strict=True)}
    # log2(1,000,000) / log2(10,000) = 1.5; the rest is the cost of memory that no cache holds.
    measures.append(Measure("LossCdf, history 1,000,000 / 10,000", median["LossCdf/1000000"] / median["LossCdf/10000"]))
    for name, r in out.items():
        if name != "LossCdf/1000000":  # its blocks still grow in number
            allocations = round(r["allocations"], 1)
            measures.append(Measure(f"allocations of a batch, {name}", allocations, "", Goal(at_most=0)))
    lengths = sorted(int(n.split("/")[1]) for n in ns if n.startswith("LossCdf/"))
    spread = [quartiles(ns[f"LossCdf/{n}"]) for n in lengths]
    curve = Series(
        "loss_cdf",
        lengths,
        [median[f"LossCdf/{n}"] for n in lengths],
        [low for low, _ in spread],
        [high for _, high in spread],
    )
    return Result(measures, [Plot("Cost of a decision", "history, rows", "ns per row", [curve], log_x=True)])
