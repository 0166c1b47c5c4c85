# SPDX-License-Identifier: Apache-2.0
"""The models of the step benchmark and endless batches in memory.

Widths give steps of about 2 to 30 ms on one core; those of the large ones on a data centre's GPU (not measured).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

CLASSES, FEATURES, WORDS = 10, 256, 1000
TOKENS, LARGE_TOKENS = 8, 128
POOL_BYTES = 8 << 20  # of batches kept in memory; they are handed out again and again


class SmallTransformer(nn.Module):
    """int64 [n, tokens] -> float32 [n, CLASSES]."""

    def __init__(self, width: int = 32, tokens: int = TOKENS, heads: int = 2, layers: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, width)
        self.places = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(self.words(x) + self.places).mean(1))
        return out


def _mlp() -> nn.Module:
    width = 512
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 8 * 8, CLASSES),
    )  # fmt: skip


def large_transformer(layers: int = 6) -> nn.Module:
    return SmallTransformer(256, LARGE_TOKENS, heads=4, layers=layers)


def _large_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(),
        nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(),
        nn.Conv2d(128, 256, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, CLASSES),
    )  # fmt: skip


def _words(rows: int, tokens: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, WORDS, (rows, tokens), generator=generator)


@dataclass(frozen=True)
class Kind:
    make: Callable[[], nn.Module]
    inputs: Callable[[int, torch.Generator], torch.Tensor]  # rows -> [rows, ...]


KINDS = {
    "mlp": Kind(_mlp, lambda n, g: torch.randn(n, FEATURES, generator=g)),
    "cnn": Kind(_cnn, lambda n, g: torch.randn(n, 3, 32, 32, generator=g)),
    "transformer": Kind(SmallTransformer, lambda n, g: _words(n, TOKENS, g)),
    "large-cnn": Kind(_large_cnn, lambda n, g: torch.randn(n, 3, 32, 32, generator=g)),
    "large-transformer": Kind(large_transformer, lambda n, g: _words(n, LARGE_TOKENS, g)),
}


def make_model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return KINDS[kind].make()


class Batches:
    """Endless: one pass never ends, so that no turn of a pass is measured."""

    def __init__(self, kind: str, rows: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batch_size = rows
        one = KINDS[kind].inputs(rows, generator)
        count = max(4, min(64, POOL_BYTES // (one.numel() * one.element_size())))
        self.pool = [
            (KINDS[kind].inputs(rows, generator), torch.randint(0, CLASSES, (rows,), generator=generator))
            for _ in range(count)
        ]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        while True:
            yield from self.pool


class Copied(Batches):
    """The same, written to fresh memory by another thread, as whatever fills batches beside the loop does."""

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        ready: queue.Queue[tuple[Any, Any]] = queue.Queue(2)

        def copy() -> None:
            for x, y in super(Copied, self).__iter__():
                ready.put((x.clone(), y.clone()))

        threading.Thread(target=copy, name="bench-copies", daemon=True).start()
        while True:
            yield ready.get()
