# SPDX-License-Identifier: Apache-2.0
"""Rows in a checkpoint: plain values only, so that torch.load's safe mode takes a state."""

from __future__ import annotations

import io
from collections import UserDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from siftd._batches import structure
from siftd._batches.row_info import RowInfo
from siftd._batches.state import load_piece, save_piece
from siftd.errors import StateError


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


class Batch(UserDict[str, Any]):
    """As transformers' BatchEncoding: a mapping of a class of its own."""


X, Y = torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 2])
BATCHES = {
    "tensor": X,
    "tuple": (X, Y),
    "list": [X, [Y, "kept as it is"]],
    "dict": {"x": X, "words": ["a", "b", "c"], "array": np.arange(3)},
    "namedtuple": Pair(X, Y),
    "a class": Batch(x=X, y=Y),
}


@pytest.mark.parametrize("name", BATCHES)
def test_saved_rows_load_without_running_code(name: str) -> None:
    flat = structure.flatten(BATCHES[name])
    info = RowInfo(range(3), None, None, 4)
    file = io.BytesIO()
    torch.save(save_piece((2, 7), [(flat, info)], {}), file)
    file.seek(0)
    piece = load_piece(torch.load(file, weights_only=True))
    assert piece.key == (2, 7)
    again = structure.rebuild(piece.flat)
    assert type(again) is type(BATCHES[name])
    assert str(again) == str(BATCHES[name])
    assert piece.info["epochs"].tolist() == [4, 4, 4]


def test_a_class_that_is_gone_is_named() -> None:
    saved = save_piece((0, 0), [(structure.flatten(Pair(X, Y)), RowInfo(range(3), None, None, 0))], {})
    saved["spec"]["kind"] = f"{__name__}:Renamed"
    with pytest.raises(StateError, match="class Renamed"):
        load_piece(saved)
