# SPDX-License-Identifier: Apache-2.0
"""SiftingBatch and SiftingBatchTransform: how a batch of any type is told to the sifting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch


class SiftingBatch(ABC):
    """Samples that can be picked and put together: len() samples, batch[i] one of them, batch[a:b] a batch.

    Iterating gives its tensors, inputs first, for `[t.to(device) for t in batch]`.
    """

    inputs: Any
    labels: Any

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: Any) -> Any: ...

    @abstractmethod
    def __iter__(self) -> Iterator[torch.Tensor]: ...


class SiftingBatchTransform(ABC):
    """The user's pair of conversions: reverse_transform(transform(batch)) is a batch as the training loop wants it."""

    @abstractmethod
    def transform(self, batch: Any) -> SiftingBatch:
        """A ListBatch or TensorBatch of what the DataLoader gave."""

    @abstractmethod
    def reverse_transform(self, sifting_batch: Any) -> Any:
        """The training loop's batch of the samples that were kept."""
