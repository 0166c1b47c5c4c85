# SPDX-License-Identifier: Apache-2.0
"""Lists with one entry per sample as tensors [n, ...], and back without a difference.

`write` puts columns into a dict and gives a node that tells how; `node.read` gives the entries again. Nodes of two
batches of the same form are equal. Lists and tensors of different sizes are padded, their sizes kept beside them;
entries without numbers (strings, None, objects) stay lists, which never leave this process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

SIZES = ".sizes"  # name of the column beside a padded one: int32 [n, dimensions of an entry]
_PLAIN = (str, bytes, type(None))


class Opaque(str):
    """Any object, in the dress of a plain value: siftd keeps it with its sample and never looks into it."""

    value: Any

    @classmethod
    def of(cls, value: Any) -> Opaque:
        made = cls()
        made.value = value
        return made


@dataclass(frozen=True)
class Whole:
    """A tensor or array [n, ...] as it is, or a value that the whole batch shares."""

    at: str

    def read(self, columns: Mapping[str, Any]) -> Any:
        return columns[self.at]


@dataclass(frozen=True)
class Numbers:
    """A number per sample. `kind`: bool, int, float or a NumPy scalar type."""

    at: str
    kind: type

    def read(self, columns: Mapping[str, Any]) -> list[Any]:
        column = columns[self.at]
        return list(column.cpu().numpy()) if issubclass(self.kind, np.generic) else column.tolist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Arrays:
    """A tensor, array, or list or tuple of numbers per sample, padded at its ends to the largest."""

    at: str
    kind: type
    dims: int
    dtype: torch.dtype

    def read(self, columns: Mapping[str, Any]) -> list[Any]:
        column = columns[self.at]
        entries = list(column.unbind(0))
        if self.dims > 0:
            full = list(column.shape[1:])
            sizes = columns[self.at + SIZES].tolist()
            entries = [
                e if s == full else e[tuple(slice(0, n) for n in s)] for e, s in zip(entries, sizes, strict=True)
            ]
        if self.kind is torch.Tensor:
            return entries
        if self.kind is np.ndarray:
            return [e.cpu().numpy() for e in entries]
        return [self.kind(e.tolist()) for e in entries]


@dataclass(frozen=True)
class Local:
    """Entries that no tensor can hold."""

    at: str

    def read(self, columns: Mapping[str, Any]) -> list[Any]:
        return [v.value if isinstance(v, Opaque) else v for v in columns[self.at]]


@dataclass(frozen=True)
class PerSample:
    """A tuple, list or dict per sample, of the same length or keys: a column for each position."""

    kind: type
    keys: tuple[Any, ...] | None  # of a dict
    children: tuple[Any, ...]

    def read(self, columns: Mapping[str, Any]) -> list[Any]:
        entries = zip(*(child.read(columns) for child in self.children), strict=True)
        if self.keys is None:
            return [_sequence(self.kind, values) for values in entries]
        return [_mapping(self.kind, dict(zip(self.keys, values, strict=True))) for values in entries]


@dataclass(frozen=True)
class Converted:
    """Another sequence than a list of entries."""

    kind: type
    child: Any

    def read(self, columns: Mapping[str, Any]) -> Any:
        return _sequence(self.kind, self.child.read(columns))


@dataclass(frozen=True)
class Structure:
    """A tuple, list or dict of features."""

    kind: type
    keys: tuple[Any, ...] | None
    children: tuple[Any, ...]

    def read(self, columns: Mapping[str, Any]) -> Any:
        values = [child.read(columns) for child in self.children]
        if self.keys is None:
            return _sequence(self.kind, values)
        return _mapping(self.kind, dict(zip(self.keys, values, strict=True)))


def _sequence(kind: type, values: Sequence[Any]) -> Any:
    return kind(*values) if hasattr(kind, "_fields") else kind(values)


def _mapping(kind: type, values: dict[Any, Any]) -> Any:
    return values if kind is dict else kind(values)


def write(entries: Sequence[Any], at: str, out: dict[str, Any]) -> Any:
    """The node of `entries`, one per sample, n >= 1; their columns go to `out` under names that begin with `at`."""
    kinds = {type(e) for e in entries}
    first = entries[0]
    if kinds <= {bool} or kinds <= {int, float} or (len(kinds) == 1 and isinstance(first, np.generic)):
        column = _numbers(entries)
        if column is not None:
            out[at] = column
            return Numbers(at, float if kinds == {int, float} else type(first))
    elif len(kinds) > 1:
        pass
    elif arrays := _arrays(entries):
        known = [a for a in arrays if a.numel() > 0] or arrays[:1]  # an empty list has no type
        if all(a.dim() == known[0].dim() for a in arrays) and len({a.dtype for a in known}) == 1:
            return _write_arrays([a.to(known[0].dtype) for a in arrays], type(first), at, out)
    elif isinstance(first, Mapping):
        keys = tuple(first)
        if all(tuple(e) == keys for e in entries):
            children = [write([e[k] for e in entries], f"{at}.{k}", out) for k in keys]
            return PerSample(type(first), keys, tuple(children))
    elif isinstance(first, list | tuple) and first and all(len(e) == len(first) for e in entries):
        children = [write([e[i] for e in entries], f"{at}.{i}", out) for i in range(len(first))]
        return PerSample(type(first), None, tuple(children))
    out[at] = [e if isinstance(e, _PLAIN) else Opaque.of(e) for e in entries]
    return Local(at)


def _numbers(entries: Sequence[Any]) -> torch.Tensor | None:
    """[n]: bool, int64 or float64, or a NumPy type's own. None: they don't fit."""
    try:
        return torch.from_numpy(np.asarray(entries))
    except TypeError:  # dates; ints beyond 64 bits
        return None


def _arrays(entries: Sequence[Any]) -> list[torch.Tensor]:
    """One tensor per entry of one type; [] where they are no tensors, arrays, or lists or tuples of numbers alone."""
    first = entries[0]
    if isinstance(first, torch.Tensor):
        return list(entries)
    if not isinstance(first, np.ndarray) and not (type(first) in (list, tuple) and _is_table(entries)):
        return []
    try:
        arrays = [np.asarray(a) for a in np.asarray(entries)]  # of one size, at once
    except ValueError:
        try:
            arrays = [np.asarray(e) for e in entries]
        except ValueError:  # an entry is ragged, or holds tensors
            return []
    if any(a.dtype.kind not in "biuf" for a in arrays):
        return []
    return [torch.from_numpy(np.ascontiguousarray(a)).reshape(a.shape) for a in arrays]


def _is_table(entries: Sequence[Sequence[Any]]) -> bool:
    """Whether lists or tuples hold numbers alone, or lists of numbers. An int and a float in a tuple mean two things;
    in a list both are taken as floats."""
    kinds = set().union(*(map(type, e) for e in entries))
    if kinds == {list}:
        return _is_table([inner for e in entries for inner in e])
    return kinds <= {int} or kinds <= {float} or kinds <= {bool} or (type(entries[0]) is list and kinds == {int, float})


def _write_arrays(arrays: list[torch.Tensor], kind: type, at: str, out: dict[str, Any]) -> Arrays:
    first = arrays[0]
    if first.dim() > 0:
        out[at + SIZES] = torch.tensor([a.shape for a in arrays], dtype=torch.int32)
    if all(a.shape == first.shape for a in arrays):
        out[at] = torch.stack(arrays)
    else:
        most = [max(a.shape[d] for a in arrays) for d in range(first.dim())]
        out[at] = first.new_zeros((len(arrays), *most))
        for row, a in zip(out[at], arrays, strict=True):
            row[tuple(slice(0, n) for n in a.shape)] = a
    return Arrays(at, torch.Tensor if issubclass(kind, torch.Tensor) else kind, first.dim(), first.dtype)
