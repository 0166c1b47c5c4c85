# SPDX-License-Identifier: Apache-2.0
"""Data-parallel training (DDP, or FSDP2 by --shard), sifted, with a checkpoint that resumes.

    torchrun --standalone --nproc-per-node=2 ddp_torchrun.py
    torchrun --standalone --nproc-per-node=2 ddp_torchrun.py --shard
    torchrun --standalone --nproc-per-node=2 ddp_torchrun.py --checkpoint run.pt

Every rank wraps its own share of the data. `steps_per_epoch` makes their epochs equal, so that no rank waits for a
gradient that never comes. Local workers are started once on each node, and serve its ranks.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import siftd

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def digits() -> tuple[TensorDataset, TensorDataset]:
    """scikit-learn's 1,797 digits, every fifth for validation: x float32 [n, 64] in [0, 1], y int64 [n]."""
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    held_out = torch.arange(len(y)) % 5 == 0
    return TensorDataset(x[~held_out], y[~held_out]), TensorDataset(x[held_out], y[held_out])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps-per-epoch", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16, help="of each rank")
    parser.add_argument("--shard", action="store_true", help="FSDP2 in place of DDP")
    parser.add_argument("--workers", nargs="+", default=["auto"], help='"auto", or endpoints')
    parser.add_argument("--checkpoint", type=Path, help="saved after each epoch; goes on from there if it exists")
    args = parser.parse_args()

    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    train, validation = digits()
    model: torch.nn.Module = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    model.to(device)
    if args.shard:
        fully_shard(model)
    else:
        model = DistributedDataParallel(model)
    opt = torch.optim.Adam(model.parameters(), lr=2e-3)

    plain = siftd.distributed_loader(DataLoader(train, batch_size=args.batch_size, shuffle=True))
    workers = args.workers if "://" in args.workers[0] else args.workers[0]
    loader = siftd.SiftingDataLoader(
        plain, model=model, workers=workers, steps_per_epoch=args.steps_per_epoch, device=device
    )
    steps = begin = 0
    if args.checkpoint and args.checkpoint.exists():
        saved = torch.load(args.checkpoint)
        set_state_dict(model, opt, model_state_dict=saved["model"], optim_state_dict=saved["opt"], options=WHOLE)
        loader.load_state_dict(saved["loader"])  # takes this rank's part
        begin = saved["epochs"]

    for epoch in range(begin, args.epochs):
        for x, y in loader:
            loss = torch.nn.functional.cross_entropy(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            loader.step(model)  # on every rank
            steps += 1
        model.eval()
        x, y = validation.tensors
        with torch.no_grad():  # on every rank: a sharded model's forward is a collective
            right = (model(x.to(device)).argmax(1).cpu() == y).float().mean()
        model.train()
        if rank == 0:
            print(f"epoch {epoch}: validation accuracy {right:.3f}; {loader.progress_line()}")
        if args.checkpoint:
            weights, optimizer = get_state_dict(model, opt, options=WHOLE)
            position = siftd.gather_state(loader)  # of all ranks; a collective
            if rank == 0:
                state = {"model": weights, "opt": optimizer, "loader": position, "epochs": epoch + 1}
                torch.save(state, args.checkpoint)
    print(f"rank {rank}: {steps} steps, {loader.stats().trained} rows trained", flush=True)
    if rank == 0:
        print(loader.summary())
    loader.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
