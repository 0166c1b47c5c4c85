# SPDX-License-Identifier: Apache-2.0
"""The Python clients as processes of the fault suite: `python_peer.py ROLE ...`, with the events of the C++ peers.

ROLE is dropin (a SiftingDataLoader), trainer (a StreamLoader) or loader (a CandidateLoader).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import siftd

WIDTH, CLASSES = 4, 3
DECIDED, UNSIFTED = 1, 2


class Events(logging.Handler):
    """One JSON object per line, one write each."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "t": time.monotonic()} | fields)
        os.write(self._fd, line.encode() + b"\n")

    def emit(self, record: logging.LogRecord) -> None:
        self.write("log", text=record.getMessage())


def data(rows: int, ids: bool = True) -> TensorDataset:
    """x float32 [rows, WIDTH], each number of a row its id; the class; the id, if asked for."""
    number = torch.arange(rows)
    fields = (number.float().unsqueeze(1).repeat(1, WIDTH), number % CLASSES, number)
    return TensorDataset(*fields[: 3 if ids else 2])


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, CLASSES)


class Trainer:
    """Makes steps that train nothing, and waits at the gate."""

    def __init__(self, flags: argparse.Namespace, events: Events) -> None:
        self.flags, self.events = flags, events
        self.step = self.allowed = 0

    def epoch(self, loader: Any, number: int, spans: Any) -> None:
        for x, y, *_ in loader:
            self.wait_for_gate()
            info = loader.last_batch_info
            self.step += 1
            known = info.ids.astype(int).tolist()
            self.events.write("take", step=self.step, ids=known, spans=spans(info))
            ids = torch.tensor(known)
            assert torch.equal(x[:, 0], ids.float()) and torch.equal(y, ids % CLASSES), "rows that are not their own"
            time.sleep(0.002)  # the step's cost
            self.events.write("step", step=self.step)
            loader.step()
            if self.stopped():
                return
        self.events.write("epoch", epoch=number, step=self.step)

    def stopped(self) -> bool:
        return self.step == self.flags.stop_after

    def wait_for_gate(self) -> None:
        if not self.flags.gate or self.step < self.allowed or self.opened():
            return
        self.events.write("gate", step=self.step)
        while not self.opened():
            time.sleep(0.005)  # between two looks

    def opened(self) -> bool:
        self.allowed = int(Path(self.flags.gate).read_text())
        return self.step < self.allowed


def run_dropin(flags: argparse.Namespace, events: Events) -> None:
    trainer = Trainer(flags, events)
    per_pass = range(0, flags.rows, flags.batch)
    for number in range(flags.epochs):  # in the order of the data: every key's ids are known
        for seq, at in enumerate(per_pass):
            ids = list(range(at, min(at + flags.batch, flags.rows)))
            events.write("offer", key=[0, number, seq], epoch=number, ids=ids)

    def spans(info: Any) -> list[list[int]]:
        out, at = [], 0
        for number, seq, rows in info.keys:
            outcome = UNSIFTED if info.unsifted[at] else DECIDED
            out.append([0, number, seq, int(info.epochs[at]), rows, outcome, 0, 0])
            at += rows
        return out

    loader = siftd.SiftingDataLoader(
        DataLoader(data(flags.rows, ids=False), flags.batch),
        model=model(),
        workers=flags.local or flags.endpoint,
        policy=siftd.Uniform(flags.keep),
        seed=flags.seed,
        sync_every=5,
        timeout=30.0,
        starve_timeout=60.0,
    )
    with loader:
        events.write("start", step=0, run=1)
        for number in range(flags.epochs):
            trainer.epoch(loader, number, spans)
        events.write("over", duplicates=0, unsifted=loader.stats().unsifted)


def run_trainer(flags: argparse.Namespace, events: Events) -> None:
    trainer = Trainer(flags, events)
    example = tuple(t[: flags.batch] for t in data(flags.batch).tensors[:2])

    def spans(info: Any) -> list[list[int]]:
        out, at = [], 0
        for (loader, number), seq, rows in info.keys:
            outcome = UNSIFTED if info.unsifted[at] else DECIDED
            out.append([loader, number, seq, int(info.epochs[at]), rows, outcome, 0, 0])
            at += rows
        return out

    stream = siftd.StreamLoader(
        flags.endpoint,
        flags.batch,
        loader_count=flags.loaders,
        model=model(),
        example_batch=example,
        policy=siftd.Uniform(flags.keep),
        seed=flags.seed,
        sync_every=5,
        timeout=30.0,
        linger=flags.linger,
    )
    with stream:
        events.write("start", step=0, run=1)
        for number in range(flags.epochs):
            trainer.epoch(stream, number, spans)
            if trainer.stopped():
                break
        stats = stream.stats()
        events.write("closing")
        stream.close()
        events.write("over", duplicates=stats.duplicates, unsifted=stats.unsifted)


class Noted(siftd.CandidateLoader):
    """Writes down what it offers."""

    events: Events

    def _offer(self, item: Any, now: float) -> None:
        key = [self.core.options.index, self._pass, item.seq]
        self.events.write("offer", key=key, epoch=self._epoch, ids=[int(i) for i in item.sample_ids])
        super()._offer(item, now)


def run_loader(flags: argparse.Namespace, events: Events) -> None:
    everything = data(flags.rows)
    shard = [everything[i] for i in range(flags.index, flags.rows, flags.count)]
    batches: Iterable[Any] = DataLoader(shard, flags.batch, shuffle=True, generator=torch.Generator())  # type: ignore[arg-type]
    loader = Noted(
        flags.endpoint,
        batches,
        loader_index=flags.index,
        loader_count=flags.count,
        epochs=flags.epochs,
        seed=flags.seed,
        ids=lambda batch: batch[2].tolist(),
        timeout=30.0,
    )
    loader.events = events
    with loader:
        loader.run()
    events.write("over")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["dropin", "trainer", "loader"])
    parser.add_argument("--endpoint", action="append", default=[])
    parser.add_argument("--local", type=int, default=0, help="workers that the drop-in starts for itself")
    parser.add_argument("--stop-after", type=int, default=-1, help="steps after which the run is over")
    parser.add_argument("--linger", type=float, default=5.0)
    parser.add_argument("--events", required=True)
    parser.add_argument("--name", default="")
    parser.add_argument("--gate", default="")
    parser.add_argument("--keep", type=float, default=0.5)
    for name in ("rows", "batch", "epochs", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name, usual in (("loaders", 1), ("index", 0), ("count", 1)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    events = Events(flags.events)
    logger = logging.getLogger("siftd")
    logger.addHandler(events)
    logger.setLevel(logging.INFO)
    try:
        {"dropin": run_dropin, "trainer": run_trainer, "loader": run_loader}[flags.role](flags, events)
    except siftd.SiftdError as error:
        events.write("error", text=str(error))
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
