# SPDX-License-Identifier: Apache-2.0
"""How many samples the entries of a batch may hold, by their types and sizes. Looks at first batches only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from siftd.compat.smart_sifting.exceptions import UnsupportedDataFormatException

USE_A_TRANSFORM = "implement a SiftingBatchTransform and give it as batch_transforms"


def is_row_list(value: Sequence[Any], rows: int) -> bool:
    """Whether a list in a batch by feature has one entry per sample. Raises where it may as well hold features."""
    if len(value) != rows or not alike(value):
        return False
    if _holds_tensors(value) and rows in common_rows(value):
        raise UnsupportedDataFormatException(
            f"Both dimension 0 and dimension 1 match batch size {rows}: a {type(value).__name__} in the batch may hold "
            f"{rows} samples or {rows} fields of all samples; {USE_A_TRANSFORM}"
        )
    return True


def common_rows(value: Any) -> set[int]:
    """Numbers of rows that all features of a structure may have."""
    common: set[int] | None = None
    for child in value.values() if isinstance(value, Mapping) else value:
        sizes = _sizes(child)
        if sizes is not None:
            common = sizes if common is None else common & sizes
    return common or set()


def _sizes(value: Any) -> set[int] | None:
    """Numbers of rows that a feature may have; None: any, as it is the same for all samples."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return {len(value)} if value.ndim > 0 else None
    if isinstance(value, Mapping):
        return common_rows(value)
    if not isinstance(value, list | tuple):
        return None
    # (tensor, 3) is a sample, not two fields of all samples.
    fields = _holds_tensors(value) and all(_sizes(v) is not None for v in value)
    sizes = common_rows(value) if fields else set()
    return sizes | {len(value)} if value and alike(value) else sizes


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, Mapping | list | tuple):
        return any(_holds_tensors(v) for v in (value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, torch.Tensor | np.ndarray) and value.ndim > 0


def can_travel(value: Any) -> bool:
    if isinstance(value, Mapping | list | tuple):
        return any(can_travel(v) for v in (value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, torch.Tensor | bool | int | float | np.generic | np.ndarray)


def first_size(value: Any) -> int | None:
    """Of the first tensor that has a dimension, else of the first list of numbers."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return len(value) if value.ndim > 0 else None
    if isinstance(value, Mapping | list | tuple):
        children = value.values() if isinstance(value, Mapping) else value
        return next((n for n in map(first_size, children) if n is not None), None)
    return None


def alike(entries: Sequence[Any]) -> bool:
    return len({_signature(e) for e in entries}) == 1


def _signature(value: Any) -> Any:
    """Equal for two samples of equal form."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return (type(value), value.dtype, value.ndim)
    if isinstance(value, bool | int | float):
        return "number"
    if isinstance(value, Mapping):
        return (type(value), tuple((k, _signature(v)) for k, v in value.items()))
    if isinstance(value, list | tuple):
        parts = tuple(_signature(v) for v in value)
        return (type(value), set(parts) <= {"number"} or parts)
    return type(value)
