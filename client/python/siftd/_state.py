# SPDX-License-Identifier: Apache-2.0
"""What the states of both loaders have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from siftd import _structure
from siftd._info import Piece

# Arrays of BatchInfo, by row, with their types.
INFO_FIELDS: dict[str, Any] = {
    "ids": np.uint64,
    "scores": np.float32,
    "keep_probability": np.float32,
    "weights": np.float32,
    "percentile": np.float32,
    "model_version": np.int64,
    "staleness": np.int64,
    "unsifted": np.bool_,
    "epochs": np.int64,
}


def save_piece(
    key: tuple[Any, int], parts: list[tuple[_structure.Flat, dict[str, Any]]], pad: Mapping[str, float]
) -> dict[str, Any]:
    """Rows of one candidate batch as plain values and tensors of their own."""
    flat = _structure.concat([f for f, _ in parts], pad)
    return {
        "key": key,
        "rows": flat.rows,
        "spec": flat.spec,
        "tensors": {n: t.clone() for n, t in flat.tensors.items()},
        "listed": {n: list(v) for n, v in flat.listed.items()},
        "whole": dict(flat.whole),
        "info": {n: np.concatenate([i[n] for _, i in parts]).tolist() for n in INFO_FIELDS},
    }


def load_piece(saved: dict[str, Any]) -> Piece:
    flat = _structure.Flat(saved["spec"], saved["rows"], saved["tensors"], saved["listed"], saved["whole"])
    return Piece(saved["key"], flat, {n: np.asarray(v, INFO_FIELDS[n]) for n, v in saved["info"].items()})
