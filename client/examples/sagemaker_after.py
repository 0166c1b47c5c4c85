# SPDX-License-Identifier: Apache-2.0
"""Training with SageMaker smart sifting (sagemaker_before.py), and the same script on siftd (sagemaker_after.py).

The two files differ in the imports only. SageMaker's library is in its training containers alone; the other one runs
anywhere:

    python sagemaker_after.py
    SIFTD_WORKERS=tcp://host:7001,tcp://host:7002 python sagemaker_after.py     # scored by a pool
    SIFTD_INLINE=1 python sagemaker_after.py                                    # scored in the loop, as SageMaker does
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

import torch
import torch.utils.data
from sklearn.datasets import load_digits

from siftd.compat.smart_sifting.data_model.data_model_interface import SiftingBatchTransform
from siftd.compat.smart_sifting.data_model.list_batch import ListBatch
from siftd.compat.smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from siftd.compat.smart_sifting.loss.abstract_sift_loss_module import Loss
from siftd.compat.smart_sifting.sift_config.sift_configs import (
    LossConfig,
    RelativeProbabilisticSiftConfig,
    SiftingBaseConfig,
)


class DigitsTransform(SiftingBatchTransform):
    """Between the DataLoader's batch [x, y] and a list of samples."""

    def transform(self, batch: Any) -> ListBatch:
        return ListBatch(batch[0].tolist(), batch[1].tolist())

    def reverse_transform(self, sifting_batch: ListBatch) -> Any:
        return [torch.tensor(sifting_batch.inputs), torch.tensor(sifting_batch.labels)]


class DigitsLoss(Loss):
    """One loss per sample."""

    def __init__(self) -> None:
        self.cross_entropy = torch.nn.CrossEntropyLoss(reduction="none")

    def loss(self, model: torch.nn.Module, transformed_batch: Any, original_batch: Any = None) -> torch.Tensor:
        device = next(model.parameters()).device
        x, y = (t.to(device) for t in original_batch)
        losses: torch.Tensor = self.cross_entropy(model(x), y)
        return losses


def digits() -> list[torch.utils.data.TensorDataset]:
    """scikit-learn's 1,797 digits: all but every fifth, and every fifth; x float32 [n, 64] in [0, 1], y int64 [n]."""
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    held_out = torch.arange(len(y)) % 5 == 0
    return [torch.utils.data.TensorDataset(x[rows], y[rows]) for rows in (~held_out, held_out)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--beta", type=float, default=1.0, help="keeps the share 1 / (1 + beta)")
    parser.add_argument("--delay", type=int, default=45, help="training steps before sifting begins")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)

    torch.manual_seed(0)
    train, validation = digits()
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    opt = torch.optim.Adam(model.parameters(), lr=2e-3)

    config = RelativeProbabilisticSiftConfig(
        beta_value=args.beta,
        loss_history_length=500,
        loss_based_sift_config=LossConfig(
            sift_config=SiftingBaseConfig(sift_delay=args.delay, repeat_delay_per_epoch=False)
        ),
    )
    loader = SiftingDataloader(
        sift_config=config,
        orig_dataloader=torch.utils.data.DataLoader(train, batch_size=32, shuffle=True),
        batch_transforms=DigitsTransform(),
        loss_impl=DigitsLoss(),
        model=model,
    )

    trained = 0
    for _ in range(args.epochs):
        for x, y in loader:
            loss = torch.nn.functional.cross_entropy(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            trained += len(y)

    model.eval()
    x, y = validation.tensors
    with torch.no_grad():
        right = (model(x).argmax(1) == y).float().mean()
    print(f"validation accuracy {right:.3f}; trained {trained} of {args.epochs * len(train)} samples")


if __name__ == "__main__":
    main()
