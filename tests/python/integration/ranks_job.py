# SPDX-License-Identifier: Apache-2.0
"""One rank of a DDP job, for test_ranks.py: trains a toy model, writes what it trained, resumes from a checkpoint.

usage: ranks_job.py FOLDER WORKERS STEPS [--resume] [--die-after N]; rank and world from torchrun's environment.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import siftd
from support import Rows, toy_model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("workers", help='"auto", or endpoints with commas')
    parser.add_argument("steps", type=int)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--fsdp", action="store_true", help="fully_shard (FSDP2) instead of DDP")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--save-after", type=int, default=0)
    parser.add_argument("--die-after", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = toy_model(seed=1)
    if args.fsdp:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in (model[0], model[4], model):
            fully_shard(layer, mesh=mesh)
    else:
        model = DistributedDataParallel(model)
    opt = torch.optim.SGD(model.parameters(), 0.01)
    data = siftd.distributed_loader(DataLoader(Rows(args.rows), 16, shuffle=True), seed=4)
    workers = args.workers if args.workers == "auto" else args.workers.split(",")
    loader = siftd.SiftingDataLoader(
        data, model=model, workers=workers, policy=siftd.Uniform(0.6), steps_per_epoch=args.steps, sync_every=2, seed=9
    )
    if args.resume:
        loader.load_state_dict(torch.load(args.folder / "state.pt", weights_only=False))
    log = open(args.folder / f"trained-{'resumed' if args.resume else 'first'}-{rank}.jsonl", "w")
    step = 0
    for _ in range(args.epochs):
        for x, y in loader:
            loss = torch.nn.functional.cross_entropy(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            loader.step(model)
            info = loader.last_batch_info
            assert info is not None
            print(json.dumps([info.epochs.tolist(), info.ids.tolist()]), file=log, flush=True)
            step += 1
            if step == args.save_after:
                state = siftd.gather_state(loader)
                if rank == 0:
                    torch.save(state, args.folder / "state.pt")
                dist.barrier()
            if step == args.die_after:
                os._exit(9)
    stats = loader.stats()
    print(json.dumps({"rank": rank, "steps": step, "stats": stats.as_dict()}), file=log, flush=True)
    loader.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
