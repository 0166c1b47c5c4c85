# SPDX-License-Identifier: Apache-2.0
"""Small models, trained for a moment, and data for the benchmark of cheaper scores: scikit-learn's digits, or CIFAR-10
from a folder."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

CLASSES = 10


class Task:
    """A model in training on x, y; one thread."""

    def __init__(
        self, about: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor, images: bool, steps: int, first: int
    ) -> None:
        """`steps`: of batch 64 between two epochs of scoring; `first`: now."""
        self.about, self.model, self.x, self.y, self.images = about, model, x, y, images
        self._steps = steps
        self._optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        self._generator = torch.Generator().manual_seed(0)
        self.train(first)

    def train(self, steps: int | None = None) -> None:
        for _ in range(self._steps if steps is None else steps):
            rows = torch.randint(0, len(self.y), (64,), generator=self._generator)
            loss = F.cross_entropy(self.model(self.x[rows]), self.y[rows])
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()


class Transformer(nn.Module):
    """float32 [n, 8, 8], a sequence of 8 rows of pixels -> [n, CLASSES]."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.rows = nn.Linear(8, width)
        self.places = nn.Parameter(0.02 * torch.randn(1, 8, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8 * width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(self.rows(x) + self.places).flatten(1))
        return out


def convolutions(channels: int) -> nn.Module:
    """float32 [n, channels, h, w] -> [n, CLASSES]; any h and w from 8 on."""
    widths = (channels, 16, 32, 64)
    body: list[nn.Module] = []
    for i, o in zip(widths, widths[1:], strict=False):
        body += [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], CLASSES))


def _cnn(quick: bool, cifar: str | None) -> Task:
    torch.manual_seed(0)
    if cifar and not quick:
        x, y = _cifar(Path(cifar))
        return Task("CIFAR-10", convolutions(3), x, y, True, 40, 400)
    x, y = _digits()
    images = F.interpolate(x.reshape(-1, 1, 8, 8), size=(32, 32), mode="bilinear")
    rows = 512 if quick else len(y)
    return Task("digits at 32 x 32", convolutions(1), images[:rows], y[:rows], True, 3, 90)


def _transformer(quick: bool, _: str | None) -> Task:
    torch.manual_seed(0)
    x, y = _digits()
    rows = 512 if quick else len(y)
    return Task("digits as 8 rows", Transformer(), x[:rows].reshape(-1, 8, 8), y[:rows], False, 3, 25)


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [1797, 64] in [0, 1], in a fixed shuffled order."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    return torch.tensor(digits.data[order] / 16, dtype=torch.float32), torch.tensor(digits.target[order])


def _cifar(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The 10,000 test images, of an archive of class/number.jpg, in a fixed shuffled order."""
    from PIL import Image

    images, names = [], []
    with tarfile.open(folder / "cifar10-test.tar.xz") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                with Image.open(io.BytesIO(content.read())) as image:
                    images.append(np.asarray(image.convert("RGB")))
                names.append(Path(member.name).parent.name)
    labels = np.unique(names, return_inverse=True)[1]
    order = np.random.default_rng(0).permutation(len(labels))
    x = torch.from_numpy(np.stack(images)[order].transpose(0, 3, 1, 2).astype(np.float32) / 255)
    return x, torch.from_numpy(labels[order].astype(np.int64))


KINDS: dict[str, Callable[[bool, str | None], Task]] = {"CNN": _cnn, "transformer": _transformer}
