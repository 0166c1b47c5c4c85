# SPDX-License-Identifier: Apache-2.0
"""A trainer that is fed by the workers: kept rows stream in, from loaders that are other processes.

    siftd worker --endpoint tcp://127.0.0.1:7001 --allow-artifact-upload
    python stream_feeder.py --endpoint tcp://127.0.0.1:7001 --epochs 8
    python stream_trainer.py --endpoint tcp://127.0.0.1:7001 --epochs 8

Any order of starting will do. Repeat --endpoint for several workers. With several ranks give steps per epoch, so that
all make equal ones, and at least one loader per rank (loader i feeds rank i % world):

    python stream_feeder.py --endpoint tcp://127.0.0.1:7001 --index 0 --count 2
    python stream_feeder.py --endpoint tcp://127.0.0.1:7001 --index 1 --count 2
    torchrun --standalone --nproc-per-node=2 stream_trainer.py --endpoint tcp://127.0.0.1:7001 --loaders 2 --steps 20

Loaders of any language can feed it: external_loader.py, cpp_loader.cc.
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch.nn.parallel import DistributedDataParallel

import siftd


def validation_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Every fifth of scikit-learn's 1,797 digits: x float32 [n, 64] in [0, 1], y int64 [n]."""
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    return x[::5], y[::5]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", action="append", required=True, help="of a worker; repeat for several")
    parser.add_argument("--loaders", type=int, default=1, help="loaders that feed the job")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, help="batches of an epoch on each rank; default: an epoch is a pass")
    parser.add_argument("--batch-size", type=int, default=32, help="of each rank")
    args = parser.parse_args()

    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # torchrun's
    if world > 1:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    model: torch.nn.Module = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    if world > 1:
        model = DistributedDataParallel(model)
    opt = torch.optim.Adam(model.parameters(), lr=2e-3)

    example = (torch.zeros(8, 64), torch.zeros(8, dtype=torch.long))  # what the loaders send
    with siftd.StreamLoader(
        args.endpoint, args.batch_size, rank=rank, world=world, loader_count=args.loaders,
        model=model, loss="cross_entropy", example_batch=example, steps_per_epoch=args.steps,
    ) as loader:  # fmt: skip
        steps = 0
        for epoch in range(args.epochs):
            for x, y in loader:
                loss = torch.nn.functional.cross_entropy(model(x), y)
                opt.zero_grad()
                loss.backward()
                opt.step()
                loader.step(model)
                steps += 1
            if rank == 0:
                x, y = validation_digits()
                with torch.no_grad():
                    right = (model(x).argmax(1) == y).float().mean()
                print(f"epoch {epoch}: validation accuracy {right:.3f}; {loader.progress_line()}", flush=True)
        print(f"rank {rank}: {steps} steps, {loader.stats().trained} rows trained", flush=True)
        if rank == 0:
            print(loader.summary())
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
