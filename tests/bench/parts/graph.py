# SPDX-License-Identifier: Apache-2.0
"""What a batch costs in the flow graph beside its forward: time by node, heap allocations."""

from __future__ import annotations

import statistics

from measure import Goal, Measure, Options, Result, quartiles
from programs import google_benchmark

ABOUT = "time of a batch by node of the flow graph; heap allocations of a batch"
NODES = 5  # decode, batcher, score, select, emit
WINDOW = 32  # batches under way
WIRE_CAUSE = "what the message is made of: its ids, its tensors, a shape each"


def run(options: Options) -> Result:
    rounds = 3 if options.quick else 9
    per_node, alone = [], []
    for _ in range(rounds):
        out = google_benchmark("GraphBatch|GraphSelect", "--benchmark_min_time=0.2")
        per_node.append(1e-3 * out[f"GraphBatch/{WINDOW}/real_time"]["real_time"] / WINDOW / NODES)
        alone.append(1e-3 * out["GraphBatch/1/real_time"]["real_time"])
    low, high = quartiles(per_node)
    measures = [
        Measure(f"a node, {WINDOW} batches under way", statistics.median(per_node), "us", Goal(at_most=1), low, high),
        Measure(
            "the graph, one batch at a time, with its wake-ups", statistics.median(alone), "us", None, *quartiles(alone)
        ),
    ]
    none = Goal(at_most=0)
    for name, what in ((f"GraphSelect/{WINDOW}/real_time", "graph and selection"),):
        # Buffers still grow now and then: a batch of ten thousand is none in steady state.
        measures.append(Measure(f"allocations of a batch, {what}", round(out[name]["allocations"], 3), "", none))
    for name, r in google_benchmark("Wire.*").items():
        what, count = name.split("/")[0].removeprefix("Wire"), r["allocations"]
        measures.append(Measure(f"allocations, {what}", count, "", none, note=WIRE_CAUSE if count > 0 else ""))
    return Result(measures)
