# SPDX-License-Identifier: Apache-2.0
"""Loss: what the user's script implements to score samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from siftd.compat.smart_sifting.data_model.data_model_interface import SiftingBatch
from siftd.compat.smart_sifting.exceptions import LossImplementationNotProvidedException

__all__ = ["Loss", "LossImplementationNotProvidedException"]


class Loss(ABC):
    """One loss per sample. It is called with a copy of the model in eval mode, in a worker, without gradients.

    A loss that only computes on tensors is exported and runs in C++. One that looks into values (`.tolist()`, `if` on a
    loss, a loop over rows) runs as Python in the worker, which is slower and gives the same result.
    """

    @abstractmethod
    def loss(self, model: torch.nn.Module, transformed_batch: SiftingBatch, original_batch: Any = None) -> torch.Tensor:
        """The losses of n samples, [n] or [n, 1], without reduction.

        Args:
          transformed_batch: what `batch_transforms` makes of the batch; without transforms, the batch itself.
          original_batch: the batch as the DataLoader gave it. NumPy arrays are tensors in it, and strings and objects
            stay in the training process: there are others, or None, in their place.
        """


def loss_method(loss_impl: Any) -> Any:
    """loss(model, transformed_batch, original_batch) of an implementation, which need not inherit from Loss."""
    # The class's own first: SageMaker's guide has an __init__ that puts torch's loss module over the method's name.
    method = getattr(type(loss_impl), "loss", None)
    if callable(method):
        return method.__get__(loss_impl)
    if callable(getattr(loss_impl, "loss", None)):
        return loss_impl.loss
    raise LossImplementationNotProvidedException(
        "loss_impl", loss_impl, "an object with a method loss(model, transformed_batch, original_batch) -> [n]"
    )
