# SPDX-License-Identifier: Apache-2.0
"""ListBatch: a batch as lists with one entry per sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from siftd.compat.smart_sifting.data_model.data_model_interface import SiftingBatch
from siftd.compat.smart_sifting.exceptions import UnsupportedDataFormatException


class ListBatch(SiftingBatch):
    """Args:
    inputs: n entries: tensors, numbers, lists of numbers, or tuples or dicts of those.
    labels: n entries, or None.
    """

    def __init__(self, inputs: Any, labels: Any = None) -> None:
        self.inputs, self.labels = list(inputs), None if labels is None else list(labels)
        if self.labels is not None and len(self.labels) != len(self.inputs):
            raise UnsupportedDataFormatException(
                f"a ListBatch has {len(self.inputs)} inputs and {len(self.labels)} labels; give one label per input"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: Any) -> Any:
        labels = None if self.labels is None else self.labels[index]
        if isinstance(index, slice):
            return ListBatch(self.inputs[index], labels)
        return self.inputs[index] if labels is None else (self.inputs[index], labels)

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from _stacked(self.inputs)
        if self.labels is not None:
            yield from _stacked(self.labels)

    def __repr__(self) -> str:
        return f"ListBatch({len(self.inputs)} samples, {'without' if self.labels is None else 'with'} labels)"


def _stacked(entries: list[Any]) -> Iterator[torch.Tensor]:
    if not entries:
        return
    first = entries[0]
    if isinstance(first, torch.Tensor):
        yield torch.stack(entries)
    elif isinstance(first, tuple):
        for column in zip(*entries, strict=True):
            yield from _stacked(list(column))
    elif isinstance(first, dict):
        for key in first:
            yield from _stacked([entry[key] for entry in entries])
    else:
        yield torch.tensor(entries)
