# SPDX-License-Identifier: Apache-2.0
"""A loop written with Hugging Face's accelerate, sifted, with gradient accumulation and a resumable checkpoint.

    python accelerate_loop.py
    python accelerate_loop.py --folder run                 # saves run/epoch_0, run/epoch_1, ...
    python accelerate_loop.py --resume run/epoch_3
    torchrun --standalone --nproc-per-node=2 accelerate_loop.py

accelerate hands a siftd loader through as it is: siftd splits the data and moves the batches to the device.
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import siftd
import siftd.accelerate


def digits() -> tuple[TensorDataset, TensorDataset]:
    """scikit-learn's 1,797 digits, every fifth for validation: x float32 [n, 64] in [0, 1], y int64 [n]."""
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    held_out = torch.arange(len(y)) % 5 == 0
    return TensorDataset(x[~held_out], y[~held_out]), TensorDataset(x[held_out], y[held_out])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40, help="batches of an epoch on each rank, a multiple of two")
    parser.add_argument("--folder", help="of the checkpoints")
    parser.add_argument("--resume", help="folder of one checkpoint")
    args = parser.parse_args()

    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), gradient_accumulation_steps=2)
    torch.manual_seed(0)
    train, validation = digits()
    model: torch.nn.Module = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    plain = siftd.distributed_loader(DataLoader(train, batch_size=16, shuffle=True))
    loader = siftd.SiftingDataLoader(plain, model=model, steps_per_epoch=args.steps, device=accelerator.device)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accelerator.register_for_checkpointing(siftd.accelerate.Checkpoint(loader))
    steps = begin = 0
    if args.resume:
        accelerator.load_state(args.resume)
        begin = int(args.resume.rstrip("/").rpartition("_")[2]) + 1

    for epoch in range(begin, args.epochs):
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(torch.nn.functional.cross_entropy(model(x), y))
                optimizer.step()
                optimizer.zero_grad()
            siftd.accelerate.step(accelerator, loader, model)
            steps += accelerator.sync_gradients
        if args.folder:
            accelerator.save_state(f"{args.folder}/epoch_{epoch}")
        x, y = (t.to(accelerator.device) for t in validation.tensors)
        with torch.no_grad():
            right = (model(x).argmax(1) == y).float().mean()
        accelerator.print(f"epoch {epoch}: validation accuracy {right:.3f}; {loader.progress_line()}")
    print(f"rank {accelerator.process_index}: {steps} steps", flush=True)
    accelerator.print(loader.summary())
    loader.close()
    accelerator.end_training()


if __name__ == "__main__":
    main()
