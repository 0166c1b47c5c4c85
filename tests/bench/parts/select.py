# SPDX-License-Identifier: Apache-2.0
"""Time per row of each policy, by the length of its history."""

from __future__ import annotations

from measure import Goal, Measure, Options, Plot, Result, Series
from programs import google_benchmark

ABOUT = "ns per row of each policy at history 500, 10,000 and 1,000,000"


def run(options: Options) -> Result:
    time = "--benchmark_min_time=0.1" if options.quick else "--benchmark_min_time=0.5"
    out = google_benchmark("Uniform|Confidence|ComposerRank|TopK|LossCdf", time)
    per_row = {name: 1e9 / r["items_per_second"] for name, r in out.items()}
    measures = [
        Measure(name, ns, "ns/row", Goal(at_most=200) if name == "LossCdf/10000" else None)
        for name, ns in per_row.items()
    ]
    by_length = sorted((int(n.split("/")[1]), ns) for n, ns in per_row.items() if n.startswith("LossCdf/"))
    curve = Series("loss_cdf", [n for n, _ in by_length], [ns for _, ns in by_length])
    return Result(measures, [Plot("Cost of a decision", "history, rows", "ns per row", [curve], log_x=True)])
