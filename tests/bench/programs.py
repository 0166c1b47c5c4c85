# SPDX-License-Identifier: Apache-2.0
"""The programs of the build folder that the benchmarks run."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("SIFTD_BUILD_DIR", ROOT / "build"))


def program(name: str) -> Path:
    """tests/bench/<name> of the build."""
    path = BUILD / "tests" / "bench" / name
    if not path.exists():
        raise SystemExit(f"bench: {path} is not there; ./dev bench builds it")
    return path


def google_benchmark(pattern: str, *arguments: str) -> dict[str, dict[str, Any]]:
    """Runs siftd_bench; its results by name, times in ns."""
    command = [str(program("siftd_bench")), f"--benchmark_filter={pattern}", "--benchmark_format=json", *arguments]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    results: dict[str, dict[str, Any]] = {r["name"]: r for r in json.loads(out.stdout)["benchmarks"]}
    return results
