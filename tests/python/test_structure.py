# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from siftd._batches import structure
from siftd.errors import StructureError


class Pair(NamedTuple):
    image: torch.Tensor
    label: torch.Tensor


X, Y = torch.arange(12.0).reshape(6, 2), torch.arange(6)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b)
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


BATCHES = [
    X,
    (X, Y),
    [X, Y],
    {"x": X, "y": Y},
    Pair(X, Y),
    {"in": {"a": X, "b": [X, X + 1]}, "y": Y, "names": list("abcdef"), "epoch": 3, "note": "all"},
    (X, np.arange(6)),
]


@pytest.mark.parametrize("batch", BATCHES, ids=lambda b: type(b).__name__)
def test_a_batch_comes_back_in_its_own_structure(batch: Any) -> None:
    assert same(structure.rebuild(structure.flatten(batch)), batch)


@pytest.mark.parametrize("batch", BATCHES, ids=lambda b: type(b).__name__)
def test_rows_are_taken_from_every_field(batch: Any) -> None:
    flat = structure.flatten(batch)
    assert flat.rows == 6
    kept = torch.tensor([1, 4])
    taken = structure.flatten(structure.rebuild(flat.take(kept)))
    for name, tensor in flat.tensors.items():
        assert torch.equal(taken.tensors[name], tensor[kept])
    for name, values in flat.listed.items():
        assert list(taken.listed[name]) == [values[1], values[4]]
    for name, value in flat.whole.items():
        assert taken.whole[name] == value


def test_pieces_join_and_slice() -> None:
    flat = structure.flatten({"x": X, "names": list("abcdef")})
    joined = structure.concat([flat.slice(0, 2), flat.slice(2, 6)])
    assert torch.equal(joined.tensors["x"], X)
    assert list(joined.listed["names"]) == list("abcdef")
    assert flat.slice(0, 6) is flat, "no copy of a whole batch"
    assert flat.take(None) is flat


def test_rows_of_other_lengths_are_padded_with_the_fields_own_value() -> None:
    a = structure.flatten({"ids": torch.ones(2, 3, dtype=torch.long)})
    b = structure.flatten({"ids": torch.ones(1, 5, dtype=torch.long)})
    out = structure.concat([a, b], {"ids": -7}).tensors["ids"]
    assert out.tolist() == [[1, 1, 1, -7, -7], [1, 1, 1, -7, -7], [1, 1, 1, 1, 1]]
    with pytest.raises(StructureError, match=r"field 'ids'.*pad=\{'ids': VALUE\}"):
        structure.concat([a, b])


def test_a_batch_without_rows_is_refused() -> None:
    with pytest.raises(StructureError, match="collate_fn"):
        structure.flatten({"names": ["a", "b"]})


def test_a_collators_padding_is_inferred() -> None:
    class Tokenizer:
        pad_token_id, pad_token_type_id = 9, 2

    class Collator:
        tokenizer, label_pad_token_id = Tokenizer(), -1

    pad = structure.infer_pad(Collator())
    assert (pad["input_ids"], pad["token_type_ids"], pad["labels"], pad["attention_mask"]) == (9, 2, -1, 0)
    assert structure.infer_pad(None) == {}


def test_left_padding_stays_on_the_left() -> None:
    """As a tokenizer with padding_side="left" pads: for models that generate."""

    class Tokenizer:
        pad_token_id, padding_side = 9, "left"

    class Collator:
        tokenizer = Tokenizer()

    pad = structure.infer_pad(Collator())
    short = structure.flatten({"input_ids": torch.tensor([[9, 1]]), "attention_mask": torch.tensor([[0, 1]])})
    long = structure.flatten({"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.tensor([[1, 1, 1]])})
    both = structure.rebuild(structure.concat([short, long], pad))
    assert both["input_ids"].tolist() == [[9, 9, 1], [1, 2, 3]]
    assert both["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
