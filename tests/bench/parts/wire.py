# SPDX-License-Identifier: Apache-2.0
"""Time to encode and decode a message."""

from __future__ import annotations

from measure import Measure, Options, Result
from programs import google_benchmark

ABOUT = "time to encode and decode a message"


def run(options: Options) -> Result:
    return Result([Measure(name, r["real_time"], "ns") for name, r in google_benchmark("Candidates").items()])
