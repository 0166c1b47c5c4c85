# SPDX-License-Identifier: Apache-2.0
"""Adapter: the user's batches as siftd sifts them, and back; what the user's loss and transforms see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from siftd.compat.smart_sifting._format import form_of
from siftd.compat.smart_sifting._forms import AsItIs, Form, Sized, Transformed, Transposed, remade
from siftd.compat.smart_sifting._rows import USE_A_TRANSFORM
from siftd.compat.smart_sifting.data_model.data_model_interface import SiftingBatch
from siftd.compat.smart_sifting.data_model.list_batch import ListBatch
from siftd.compat.smart_sifting.data_model.tensor_batch import TensorBatch
from siftd.compat.smart_sifting.exceptions import UnsupportedDataFormatException
from siftd.compat.smart_sifting.loss.abstract_sift_loss_module import loss_method
from siftd.errors import StateError


class Adapter:
    """A base is what siftd takes apart (see _forms). Picklable by cloudpickle, for workers that run Python."""

    def __init__(self, transforms: Any, index: int | None, batch_size: int | None, by_default_collate: bool) -> None:
        self.transforms = transforms
        self._how = (batch_size, index, by_default_collate)
        self.form: Form | None = None  # found at the first batch

    def take_apart(self, batch: Any) -> Any:
        """The base of a batch of the user's loader."""
        if self.form is None:
            self.form = self._find_form(batch)
        if isinstance(self.form, Transformed):
            batch = self.transforms.transform(batch)
        return self.form.write(batch)

    def _find_form(self, batch: Any) -> Form:
        try:
            form: Form = form_of(batch, *self._how)
        except UnsupportedDataFormatException:
            if self.transforms is None:
                raise
            return Transformed()
        sized = self.transforms is not None and isinstance(form, AsItIs | Transposed)
        return Sized(form) if sized else form

    def _form_of_base(self, base: Any) -> Form:
        """Of rows that a state held, where no batch was taken apart before."""
        if self.transforms is None and not (isinstance(base, dict) and "0" in base):
            return AsItIs()
        raise StateError(
            "the state holds the last rows of a pass, and their form is not known before a batch was loaded; resume "
            "from an earlier checkpoint, or begin the next epoch without the loader's state"
        )

    def put_together(self, base: Any) -> Any:
        """The training loop's batch of the rows of a base."""
        if self.form is None:
            self.form = self._form_of_base(base)
        if self.transforms is None:
            return self.form.read(base)
        if isinstance(self.form, Transformed):
            return self.transforms.reverse_transform(self.form.read(base))
        parts = [self.transforms.transform(part) for part in self.form.groups(base)]
        return self.transforms.reverse_transform(parts[0] if len(parts) == 1 else _joined(parts))

    def views(self, base: Any) -> tuple[Any, Any]:
        """(transformed_batch, original_batch) for the user's loss."""
        assert self.form is not None
        if isinstance(self.form, Transformed):
            transformed = self.form.read_scored(base)
            return transformed, self.transforms.reverse_transform(transformed)
        original = self.form.read_scored(base)
        if self.transforms is None:
            return original, original
        transforms = self.transforms
        return LazyBatch(lambda: transforms.transform(original)), original


class ScoringLoss:
    """siftd.BatchLoss's function: the user's Loss on a base."""

    def __init__(self, loss_impl: Any, adapter: Adapter) -> None:
        self._loss_impl, self._adapter = loss_impl, adapter

    def __call__(self, model: torch.nn.Module, base: Any) -> torch.Tensor:
        transformed, original = self._adapter.views(base)
        losses: torch.Tensor = loss_method(self._loss_impl)(model, transformed, original)
        return losses


class LazyBatch(SiftingBatch):
    """A SiftingBatch that is made when it is first looked into.

    Most losses read the original batch only, and most transforms (`.tolist()`) can't be exported.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._made = make, None

    def _real(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # isinstance(batch, ListBatch) holds
        return type(self._real())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)

    def __len__(self) -> int:
        return len(self._real())

    def __getitem__(self, index: Any) -> Any:
        return self._real()[index]

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self._real())


def _joined(parts: list[Any]) -> Any:
    """One SiftingBatch of several."""
    first = parts[0]
    if isinstance(first, ListBatch):
        join: Callable[[list[Any]], Any] = lambda lists: [entry for entries in lists for entry in entries]  # noqa: E731
    elif isinstance(first, TensorBatch):
        join = _cat
    else:
        raise UnsupportedDataFormatException(
            f"{type(first).__name__}s of batches with different sizes can't be joined: let transform return a "
            "ListBatch, whose reverse_transform pads, or pad all batches to one size in the collate_fn"
        )
    labels = None if first.labels is None else join([part.labels for part in parts])
    return remade(type(first), join([part.inputs for part in parts]), labels)


def _cat(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, dict):
        return {k: _cat([v[k] for v in values]) for k in first}
    if isinstance(first, list | tuple):
        return type(first)(_cat(list(column)) for column in zip(*values, strict=True))
    if any(v.shape[1:] != first.shape[1:] for v in values):
        sizes = sorted({tuple(v.shape[1:]) for v in values})
        raise UnsupportedDataFormatException(
            f"a TensorBatch's tensors have different sizes from batch to batch, {sizes}: {USE_A_TRANSFORM} whose "
            "transform returns a ListBatch and whose reverse_transform pads"
        )
    return torch.cat(values)
