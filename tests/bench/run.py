# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks, prints what they measured and writes it as JSON under runs/."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def cpp(pattern: str) -> list[dict[str, Any]]:
    """google-benchmark's own table on standard error, its JSON back."""
    program = Path(os.environ.get("SIFTD_BUILD_DIR", ROOT / "build")) / "tests" / "bench" / "siftd_bench"
    out = subprocess.run(
        [program, f"--benchmark_filter={pattern}", "--benchmark_format=json"],
        capture_output=True,
        text=True,
        check=True,
    )
    results: list[dict[str, Any]] = json.loads(out.stdout)["benchmarks"]
    for r in results:
        per_item = f"  {1e9 / r['items_per_second']:9.1f} ns an item" if "items_per_second" in r else ""
        print(f"{r['name']:32} {r['real_time']:12.0f} {r['time_unit']} a call{per_item}")
    return results


def step() -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).parent))
    import step as bench

    return bench.main()


BENCHES: dict[str, tuple[str, Callable[[], Any]]] = {
    "select": ("time of each policy; an item is a row", lambda: cpp("Uniform|Confidence|ComposerRank|TopK|LossCdf")),
    "graph": ("time through the flow graph; an item is a batch", lambda: cpp("Graph")),
    "wire": ("time to encode and decode a message", lambda: cpp("Candidates")),
    "step": ("step time with siftd against the same loop without", step),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="./dev bench",
        description="Runs the benchmarks: all, or those named.",
        epilog="names: "
        + "; ".join(f"{n} ({what})" for n, (what, _) in BENCHES.items())
        + ". example: ./dev bench step",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a benchmark")
    parser.add_argument("--out", type=Path, help="JSON file (default: runs/bench-<time>.json)")
    args = parser.parse_args()
    for name in args.names:
        if name not in BENCHES:
            parser.error(f"no benchmark '{name}'; there are: {', '.join(BENCHES)}")
    results: dict[str, Any] = {"host": platform.platform(), "cores": os.cpu_count()}
    for name in args.names or BENCHES:
        print(f"-- {name}: {BENCHES[name][0]}", flush=True)
        results[name] = BENCHES[name][1]()
    out = args.out or ROOT / "runs" / f"bench-{time.strftime('%Y%m%d-%H%M%S')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written: {out.relative_to(ROOT) if out.is_relative_to(ROOT) else out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
