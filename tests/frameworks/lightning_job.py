# SPDX-License-Identifier: Apache-2.0
"""A Lightning module that records what it trains, and a trainer for it; as a program: one fit, on one or more ranks.

LIGHTNING names the package: lightning.pytorch or pytorch_lightning.
usage: lightning_job.py FOLDER ENDPOINT --devices N [--steps-per-epoch N] [--resume CKPT] [--die-after STEPS]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import siftd
from support import Rows

pl: Any = importlib.import_module(os.environ.get("LIGHTNING", "lightning.pytorch"))

from siftd.lightning import Sifting  # noqa: E402  (after the package that it takes its base class from)

Row = tuple[int, int]  # epoch, id


class Lit(pl.LightningModule):
    """Records (global_step before the batch, rows) of each batch, and that the rows are those that they should be."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(8, 5)
        self.trained: list[tuple[int, list[Row]]] = []
        self.sifting: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        if self.sifting is not None:
            info = self.sifting.batch_info
            assert torch.equal(y, torch.from_numpy(info.ids.astype("int64")) % 5)
            assert len(x) == len(info.ids)
            self.trained.append((self.global_step, list(zip(info.epochs.tolist(), info.ids.tolist(), strict=True))))
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)

    def rows(self, before_step: int = sys.maxsize) -> Counter[Row]:
        return Counter(row for step, rows in self.trained if step < before_step for row in rows)


class Validated(Lit):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("loss", F.cross_entropy(self(x), y))


def data(rows: int = 96, batch: int = 8, **options: Any) -> DataLoader[Any]:
    """Shuffled by a generator of its own, so that a resumed run draws the same orders."""
    return DataLoader(Rows(rows), batch, shuffle=True, generator=torch.Generator().manual_seed(7), **options)


def sift(endpoint: str, **options: Any) -> Sifting:
    return Sifting([endpoint], **{"policy": siftd.Uniform(0.5), "seed": 3, "sync_every": 2, **options})


def trainer(folder: Path, *callbacks: Any, **options: Any) -> Any:
    return pl.Trainer(
        callbacks=list(callbacks),
        default_root_dir=folder,
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 3,
            "logger": False,
            "enable_checkpointing": any(isinstance(c, pl.callbacks.Checkpoint) for c in callbacks),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            **options,
        },
    )


def kept(endpoint: str, epochs: int) -> set[Row]:
    """What `sift` keeps of `data`, on whichever rank and in whichever order: a function of seed, epoch and id."""
    rows: set[Row] = set()
    policy = siftd.Uniform(0.5)
    with siftd.SiftingDataLoader(data(), model=Lit(), workers=[endpoint], policy=policy, seed=3) as loader:
        for _ in range(epochs):
            for _ in loader:
                info = loader.last_batch_info
                assert info is not None
                rows.update(zip(info.epochs.tolist(), info.ids.tolist(), strict=True))
    return rows


class Log(pl.Callback):
    """Writes what each rank trained, batch by batch, and dies where it is told to."""

    def __init__(self, folder: Path, name: str, die_after: int) -> None:
        self.folder, self.name, self.die_after = folder, name, die_after

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        with open(self.folder / f"{self.name}-{trainer.global_rank}.jsonl", "a") as file:
            print(json.dumps(pl_module.trained[-1]), file=file)
        if trainer.global_step == self.die_after:
            trainer.strategy.barrier()  # rank 0's checkpoint is written
            os._exit(9)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("endpoint")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--steps-per-epoch", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--resume", default=None)
    parser.add_argument("--die-after", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = {} if args.steps_per_epoch is None else {"steps_per_epoch": args.steps_per_epoch}
    module = Lit()
    module.sifting = sift(args.endpoint, **options)
    log = Log(args.folder, "first" if args.resume is None else "resumed", args.die_after)
    saver = pl.callbacks.ModelCheckpoint(args.folder / "ckpt", "{step}", every_n_train_steps=2, save_top_k=-1)
    fit = trainer(
        args.folder,
        module.sifting,
        saver,
        log,
        devices=args.devices,
        strategy="ddp" if args.devices > 1 else "auto",
        **({} if args.limit is None else {"limit_train_batches": args.limit}),
    )
    fit.fit(module, data(), ckpt_path=args.resume)
    print(f"rank {fit.global_rank} made {fit.global_step} steps with {pl.__name__}", flush=True)


if __name__ == "__main__":
    main()
