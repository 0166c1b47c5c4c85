# SPDX-License-Identifier: Apache-2.0
"""A loader that is a process of its own: it feeds a pool of workers, which sift for stream_trainer.py.

    python stream_feeder.py --endpoint tcp://127.0.0.1:7001 --epochs 8
    python stream_feeder.py --endpoint tcp://127.0.0.1:7001 --index 1 --count 2

Start it anywhere, before the trainer or after it; with several loaders each feeds its own share of the data. Killed and
started again, it goes on where the trainer stands. Without --epochs it feeds until the trainer is done.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import siftd


def training_digits(index: int, count: int) -> TensorDataset:
    """Its share of scikit-learn's 1,797 digits, less every fifth: x float32 [n, 64] in [0, 1], y int64 [n]."""
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    rows = torch.tensor([i for i in range(len(y)) if i % 5 != 0][index::count])
    return TensorDataset(x[rows], y[rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", action="append", required=True, help="of a worker; repeat for several")
    parser.add_argument("--index", type=int, default=0, help="of this loader")
    parser.add_argument("--count", type=int, default=1, help="of loaders")
    parser.add_argument("--epochs", type=int, help="passes over the data; default: until the trainer is done")
    parser.add_argument("--batch-size", type=int, default=64, help="of candidates")
    args = parser.parse_args()

    data = training_digits(args.index, args.count)
    loader = DataLoader(data, batch_size=args.batch_size, shuffle=True)
    with siftd.CandidateLoader(
        args.endpoint, loader, loader_index=args.index, loader_count=args.count, epochs=args.epochs
    ) as feeder:
        feeder.run()
        print(feeder.progress_line())


if __name__ == "__main__":
    main()
