# SPDX-License-Identifier: Apache-2.0
"""Which form a batch of the user's loader has. SageMaker's four errors, with their remedies.

A list or tuple is either indexed by sample (batch[i] is one sample) or by feature (batch[i] is one field of all
samples). What tells them apart: entries of different forms can't be samples, entries with different first sizes can't
be features, the DataLoader's batch size, and torch's default_collate, which makes features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from siftd.compat.smart_sifting._forms import AsItIs, ByFeature, BySample, Transposed
from siftd.compat.smart_sifting._rows import (
    USE_A_TRANSFORM,
    alike,
    can_travel,
    common_rows,
    first_size,
    is_row_list,
)
from siftd.compat.smart_sifting.exceptions import UnsupportedDataFormatException

BY_SAMPLE, BY_FEATURE = 0, 1  # values of batch_format_index


def form_of(batch: Any, batch_size: int | None, index: int | None, by_default_collate: bool) -> Any:
    """The form of a first batch.

    Args:
      batch_size: of the DataLoader, where known.
      index: the user's batch_format_index.
      by_default_collate: torch's own default_collate made the batch: its lists hold features.

    Raises UnsupportedDataFormatException.
    """
    if isinstance(batch, torch.Tensor | np.ndarray):
        return _of_tensor(batch, batch_size, index)
    if isinstance(batch, Mapping) or hasattr(type(batch), "_fields"):
        return _by_feature(batch, batch_size, by_default_collate)
    if not isinstance(batch, list | tuple):
        raise UnsupportedDataFormatException(
            f"Batches of type {type(batch)} are not supported by default: {USE_A_TRANSFORM}"
        )
    if not batch:
        raise _unable(batch, "it is empty")
    samples = len(batch) if alike(batch) else None
    features = _rows_of(batch, batch_size)
    if samples is None and features is None:
        raise _mismatch(batch, batch_size)
    if index is None:
        index = _choose(batch, samples, features, batch_size, by_default_collate)
    if index == BY_FEATURE:
        return _by_feature(batch, batch_size, by_default_collate)
    if samples is None:
        raise _unable(batch, "its entries are of different forms, so they can't be samples")
    if not can_travel(batch):
        raise _unable(batch, "nothing in its samples is a tensor, an array or a number")
    return BySample(type(batch))


def _of_tensor(batch: Any, batch_size: int | None, index: int | None) -> Any:
    if batch.ndim == 0:
        raise _unable(batch, "it has no dimension")
    crosswise = batch.ndim > 1 and batch_size is not None and batch.shape[1] == batch_size < batch.shape[0]
    return Transposed() if index == BY_FEATURE or (index is None and crosswise) else AsItIs()


def _choose(
    batch: Any, samples: int | None, features: int | None, batch_size: int | None, by_default_collate: bool
) -> int:
    if samples is None or (by_default_collate and features is not None):
        return BY_FEATURE
    if features is None:
        if batch_size is not None and samples > batch_size:
            raise _mismatch(batch, batch_size)
        return BY_SAMPLE
    if batch_size is None and samples != features and isinstance(batch[0], torch.Tensor | np.ndarray):
        return BY_FEATURE  # as torch's own datasets and collators mean it
    if (samples == batch_size) != (features == batch_size):
        return BY_SAMPLE if samples == batch_size else BY_FEATURE
    raise UnsupportedDataFormatException(
        f"Both dimension 0 and dimension 1 match batch size {batch_size or samples}: a batch of type {type(batch)} may "
        f"hold {samples} samples or {features}. Give batch_format_index=0 if batch[i] is a sample, 1 if batch[i] is "
        f"one field of all samples, or {USE_A_TRANSFORM}"
    )


def _by_feature(batch: Any, batch_size: int | None, by_default_collate: bool) -> Any:
    if not can_travel(batch):
        raise _unable(batch, "nothing in it is a tensor, an array or a number")
    rows = _rows_of(batch, batch_size)
    if rows is None:
        raise _mismatch(batch, batch_size)
    # default_collate's lists are features, or strings.
    return ByFeature(rows) if not by_default_collate and _has_row_lists(batch, rows) else AsItIs()


def _has_row_lists(features: Any, rows: int) -> bool:
    """Whether one of the features is a list with one entry per sample that is not just strings."""
    for value in features.values() if isinstance(features, Mapping) else features:
        if isinstance(value, list | tuple) and is_row_list(value, rows):
            if not all(isinstance(v, str | bytes | type(None)) for v in value):
                return True
        elif isinstance(value, Mapping | list | tuple) and _has_row_lists(value, rows):
            return True
    return False


def _rows_of(batch: Any, batch_size: int | None) -> int | None:
    """Rows of a structure of features; None: they have no number in common."""
    sizes = common_rows(batch)
    # A tensor that is the same for all samples may stand after one that is not.
    leads = isinstance(batch, Mapping) or isinstance(batch[0], torch.Tensor | np.ndarray)
    if batch_size in sizes or (leads and first_size(batch) == batch_size):
        return batch_size
    return next(iter(sizes)) if len(sizes) == 1 else None


def _unable(batch: Any, why: str) -> UnsupportedDataFormatException:
    return UnsupportedDataFormatException(f"Unable to index the batch of type {type(batch)}: {why}; {USE_A_TRANSFORM}")


def _mismatch(batch: Any, batch_size: int | None) -> UnsupportedDataFormatException:
    entries = batch.values() if isinstance(batch, Mapping) else batch
    inner = sorted({n for e in entries if (n := first_size(e)) is not None})
    return UnsupportedDataFormatException(
        f"Batch size {batch_size} does not match dimension 0 or dimension 1 sizes, {len(batch)} and {inner}, of a "
        f"batch of type {type(batch)}: {USE_A_TRANSFORM}"
    )
