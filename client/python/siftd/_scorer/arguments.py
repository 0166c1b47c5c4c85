# SPDX-License-Identifier: Apache-2.0
"""How the fields of a batch become a model's arguments and a loss's targets, both in the user's own structure."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from siftd._batches import structure
from siftd.errors import ConfigError

TARGET_NAMES = frozenset({"label", "labels", "label_ids", "target", "targets", "y", "start_positions", "end_positions"})
# Never taken for the target of a dict that names none.
_INPUT_NAMES = frozenset(
    ("attention_mask", "decoder_input_ids", "idx", "index", "indices", "input_ids", "inputs_embeds", "input_values")
    + ("pixel_values", "position_ids", "token_type_ids", "x")
)


def split_fields(flat: structure.Flat, targets: Sequence[str] | None = None) -> tuple[list[str], list[str]]:
    """Names of the inputs and the targets of a batch.

    Targets are the fields called label(s), label_ids, target(s), y, start_positions or end_positions; where there are
    none, the last item of a dict. Of a tuple, where none are in other items, the last item with all that is in it.
    """
    names = list(flat.tensors)
    if targets is not None:
        by_target = {t: [n for n in names if n == t or n.startswith(f"{t}.")] for t in targets}
        missing = [t for t, found in by_target.items() if not found]
        if missing:
            raise ConfigError("targets", missing, f"fields of the batch: {', '.join(names)}")
        chosen = [n for found in by_target.values() for n in found]
    else:
        named = [n for n in names if n.rsplit(".", 1)[-1] in TARGET_NAMES]
        last = _last_item(flat)
        chosen = last if not named or (set(named) <= set(last) and isinstance(flat.spec[1], list)) else named
    return [n for n in names if n not in chosen], chosen


def _last_item(flat: structure.Flat) -> list[str]:
    if isinstance(flat.spec, structure._Leaf):
        return []
    children = flat.spec[1]
    items = list(children.items()) if isinstance(children, dict) else list(enumerate(children))
    with_rows = [(key, found) for key, v in items if (found := [n for n in _names(v) if n in flat.tensors])]
    if len(with_rows) < 2 or with_rows[-1][0] in _INPUT_NAMES:
        return []
    return with_rows[-1][1]


Style = Literal["positional", "keywords", "mapping"]
_DESCRIBED = {"positional": "model(*items)", "keywords": "model(**fields)", "mapping": "model(fields)"}


@dataclass(frozen=True)
class Arguments:
    """One way to call a model with a batch.

    Attributes:
      flat: the example batch; anything in it that is no row field is handed on from there.
      inputs, targets: names of the fields.
      style: how the items are given to the model.
      left_out: keys (numbers where items are positional) that its forward does not take.
      dtype: floating-point inputs become this type first; None: left alone.
    """

    flat: structure.Flat
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    style: Style = "positional"
    left_out: frozenset[Any] = frozenset()
    dtype: torch.dtype | None = None

    def __str__(self) -> str:
        cast = f" with {str(self.dtype).removeprefix('torch.')} inputs" if self.dtype else ""
        return _DESCRIBED[self.style] + cast

    @property
    def used(self) -> tuple[str, ...]:
        """Names of the fields that the model gets, then the targets."""
        inside = {n for item in self._items().values() for n in _names(item)}
        return tuple(n for n in self.inputs if n in inside) + self.targets

    def call(self, model: nn.Module, fields: Mapping[str, torch.Tensor]) -> Any:
        if self.dtype is not None:
            fields = {n: t.to(self.dtype) if t.is_floating_point() else t for n, t in fields.items()}
        items = self._items()
        if self.style == "mapping":
            return model(self._build((self._mapping()[0], items), fields))
        values = {key: self._build(spec, fields) for key, spec in items.items()}
        return model(**values) if self.style == "keywords" else model(*values.values())

    def target_values(self, fields: Mapping[str, torch.Tensor]) -> tuple[Any, ...]:
        """The loss's arguments after the output: each topmost part of the batch that holds nothing but targets."""
        parts = sorted(_parts(self.flat.spec, set(self.targets)), key=lambda p: self.targets.index(_names(p)[0]))
        return tuple(self._build(part, fields) for part in parts)

    def batch(self, fields: Mapping[str, torch.Tensor]) -> Any:
        """The whole batch as the user gave it."""
        return self._build(self.flat.spec, fields)

    def ways(self, model: nn.Module) -> Iterator[Arguments]:
        """The ways to call this model, most likely first."""
        if self._mapping() is None:
            items = list(self._items())
            yield replace(self, left_out=frozenset(items[_most_items(model) :]))
            return
        by_name = replace(self, style="keywords")
        keys = list(by_name._items())
        by_name = replace(by_name, left_out=frozenset(_unknown(model, keys)))
        ways = [by_name, replace(self, style="mapping")]
        yield from ways if _can_be_called(model, list(by_name._items())) else reversed(ways)

    def without(self, error: Exception) -> Arguments | None:
        """This way less the key that `error`, a TypeError of the call, says is not taken; None where it says none."""
        match = re.search(r"unexpected keyword argument '([^']+)'", str(error))
        if self.style != "keywords" or not isinstance(error, TypeError) or match is None:
            return None
        items = self._items()
        if match.group(1) not in items or len(items) == 1:
            return None
        return replace(self, left_out=self.left_out | {match.group(1)})

    def _items(self) -> dict[Any, Any]:
        """Specs of what the model gets, by their keys or positions."""
        spec = self._mapping() if self.style != "positional" else self.flat.spec
        if isinstance(spec, structure._Leaf):
            return {0: spec}
        children = spec[1]
        keyed = children.items() if isinstance(children, dict) else enumerate(children)
        keep, drop = set(self.inputs), set(self.targets)
        return {k: _pruned(v, drop) for k, v in keyed if k not in self.left_out and _holds(v, keep)}

    def _mapping(self) -> Any:
        """Spec of the one mapping that holds all inputs: the batch, or the only item of a tuple besides the targets."""
        spec = self.flat.spec
        if isinstance(spec, structure._Leaf):
            return None
        if isinstance(spec[1], dict):
            return spec
        items = [v for v in spec[1] if _holds(v, set(self.inputs))]
        if len(items) == 1 and not isinstance(items[0], structure._Leaf) and isinstance(items[0][1], dict):
            return items[0]
        return None

    def _build(self, spec: Any, fields: Mapping[str, torch.Tensor]) -> Any:
        device = next(iter(fields.values())).device
        whole = {n: v.to(device) if isinstance(v, torch.Tensor) else v for n, v in self.flat.whole.items()}
        return structure.build(spec, replace(self.flat, tensors=dict(fields), whole=whole), arrays=False)


def _parameters(model: nn.Module) -> list[inspect.Parameter] | None:
    """Of its forward; None where they can't be told."""
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return None


def _most_items(model: nn.Module) -> int:
    parameters = _parameters(model)
    if parameters is None or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return sys.maxsize
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _unknown(model: nn.Module, keys: list[Any]) -> list[Any]:
    """Those keys that its forward takes under no name."""
    parameters = _parameters(model)
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters):
        return []
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return [k for k in keys if k not in named]


def _can_be_called(model: nn.Module, keys: list[Any]) -> bool:
    """Its forward takes these keywords, and needs no more."""
    if not keys or not all(isinstance(k, str) for k in keys):
        return False
    try:
        inspect.signature(model.forward).bind(**dict.fromkeys(keys))
    except (TypeError, ValueError):
        return False
    return True


def _children(spec: Any) -> list[Any]:
    if isinstance(spec, structure._Leaf):
        return []
    return list(spec[1].values()) if isinstance(spec[1], dict) else list(spec[1])


def _names(spec: Any) -> list[str]:
    if isinstance(spec, structure._Leaf):
        return [spec.name]
    return [n for child in _children(spec) for n in _names(child)]


def _holds(spec: Any, names: set[str]) -> bool:
    return any(n in names for n in _names(spec))


def _parts(spec: Any, targets: set[str]) -> list[Any]:
    """The topmost parts that hold targets and no other fields."""
    names = _names(spec)
    if names and all(n in targets for n in names):
        return [spec]
    return [part for child in _children(spec) for part in _parts(child, targets)]


def _pruned(spec: Any, drop: set[str]) -> Any:
    """Less the parts that hold nothing but fields to drop."""
    if isinstance(spec, structure._Leaf) or not _holds(spec, drop):
        return spec
    kind, children = spec

    def stays(child: Any) -> bool:
        names = _names(child)
        return not names or not all(n in drop for n in names)

    if isinstance(children, dict):
        return (kind, {k: _pruned(v, drop) for k, v in children.items() if stays(v)})
    # A namedtuple with fewer items is a plain tuple.
    return (tuple if hasattr(kind, "_fields") else kind, [_pruned(v, drop) for v in children if stays(v)])
