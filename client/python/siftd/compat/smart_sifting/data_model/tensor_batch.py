# SPDX-License-Identifier: Apache-2.0
"""TensorBatch: a batch as tensors whose first size is the batch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from siftd.compat.smart_sifting.data_model.data_model_interface import SiftingBatch
from siftd.compat.smart_sifting.exceptions import UnsupportedDataFormatException


class TensorBatch(SiftingBatch):
    """Args:
    inputs: a tensor [n, ...], or a tuple, list or dict of such.
    labels: the same, or None.
    """

    def __init__(self, inputs: Any, labels: Any = None) -> None:
        self.inputs, self.labels = inputs, labels
        sizes = {len(t) for t in self if t.dim() > 0}
        if len(sizes) != 1:
            raise UnsupportedDataFormatException(
                f"a TensorBatch's tensors have first sizes {sorted(sizes)}; give tensors [n, ...], one row per sample"
            )

    def __len__(self) -> int:
        return next(len(t) for t in self if t.dim() > 0)

    def __getitem__(self, index: Any) -> Any:
        inputs = _each(lambda t: t[index], self.inputs)
        labels = None if self.labels is None else _each(lambda t: t[index], self.labels)
        if isinstance(index, slice):
            return TensorBatch(inputs, labels)
        return inputs if labels is None else (inputs, labels)

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from _tensors(self.inputs)
        if self.labels is not None:
            yield from _tensors(self.labels)

    def __repr__(self) -> str:
        shapes = ", ".join(str(list(t.shape)) for t in self)
        return f"TensorBatch({shapes})"


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from _tensors(v)
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _tensors(v)
    else:
        raise UnsupportedDataFormatException(
            f"a TensorBatch holds a {type(value).__name__}; give tensors, or make a ListBatch"
        )


def _each(act: Callable[[torch.Tensor], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _each(act, v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_each(act, v) for v in value)
    return act(value)
