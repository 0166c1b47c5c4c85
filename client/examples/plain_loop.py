# SPDX-License-Identifier: Apache-2.0
"""A plain PyTorch loop, sifted.

The three lines that sifting takes are marked; the rest is any training script.

    python plain_loop.py
    python plain_loop.py --policy uniform --keep 0.5       # the control: as many rows, at random
    python plain_loop.py --workers inline                  # scored in this process, as SageMaker and Composer do
    python plain_loop.py --workers tcp://host:7001 tcp://host:7002
    python plain_loop.py --checkpoint run.pt               # saved after each epoch; goes on from there if it exists
    python plain_loop.py --logdir runs --progress          # TensorBoard, tqdm
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import siftd  # 1
import siftd.tensorboard


def digits() -> tuple[TensorDataset, TensorDataset]:
    """scikit-learn's 1,797 digits, every fifth for validation: x float32 [n, 64] in [0, 1], y int64 [n]."""
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    held_out = torch.arange(len(y)) % 5 == 0
    return TensorDataset(x[~held_out], y[~held_out]), TensorDataset(x[held_out], y[held_out])


@torch.no_grad()
def accuracy(model: torch.nn.Module, data: TensorDataset) -> float:
    model.eval()
    x, y = data.tensors
    right = (model(x).argmax(1) == y).float().mean()
    model.train()
    return float(right)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--policy", choices=["auto", "loss_cdf", "uniform"], default="auto")
    parser.add_argument("--keep", type=float, default=0.5, help="kept share, of loss_cdf and uniform")
    parser.add_argument("--workers", nargs="+", default=["auto"], help='"auto", "inline", or endpoints')
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--logdir", help="of TensorBoard")
    parser.add_argument("--progress", action="store_true", help="a tqdm bar")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.manual_seed(args.seed)
    train, validation = digits()
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    opt = torch.optim.Adam(model.parameters(), lr=2e-3)
    plain = DataLoader(train, batch_size=32, shuffle=True)

    choices: dict[str, dict[str, Any]] = {
        "auto": {},
        "loss_cdf": {"keep": args.keep},
        "uniform": {"policy": siftd.Uniform(args.keep)},
    }
    workers = args.workers if "://" in args.workers[0] else args.workers[0]
    loader = siftd.SiftingDataLoader(plain, model=model, workers=workers, **choices[args.policy])  # 2

    begin = 0
    if args.checkpoint and args.checkpoint.exists():
        saved = torch.load(args.checkpoint)
        model.load_state_dict(saved["model"])
        opt.load_state_dict(saved["opt"])
        loader.load_state_dict(saved["loader"])
        begin = saved["epochs"]
    writer = None
    if args.logdir:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(args.logdir)

    for epoch in range(begin, args.epochs):
        for x, y in siftd.progress(loader, desc=f"epoch {epoch}") if args.progress else loader:
            loss = torch.nn.functional.cross_entropy(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            loader.step(model)  # 3
        print(f"epoch {epoch}: validation accuracy {accuracy(model, validation):.3f}; {loader.progress_line()}")
        if writer is not None:
            siftd.tensorboard.log(loader, writer)
        if args.checkpoint:
            state = {"model": model.state_dict(), "opt": opt.state_dict(), "loader": loader.state_dict()}
            torch.save(state | {"epochs": epoch + 1}, args.checkpoint)
    print(loader.summary())
    if writer is not None:
        writer.close()
    loader.close()


if __name__ == "__main__":
    main()
