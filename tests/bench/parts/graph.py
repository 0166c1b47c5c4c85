# SPDX-License-Identifier: Apache-2.0
"""Cost of a batch through the flow graph."""

from __future__ import annotations

from measure import Measure, Options, Result
from programs import google_benchmark

ABOUT = "cost of a batch through the flow graph"


def run(options: Options) -> Result:
    return Result([Measure(name, r["real_time"], "ns") for name, r in google_benchmark("GraphBatch").items()])
