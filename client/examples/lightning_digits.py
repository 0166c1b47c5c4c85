# SPDX-License-Identifier: Apache-2.0
"""A LightningModule, sifted by one callback. The module and its loaders stay as they are.

    python lightning_digits.py
    python lightning_digits.py --folder runs               # checkpoints, and TensorBoard with the sifting's figures
    python lightning_digits.py --folder runs --resume runs/last.ckpt --epochs 12
    python lightning_digits.py --ranks 2 --steps 20        # DDP; every rank needs equal steps

A checkpoint holds the loader's position: rows that were trained don't come again when fit goes on from it.
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from siftd.lightning import Sifting


class Digits(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(x)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        return torch.nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("accuracy", (self(x).argmax(1) == y).float().mean(), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def digits() -> tuple[TensorDataset, TensorDataset]:
    """scikit-learn's 1,797 digits, every fifth for validation: x float32 [n, 64] in [0, 1], y int64 [n]."""
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    held_out = torch.arange(len(y)) % 5 == 0
    return TensorDataset(x[~held_out], y[~held_out]), TensorDataset(x[held_out], y[held_out])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, help="batches of an epoch on each rank; default: an epoch is a pass")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--folder", help="of checkpoints and TensorBoard; default: nothing is written")
    parser.add_argument("--resume", help="a checkpoint")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)  # siftd's summary is logged when fit ends

    L.seed_everything(0)
    train, validation = digits()
    sifting = Sifting(workers="auto", prog_bar=True)
    callbacks: list[Any] = [sifting]
    if args.folder:
        callbacks.append(ModelCheckpoint(args.folder, save_last=True, save_top_k=0))
    trainer = L.Trainer(
        max_epochs=args.epochs,
        limit_train_batches=args.steps,
        callbacks=callbacks,
        logger=TensorBoardLogger(args.folder) if args.folder else False,
        enable_checkpointing=bool(args.folder),
        accelerator="auto",
        devices=args.ranks,
        log_every_n_steps=10,
    )
    trainer.fit(
        Digits(),
        DataLoader(train, batch_size=32, shuffle=True),
        DataLoader(validation, batch_size=360),
        ckpt_path=args.resume,
    )
    if trainer.is_global_zero:
        print(f"validation accuracy {trainer.callback_metrics['accuracy']:.3f} after {trainer.global_step} steps")


if __name__ == "__main__":
    main()
