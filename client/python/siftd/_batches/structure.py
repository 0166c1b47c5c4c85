# SPDX-License-Identifier: Apache-2.0
"""A user's batch (tensor, tuple, list, dict, nested) as named row fields, and back.

Row fields are tensors or arrays whose first size is the batch's. Strings, lists of plain values and scalars stay
local: a list with one entry per row is indexed like the tensors, anything else is handed on as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from siftd.errors import StructureError

_PLAIN = (str, bytes, int, float, bool, type(None), np.generic)


Pad = Mapping[str, float | tuple[float, str]]  # by field: the value, or (value, "left")


@dataclass(frozen=True)
class _Leaf:
    name: str
    array: bool = False  # the user gave a NumPy array


@dataclass
class Flat:
    """One batch, taken apart. `rows`: n. `tensors`: name -> [n, ...]. `listed`: name -> sequence of length n."""

    spec: Any
    rows: int
    tensors: dict[str, torch.Tensor]
    listed: dict[str, Sequence[Any]]
    whole: dict[str, Any]  # not by row
    _arrays: dict[str, np.ndarray[Any, Any]] | None = field(default=None, repr=False, compare=False)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The tensors' memory, of those that `as_array` takes."""
        if self._arrays is None:
            found = {name: as_array(t) for name, t in self.tensors.items()}
            self._arrays = {name: a for name, a in found.items() if a is not None}
        return self._arrays

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arrays": None}

    def take(self, kept: torch.Tensor | None) -> Flat:
        """The rows `kept` (int64 [k], ascending); None = all, without a copy."""
        if kept is None:
            return self
        picked = kept.tolist() if self.listed else []
        return Flat(
            self.spec,
            len(kept),
            {name: t.index_select(0, kept) for name, t in self.tensors.items()},
            {name: [values[i] for i in picked] for name, values in self.listed.items()},
            self.whole,
        )

    def slice(self, begin: int, end: int) -> Flat:
        if begin == 0 and end == self.rows:
            return self
        return Flat(
            self.spec,
            end - begin,
            {name: t[begin:end] for name, t in self.tensors.items()},
            {name: values[begin:end] for name, values in self.listed.items()},
            self.whole,
        )


def as_array(tensor: torch.Tensor) -> np.ndarray[Any, Any] | None:
    """The memory of a plain, contiguous CPU tensor; bfloat16 as int16. None: it is another kind of tensor."""
    if type(tensor) is not torch.Tensor or tensor.requires_grad or not tensor.is_contiguous():
        return None
    try:
        if tensor.dtype is torch.bfloat16:
            tensor = tensor.view(torch.int16)
        array: np.ndarray[Any, Any] = tensor.numpy()
    except (TypeError, RuntimeError):  # of another device, sparse, conjugated, without NumPy's type
        return None
    return array


def flatten(batch: Any) -> Flat:
    """Takes a batch apart. Raises StructureError when no tensor tells the number of rows."""
    plain = _plain_tensors(batch)
    if plain is not None:
        return plain
    leaves: dict[str, Any] = {}
    spec = _walk(batch, "", leaves)
    tensors = {n: v for n, v in leaves.items() if isinstance(v, torch.Tensor)}
    rows = next((len(t) for t in tensors.values() if t.dim() > 0), None)
    if rows is None:
        raise StructureError(
            f"a batch of type {type(batch).__name__} holds no tensor with a batch dimension; let the collate_fn make "
            "tensors of at least the model's inputs"
        )
    flat = Flat(spec, rows, {}, {}, {})
    for name, value in leaves.items():
        if isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == rows:
            flat.tensors[name] = value
        elif isinstance(value, list | tuple) and len(value) == rows:
            flat.listed[name] = value
        else:
            flat.whole[name] = value
    return flat


_NUMBERED = tuple(_Leaf(str(i)) for i in range(16))


def _plain_tensors(batch: Any) -> Flat | None:
    """The usual batch, a tuple or list of row tensors: what `flatten` finds, without the walk."""
    kind = type(batch)
    if (kind is not tuple and kind is not list) or not 0 < len(batch) <= len(_NUMBERED):
        return None
    rows, tensors = None, {}
    for leaf, value in zip(_NUMBERED, batch, strict=False):
        if type(value) is not torch.Tensor or value.dim() == 0:
            return None
        if rows is None:
            rows = len(value)
        elif len(value) != rows:
            return None
        tensors[leaf.name] = value
    return Flat((kind, list(_NUMBERED[: len(batch)])), rows or 0, tensors, {}, {})


def _walk(value: Any, path: str, leaves: dict[str, Any]) -> Any:
    name = path or "0"
    if name in leaves:
        raise StructureError(f"two parts of the batch would both be called '{name}'; rename a key of them")
    if isinstance(value, torch.Tensor):
        leaves[name] = value
        return _Leaf(name)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        leaves[name] = torch.from_numpy(np.ascontiguousarray(value))
        return _Leaf(name, array=True)
    if isinstance(value, Mapping):
        children = {k: _walk(v, _join(path, str(k)), leaves) for k, v in value.items()}
        return (type(value), children)
    if isinstance(value, list | tuple) and not all(isinstance(v, _PLAIN) for v in value):
        return (type(value), [_walk(v, _join(path, str(i)), leaves) for i, v in enumerate(value)])
    leaves[name] = value
    return _Leaf(name)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def spec_of(names: Sequence[str]) -> Any:
    """The structure of a batch that came over the wire: a tuple where the fields are numbered, else a dict."""
    if len(names) == 1 and names[0] == "0":
        return _Leaf("0")
    if all(n.isdigit() for n in names):
        return (tuple, [_Leaf(n) for n in names])
    return (dict, {n: _Leaf(n) for n in names})


def rebuild(flat: Flat) -> Any:
    """The batch in the user's own structure."""
    return build(flat.spec, flat)


def hand_out(flat: Flat, device: torch.device | str | None, pin_memory: bool) -> Any:
    """The batch as the user asked for it."""
    if pin_memory:
        flat.tensors = {n: t.pin_memory() for n, t in flat.tensors.items()}
    if device is not None:
        flat.tensors = {n: t.to(device, non_blocking=True) for n, t in flat.tensors.items()}
    return rebuild(flat)


def build(spec: Any, flat: Flat, arrays: bool = True) -> Any:
    """A part of the batch, given by its spec. `arrays`: False = tensors also where the user has NumPy arrays."""
    if isinstance(spec, _Leaf):
        if spec.name in flat.tensors:
            tensor = flat.tensors[spec.name]
            return tensor.numpy() if spec.array and arrays else tensor
        return flat.listed[spec.name] if spec.name in flat.listed else flat.whole[spec.name]
    kind, children = spec
    if isinstance(children, dict):
        built = {k: build(v, flat, arrays) for k, v in children.items()}
        if kind is dict:
            return built
        try:
            return kind(built)
        except TypeError:
            return built
    items = [build(v, flat, arrays) for v in children]
    if hasattr(kind, "_fields"):  # a namedtuple
        return kind(*items)
    return kind(items)


def concat(pieces: Sequence[Flat], pad: Pad | None = None) -> Flat:
    """One batch of several pieces' rows. Fields with different trailing sizes are padded.

    Args:
      pad: by field name, the fill value, or (value, "left") to fill before the rows' own. Raises StructureError that
        names the field when one is missing.
    """
    if len(pieces) == 1:
        return pieces[0]
    first = pieces[0]
    tensors = {}
    for name in first.tensors:
        parts = [piece.tensors[name] for piece in pieces]
        if any(p.shape[1:] != parts[0].shape[1:] for p in parts):
            parts = _padded(name, parts, pad or {})
        tensors[name] = torch.cat(parts)
    listed: dict[str, Sequence[Any]] = {
        name: [v for piece in pieces for v in piece.listed[name]] for name in first.listed
    }
    return Flat(first.spec, sum(p.rows for p in pieces), tensors, listed, first.whole)


def _padded(name: str, parts: list[torch.Tensor], pad: Pad) -> list[torch.Tensor]:
    if any(p.dim() != parts[0].dim() for p in parts):
        raise StructureError(f"field '{name}' has a different number of dimensions from batch to batch")
    if name not in pad:
        shapes = sorted({tuple(p.shape[1:]) for p in parts})
        raise StructureError(
            f"field '{name}' has rows of different shapes {shapes}, and no value to pad it with is known; give "
            f"pad={{'{name}': VALUE}} with the value that your collate_fn pads with (often 0, labels -100)"
        )
    how = pad[name]
    value, left = (how[0], how[1] == "left") if isinstance(how, tuple) else (how, False)
    sizes = [max(p.shape[d] for p in parts) for d in range(1, parts[0].dim())]
    out = []
    for part in parts:
        if list(part.shape[1:]) != sizes:
            full = part.new_full((len(part), *sizes), value)
            cut = (
                slice(size - n, size) if left else slice(0, n) for n, size in zip(part.shape[1:], sizes, strict=True)
            )
            full[(slice(None), *cut)] = part
            part = full
        out.append(part)
    return out


# What the collators of transformers pad with; anything else is asked for.
_USUAL_PAD = {
    "attention_mask": 0.0,
    "token_type_ids": 0.0,
    "special_tokens_mask": 1.0,
    "labels": -100.0,
    "label": -100.0,
}


def infer_pad(collate_fn: Any) -> dict[str, float | tuple[float, str]]:
    """Padding that a collator tells of itself (a tokenizer's pad_token_id and padding_side, label_pad_token_id)."""
    tokenizer = getattr(collate_fn, "tokenizer", None)
    if tokenizer is None:
        return {}
    pad = dict(_USUAL_PAD)
    if getattr(tokenizer, "pad_token_id", None) is not None:
        pad["input_ids"] = float(tokenizer.pad_token_id)
    if hasattr(tokenizer, "pad_token_type_id"):
        pad["token_type_ids"] = float(tokenizer.pad_token_type_id)
    if hasattr(collate_fn, "label_pad_token_id"):
        pad["labels"] = float(collate_fn.label_pad_token_id)
    if getattr(tokenizer, "padding_side", "right") == "left":
        return {name: (value, "left") for name, value in pad.items()}
    return dict(pad)
