# SPDX-License-Identifier: Apache-2.0
"""Forms of batches: how siftd takes them apart, and how they are put together again.

`write` makes of a batch a base: a structure of tensors [n, ...] and local lists, as siftd._batches.structure.flatten
takes it. `read` makes of a base with any of its rows the user's own batch. One form holds for all batches of a loader.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from siftd._batches import structure
from siftd.compat.smart_sifting import _columns
from siftd.compat.smart_sifting._rows import is_row_list
from siftd.compat.smart_sifting.data_model.list_batch import ListBatch
from siftd.compat.smart_sifting.data_model.tensor_batch import TensorBatch
from siftd.compat.smart_sifting.exceptions import UnsupportedDataFormatException


class Form:
    # Fields of the base that may be padded with anything, as their true sizes are known. After the first write.
    padded: frozenset[str] = frozenset()

    def write(self, batch: Any) -> Any:
        raise TypeError("a form's")

    def read(self, base: Any) -> Any:
        raise TypeError("a form's")

    def read_scored(self, base: Any) -> Any:
        """For the loss, which may run in another process: entries that never leave this one are None there."""
        return self.read(base)

    def groups(self, base: Any) -> list[Any]:
        """The rows as batches of which none is padded beyond what the user's loader padded."""
        return [self.read(base)]


class AsItIs(Form):
    """Tensors whose first size is the batch's, in any structure."""

    def write(self, batch: Any) -> Any:
        return batch

    def read(self, base: Any) -> Any:
        return base


class Transposed(Form):
    """A tensor [features, n]."""

    def write(self, batch: Any) -> Any:
        return batch.swapaxes(0, 1)

    def read(self, base: Any) -> Any:
        return base.swapaxes(0, 1)


class Sized(Form):
    """Another form whose tensors keep the sizes that they had in the user's batch, where a transform will see them."""

    def __init__(self, inner: Form) -> None:
        self._inner = inner

    def write(self, batch: Any) -> dict[str, Any]:
        base = {"batch": self._inner.write(batch)}
        flat = structure.flatten(base)
        self.padded = frozenset(name for name, t in flat.tensors.items() if t.dim() > 1)
        sizes = [n for name in sorted(self.padded) for n in flat.tensors[name].shape[1:]]
        if sizes:
            base["sizes"] = torch.tensor(sizes, dtype=torch.int32).expand(flat.rows, -1)
        return base

    def read(self, base: dict[str, Any]) -> Any:
        return self._inner.read(base["batch"])

    def groups(self, base: dict[str, Any]) -> list[Any]:
        if "sizes" not in base:
            return [self.read(base)]
        sizes, flat = base["sizes"], structure.flatten({"batch": base["batch"]})
        now = [n for name in sorted(self.padded) for n in flat.tensors[name].shape[1:]]
        if bool((sizes == torch.tensor(now, dtype=sizes.dtype, device=sizes.device)).all()):
            return [self.read(base)]
        changes = (sizes[1:] != sizes[:-1]).any(1).nonzero().flatten().tolist()
        begins = [0, *(i + 1 for i in changes)]
        found = []
        for begin, end in zip(begins, [*begins[1:], flat.rows], strict=True):
            part, own = flat.slice(begin, end), iter(sizes[begin].tolist())
            for name in sorted(self.padded):
                cut = tuple(slice(0, next(own)) for _ in part.tensors[name].shape[1:])
                part.tensors[name] = part.tensors[name][(slice(None), *cut)]
            found.append(self._inner.read(structure.rebuild(part)["batch"]))
        return found


class _InColumns(Form):
    """Base of the forms whose lists become columns. `node`: how the first batch was written."""

    def __init__(self) -> None:
        self.node: Any = None

    def write(self, batch: Any) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        node = self._write(batch, columns)
        if self.node is None:
            self.node = node
            self.padded = frozenset(name for name in columns if name + _columns.SIZES in columns)
        elif node != self.node:
            raise UnsupportedDataFormatException(
                f"a batch of type {type(batch)} has another form than the first one: {node}, where that was "
                f"{self.node}; make all batches alike in types, keys and number of dimensions"
            )
        return columns

    def _write(self, batch: Any, columns: dict[str, Any]) -> Any:
        raise TypeError("a form's")

    def read(self, base: dict[str, Any]) -> Any:
        return self.node.read(base)

    def read_scored(self, base: dict[str, Any]) -> Any:
        rows = next(len(c) for c in base.values() if isinstance(c, torch.Tensor) and c.dim() > 0)
        return self.read({name: [None] * rows if isinstance(c, list) else c for name, c in base.items()})


class BySample(_InColumns):
    """A list or tuple of n samples of equal form."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self._kind = kind

    def _write(self, batch: Any, columns: dict[str, Any]) -> Any:
        return _columns.write(batch, "0", columns)

    def read(self, base: dict[str, Any]) -> Any:
        return self._kind(super().read(base))


class ByFeature(_InColumns):
    """A list, tuple or dict of features, some of them lists with one entry per sample. `rows`: of the first batch."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._rows = rows

    def _write(self, batch: Any, columns: dict[str, Any]) -> Any:
        if self.node is None:
            return _write_structure(batch, self._rows, "0", columns)
        return _write_like(self.node, batch, "0", columns)


class Transformed(_InColumns):
    """A batch that only the user's transform can read: its ListBatch or TensorBatch is sifted in its place."""

    def __init__(self) -> None:
        super().__init__()
        self._kind: type[ListBatch | TensorBatch] = ListBatch

    def write(self, batch: Any) -> dict[str, Any]:
        if not isinstance(batch, ListBatch | TensorBatch):
            raise UnsupportedDataFormatException(
                f"Batches of type {type(batch)} are not supported by default: let batch_transforms.transform return a "
                "ListBatch or a TensorBatch"
            )
        self._kind = type(batch)
        return super().write(batch)

    def _write(self, batch: Any, columns: dict[str, Any]) -> Any:
        both = {"inputs": batch.inputs} | ({} if batch.labels is None else {"labels": batch.labels})
        if isinstance(batch, ListBatch):
            children = [_columns.write(entries, name, columns) for name, entries in both.items()]
        else:
            children = [_write_features(tensors, len(batch), name, columns) for name, tensors in both.items()]
        return _columns.Structure(dict, tuple(both), tuple(children))

    def read(self, base: dict[str, Any]) -> Any:
        both = super().read(base)
        return remade(self._kind, both["inputs"], both.get("labels"))


def remade(kind: Any, inputs: Any, labels: Any) -> Any:
    """A ListBatch or TensorBatch, or the user's own kind of one."""
    made = object.__new__(kind)
    made.inputs, made.labels = inputs, labels
    return made


def _write_features(value: Any, rows: int, at: str, out: dict[str, Any]) -> Any:
    """The node of a feature, or of a structure of features, with `rows` rows."""
    if isinstance(value, list | tuple) and is_row_list(value, rows):
        node = _columns.write(value, at, out)
        return node if type(value) is list else _columns.Converted(type(value), node)
    return _write_structure(value, rows, at, out)


def _write_structure(value: Any, rows: int, at: str, out: dict[str, Any]) -> Any:
    if isinstance(value, Mapping):
        children = [_write_features(v, rows, f"{at}.{k}", out) for k, v in value.items()]
        return _columns.Structure(type(value), tuple(value), tuple(children))
    if isinstance(value, list | tuple) and any(
        isinstance(v, torch.Tensor | np.ndarray | Mapping | list | tuple) for v in value
    ):
        children = [_write_features(v, rows, f"{at}.{i}", out) for i, v in enumerate(value)]
        return _columns.Structure(type(value), None, tuple(children))
    out[at] = value
    return _columns.Whole(at)


def _write_like(node: Any, value: Any, at: str, out: dict[str, Any]) -> Any:
    """A later batch, by the node of the first one."""
    same = isinstance(node, _columns.Structure) and type(value) is node.kind
    if same and isinstance(value, Mapping | list | tuple) and len(value) == len(node.children):
        keys: tuple[Any, ...] = tuple(value) if isinstance(value, Mapping) else tuple(range(len(node.children)))
        children = [_write_like(c, value[k], f"{at}.{k}", out) for c, k in zip(node.children, keys, strict=True)]
        return _columns.Structure(node.kind, None if node.keys is None else keys, tuple(children))
    if isinstance(node, _columns.Whole) or not isinstance(value, list | tuple) or not value:
        out[at] = value
        return _columns.Whole(at)
    written = _columns.write(value, at, out)
    return written if type(value) is list else _columns.Converted(type(value), written)
