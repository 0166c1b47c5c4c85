# SPDX-License-Identifier: Apache-2.0
"""What the states of both loaders have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from siftd._batches import structure
from siftd._batches.info import BatchInfo
from siftd._batches.piece import Piece
from siftd._batches.row_info import INFO_FIELDS
from siftd.errors import StateError


def save_piece(
    key: tuple[Any, int], parts: list[tuple[structure.Flat, Mapping[str, Any]]], pad: structure.Pad
) -> dict[str, Any]:
    """Rows of one candidate batch, as torch.load(weights_only=True) takes them: plain values, tensors of their own."""
    flat = structure.concat([f for f, _ in parts], pad)
    return {
        "key": key,
        "rows": flat.rows,
        "spec": _plain_spec(flat.spec),
        "tensors": {n: t.clone() for n, t in flat.tensors.items()},
        "listed": {n: list(v) for n, v in flat.listed.items()},
        "whole": dict(flat.whole),
        "info": {n: np.concatenate([i[n] for _, i in parts]).tolist() for n in INFO_FIELDS},
    }


class PieceParts:
    """Rows of candidate batches, gathered from where they wait, oldest first."""

    def __init__(self) -> None:
        self._parts: dict[tuple[Any, int], list[tuple[structure.Flat, Mapping[str, Any]]]] = {}

    def add(self, key: tuple[Any, int], flat: structure.Flat, info: Mapping[str, Any]) -> None:
        self._parts.setdefault(key, []).append((flat, info))

    def add_batch(self, flat: structure.Flat, info: BatchInfo, wanted: Callable[[tuple[Any, int]], bool]) -> None:
        """The rows of an assembled batch whose key is wanted, as known before it was handed out."""
        at = 0
        known: dict[str, Any] = {}
        for where, seq, rows in info.keys:
            if wanted((where, seq)):
                known = known or {n: np.concatenate([span[n] for span in info.spans]) for n in INFO_FIELDS}
                cut = {n: column[at : at + rows] for n, column in known.items()}
                self.add((where, seq), flat.slice(at, at + rows), cut)
            at += rows

    def saved(self, pad: structure.Pad) -> list[dict[str, Any]]:
        return [save_piece(key, pieces, pad) for key, pieces in self._parts.items()]


def load_piece(saved: dict[str, Any]) -> Piece:
    flat = structure.Flat(_spec(saved["spec"]), saved["rows"], saved["tensors"], saved["listed"], saved["whole"])
    return Piece(saved["key"], flat, {n: np.asarray(v, INFO_FIELDS[n]) for n, v in saved["info"].items()})


def _plain_spec(spec: Any) -> dict[str, Any]:
    """A batch's structure as plain values; classes by their name."""
    if isinstance(spec, structure._Leaf):
        return {"leaf": spec.name, "array": spec.array}
    kind, children = spec
    name = f"{kind.__module__}:{kind.__qualname__}"
    if isinstance(children, dict):
        return {"kind": name, "items": [[key, _plain_spec(child)] for key, child in children.items()]}
    return {"kind": name, "children": [_plain_spec(child) for child in children]}


def _spec(plain: dict[str, Any]) -> Any:
    if "leaf" in plain:
        return structure._Leaf(plain["leaf"], plain["array"])
    kind = _class_called(plain["kind"])
    if "items" in plain:
        return kind, {key: _spec(child) for key, child in plain["items"]}
    return kind, [_spec(child) for child in plain["children"]]


def _class_called(name: str) -> Any:
    """Of what is imported already: loading a state runs no code."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise StateError(f"the state's batches are of class {path}, and {module} does not have it; import it first")
    return found
