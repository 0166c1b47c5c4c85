# SPDX-License-Identifier: Apache-2.0
"""Trains the demo's arms, prints the table and writes the report."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path

import torch

import siftd

from . import report
from .data import load_digits
from .dropin_arms import run_plain, run_sifted
from .record import Arm
from .training import Setting


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./dev demo",
        description="Trains a small CNN on MNIST digits, sifted by worker processes, and compares it with no sifting "
        "and with random rows at the same kept share.",
        epilog="example: ./dev demo --stream --epochs 5",
    )
    parser.add_argument(
        "--stream", action="store_true", help="separate loader processes push candidates to the workers"
    )
    parser.add_argument("--epochs", type=int, default=10, help="passes over the 4,000 training images (default: 10)")
    parser.add_argument("--batch-size", type=int, default=32, help="rows of a step (default: 32)")
    parser.add_argument("--workers", type=int, default=2, help="sifting worker processes (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the report (default: runs/demo-<time>)")
    args = parser.parse_args(argv)
    for name, least in (("epochs", 1), ("batch_size", 1), ("workers", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}; allowed: >= {least}")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # One thread: the sifting workers have the other cores, and every arm trains with the same.
    torch.set_num_threads(1)
    setting = Setting(args.epochs, args.batch_size, args.workers, args.seed)
    data = load_digits()
    began = time.monotonic()
    print(
        f"{setting.epochs} epochs over {len(data[1])} MNIST digits, batch {setting.batch_size}, "
        f"{setting.workers} sifting workers{', loaders of their own' if args.stream else ''}",
        file=sys.stderr,
    )
    arms: list[Arm] = []
    if args.stream:
        from .stream_arms import run_streamed as run
    else:
        run = run_sifted
    arms.append(run("sifted", "auto", data, setting))
    # SageMaker sifts after 1,000 steps by default, Selective-Backprop after an epoch. Without a warm-up this rule keeps
    # an untrained model at chance here.
    warm_up = siftd.Modifiers(sift_delay=len(data[1]) // setting.batch_size)
    arms.append(run("loss_cdf", siftd.LossCdf(beta=1.0, modifiers=warm_up), data, setting))
    arms.append(run_plain(data, setting))
    arms.append(run("random keep", siftd.Uniform(round(arms[0].keep_fraction, 4)), data, setting))

    out = args.out or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    what = {
        "mode": "stream" if args.stream else "drop-in",
        "epochs": setting.epochs,
        "batch_size": setting.batch_size,
        "workers": setting.workers,
        "sync_every": setting.sync_every,
        "seed": setting.seed,
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - began, 1),
    }
    path = report.write(out, arms, what)
    print("\n" + report.text_table(arms) + "\n")
    for line in report.findings(arms):
        print(line)
    print(f"\nreport: {path}\nnumbers: {out / 'summary.json'}")
    numbers = json.loads((out / "summary.json").read_text())
    bad = [a["name"] for a in numbers["arms"] if a["lost"] or a["duplicates_trained"]]
    if bad:
        print(f"rows were lost or trained twice in: {', '.join(bad)}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
