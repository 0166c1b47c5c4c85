# SPDX-License-Identifier: Apache-2.0
"""siftd.compat.smart_sifting: batches of any form are sifted by row and come back in that form."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from siftd._batches import structure
from siftd.compat.smart_sifting._adapter import Adapter, LazyBatch
from siftd.compat.smart_sifting.data_model.data_model_interface import SiftingBatch, SiftingBatchTransform
from siftd.compat.smart_sifting.data_model.list_batch import ListBatch
from siftd.compat.smart_sifting.data_model.tensor_batch import TensorBatch
from siftd.compat.smart_sifting.exceptions import UnsupportedDataFormatException

Pair = namedtuple("Pair", ["x", "y"])


def adapter(transforms: Any = None, index: int | None = None, size: int | None = 4, default: bool = False) -> Adapter:
    return Adapter(transforms, index, size, default)


def sift(adapter: Adapter, batches: Sequence[Any], kept: Sequence[Sequence[int]]) -> Any:
    """What the loop gets of the kept rows of several candidate batches."""
    pieces = []
    for batch, rows in zip(batches, kept, strict=True):
        flat = structure.flatten(adapter.take_apart(batch))
        pieces.append(flat.take(torch.tensor(rows, dtype=torch.int64)))
    assert adapter.form is not None
    whole = structure.concat(pieces, dict.fromkeys(adapter.form.padded, 0.0))
    return adapter.put_together(structure.rebuild(whole))


def same(a: Any, b: Any) -> bool:
    """Equal in types, too."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def rows(batch: Any, kept: Sequence[int]) -> Any:
    """The rows of a batch by feature."""
    if isinstance(batch, torch.Tensor | np.ndarray):
        return batch[list(kept)]
    if isinstance(batch, dict):
        return {k: rows(v, kept) for k, v in batch.items()}
    if hasattr(batch, "_fields"):
        return type(batch)(*(rows(v, kept) for v in batch))
    if isinstance(batch, list | tuple) and isinstance(batch[0], torch.Tensor | np.ndarray | list | tuple | dict):
        return type(batch)(rows(v, kept) for v in batch)
    return [batch[i] for i in kept]


x, y = torch.arange(8.0).view(4, 2), torch.arange(4)


# ------------------------------------------------------------ by feature
@pytest.mark.parametrize(
    "batch",
    [
        x,
        x.numpy(),
        [x, y],
        (x, y),
        [x, x + 1, y],
        Pair(x, y),
        {"x": x, "labels": y},
        {"x": {"a": x, "b": y}, "names": ["a", "b", "c", "d"]},
        [x.numpy(), y],
        [x, ["a", "b", "c", "d"]],
    ],
    ids=lambda b: type(b).__name__,
)
def test_batch_by_feature_comes_back_as_its_kept_rows(batch: Any) -> None:
    assert same(sift(adapter(), [batch], [[0, 2]]), rows(batch, [0, 2]))


@pytest.mark.parametrize(
    "batch",
    [
        {"ids": [[1, 2, 3], [4], [5, 6], []], "labels": [0, 1, 0, 1]},
        [[1.5, 2.0, 3.0, 0.1], [True, False, True, False], y],
        {"x": x, "score": [0.1, 0.2, 0.3, 0.4], "text": ["a", "b", "c", "d"]},
        {"x": [np.float32(0.1)] * 4, "y": [torch.tensor(i) for i in range(4)]},
    ],
)
def test_batch_of_lists_by_feature_comes_back_with_its_numbers_unchanged(batch: Any) -> None:
    got = sift(adapter(), [batch, batch], [[1], [0, 3]])
    items = batch.items() if isinstance(batch, dict) else enumerate(batch)
    for key, column in items:
        want = [column[i] for i in (1, 0, 3)]
        assert same(got[key], torch.stack(want) if isinstance(column, torch.Tensor) else want)
    assert type(got) is type(batch)


# ------------------------------------------------------------ by sample
@pytest.mark.parametrize(
    "samples",
    [
        [(torch.full((2, 3), float(i)), i) for i in range(4)],
        [(torch.full((i + 1,), i), f"row {i}") for i in range(4)],
        [{"x": torch.full((2,), float(i)), "y": i, "meta": {"name": f"{i}"}} for i in range(4)],
        [torch.full((i + 1, 2), float(i)) for i in range(4)],
        [[1, 2, 3], [4], [5, 6], []],
        [1, 2, 3, 4],
        [Pair(np.full(3, i), None) for i in range(4)],
        [(torch.tensor(i), [i, i]) for i in range(4)],
        [(i, i / 3) for i in range(4)],
        [[torch.tensor(i), torch.tensor(i + 1)] for i in range(4)],
        [([[1, 2], [3, 4]], (1, 2)) for _ in range(4)],
        [(np.int32(i), np.float64(i / 3), i % 2 == 0) for i in range(4)],
        [([0.5, i],) for i in (1.5, 2.5, 3.5, 4.5)],
        [(10**30 + i, torch.ones(1)) for i in range(4)],
    ],
)
@pytest.mark.parametrize("kind", [list, tuple])
def test_list_of_samples_comes_back_as_the_kept_ones(samples: list[Any], kind: type) -> None:
    more = samples[::-1]
    got = sift(adapter(), [kind(samples), kind(more)], [[0, 3], [1]])
    assert same(got, kind([samples[0], samples[3], more[1]]))


def test_list_of_samples_keeps_objects_that_no_tensor_can_hold() -> None:
    what = [object() for _ in range(4)]
    got = sift(adapter(), [[(torch.ones(2), o) for o in what]], [[1, 2]])
    assert [o for _, o in got] == what[1:3]


def test_loss_sees_none_where_an_entry_stays_in_the_trainer() -> None:
    a = adapter()
    base = a.take_apart([(torch.ones(2), f"row {i}") for i in range(4)])
    transformed, original = a.views(base)
    assert transformed is original
    assert [name for _, name in original] == [None] * 4
    assert same([t for t, _ in original], [torch.ones(2)] * 4)


def test_batches_of_another_form_than_the_first_are_refused() -> None:
    a = adapter()
    a.take_apart([(torch.ones(2), i) for i in range(4)])
    with pytest.raises(UnsupportedDataFormatException, match="another form"):
        a.take_apart([(torch.ones(2), 0.5) for _ in range(4)])


# ------------------------------------------------------------ which of the two
@pytest.mark.parametrize(
    ("batch", "by_sample"),
    [
        ([torch.ones(4, 3), torch.ones(4, 3)], False),  # two features of four rows
        ([torch.ones(7, 3) for _ in range(4)], True),  # four samples of seven
        ([torch.ones(4, 4), torch.ones(4)], False),
        ([torch.ones(3), torch.ones(3)], None),  # a first batch that is short either way
        ([torch.ones(4, 3) for _ in range(4)], None),
        ([(torch.ones(4), 0) for _ in range(4)], True),
        ([(torch.ones(4), torch.ones(4)) for _ in range(4)], None),
        ([(torch.ones(4), torch.tensor(0)) for _ in range(4)], True),
        ([[1, 2, 3] for _ in range(4)], True),
        ([[1, 2, 3, 4] for _ in range(4)], None),
    ],
)
def test_form_is_told_by_the_batch_size_or_asked_for(batch: Any, by_sample: bool | None) -> None:
    a = adapter()
    if by_sample is not None:
        a.take_apart(batch)
        assert (type(a.form).__name__ == "BySample") == by_sample
        return
    with pytest.raises(UnsupportedDataFormatException, match="Both dimension 0 and dimension 1 match batch size 4"):
        a.take_apart(batch)


def test_batch_format_index_decides_between_sample_and_feature() -> None:
    batch = [torch.arange(8.0).view(2, 4), torch.arange(8.0).view(2, 4) + 10]
    with pytest.raises(UnsupportedDataFormatException, match="batch_format_index=0"):
        adapter(size=2).take_apart(batch)
    assert same(sift(adapter(size=2, index=0), [batch], [[1]]), [batch[1]])
    assert same(sift(adapter(size=2, index=1), [batch], [[1]]), [batch[0][1:], batch[1][1:]])


def test_default_collate_makes_features() -> None:
    batch = default_collate([(torch.ones(2), torch.zeros(2))] * 2)
    assert same(sift(adapter(size=2, default=True), [batch], [[0]]), [torch.ones(1, 2), torch.zeros(1, 2)])


def test_tensor_by_feature_is_sifted_along_its_second_dimension() -> None:
    batch = torch.arange(24.0).view(6, 4)
    assert same(sift(adapter(), [batch], [[1, 3]]).contiguous(), batch[:, [1, 3]])
    square = torch.arange(16.0).view(4, 4)
    assert same(sift(adapter(), [square], [[1]]), square[1:2])
    assert same(sift(adapter(index=1), [square], [[1]]).contiguous(), square[:, 1:2].contiguous())


# ------------------------------------------------------------ SageMaker's four errors
class Custom:
    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (Custom(x, y), "Batches of type <class '.*Custom'> are not supported by default"),
        ("abcd", "Batches of type <class 'str'> are not supported by default"),
        ([], "Unable to index the batch of type <class 'list'>"),
        (torch.tensor(1.0), "Unable to index the batch of type <class 'torch.Tensor'>"),
        (["a", "b", "c", "d"], "Unable to index the batch of type <class 'list'>"),
        ({"text": ["a", "b", "c", "d"]}, "Unable to index the batch of type <class 'dict'>"),
        ([Custom(x, y)] * 4, "Unable to index the batch of type <class 'list'>"),
        ([torch.ones(5, 2), torch.ones(3)], "Batch size 4 does not match dimension 0 or dimension 1 sizes"),
        ({"a": torch.ones(5, 2), "b": torch.ones(3)}, "Batch size 4 does not match dimension 0 or dimension 1 sizes"),
        ([x, list(torch.ones(4, 4, 2))], "Both dimension 0 and dimension 1 match batch size"),
    ],
)
def test_what_can_not_be_sifted_is_refused_with_sagemakers_words_and_a_remedy(batch: Any, text: str) -> None:
    with pytest.raises(UnsupportedDataFormatException, match=text) as caught:
        adapter().take_apart(batch)
    assert "batch_transforms" in str(caught.value)


# ------------------------------------------------------------ transforms
class ListTransform(SiftingBatchTransform):
    """As in SageMaker's guide: rows as Python lists."""

    calls = 0

    def transform(self, batch: Any) -> ListBatch:
        type(self).calls += 1
        return ListBatch(batch[0].tolist(), batch[-1].tolist())

    def reverse_transform(self, sifting_batch: ListBatch) -> Any:
        longest = max(map(len, sifting_batch.inputs))
        padded = [r + [0] * (longest - len(r)) for r in sifting_batch.inputs]
        return {"ids": torch.tensor(padded), "labels": torch.tensor(sifting_batch.labels)}


class PairTransform(SiftingBatchTransform):
    def transform(self, batch: Any) -> ListBatch:
        return ListBatch([(batch[0][i], batch[1][i]) for i in range(len(batch[0]))], batch[2].tolist())

    def reverse_transform(self, sifting_batch: ListBatch) -> Any:
        ids, mask = zip(*sifting_batch.inputs, strict=True)
        return [torch.stack(ids), torch.stack(mask), torch.tensor(sifting_batch.labels)]


class CustomTransform(SiftingBatchTransform):
    def __init__(self, kind: type) -> None:
        self.kind = kind

    def transform(self, batch: Custom) -> SiftingBatch:
        if self.kind is TensorBatch:
            return TensorBatch(batch.x, batch.y)
        return ListBatch(list(batch.x), batch.y.tolist())

    def reverse_transform(self, sifting_batch: Any) -> Custom:
        if self.kind is TensorBatch:
            return Custom(sifting_batch.inputs, sifting_batch.labels)
        return Custom(torch.stack(sifting_batch.inputs), torch.tensor(sifting_batch.labels))


def test_transform_makes_the_batch_that_the_loop_gets() -> None:
    batch = [torch.arange(8).view(4, 2), y]
    got = sift(adapter(ListTransform()), [batch], [[0, 3]])
    assert same(got, {"ids": batch[0][[0, 3]], "labels": y[[0, 3]]})
    three = [x.long(), torch.ones(4, 2), y]
    assert same(sift(adapter(PairTransform()), [three], [[1, 2]]), [t[1:3] for t in three])


def test_transform_runs_only_where_the_loss_looks_at_its_result() -> None:
    a = adapter(ListTransform())
    ListTransform.calls = 0
    base = a.take_apart([torch.arange(8).view(4, 2), y])
    transformed, original = a.views(base)
    assert same(original, [torch.arange(8).view(4, 2), y])
    assert ListTransform.calls == 0
    assert transformed.labels == [0, 1, 2, 3]
    assert len(transformed) == 4
    assert isinstance(transformed, ListBatch)
    assert ListTransform.calls == 1


def test_transform_sees_each_row_as_wide_as_its_own_batch_was() -> None:
    wide, narrow = [torch.arange(1, 13).view(4, 3), y], [torch.arange(1, 9).view(4, 2), y]
    got = sift(adapter(ListTransform()), [wide, narrow], [[0], [1, 2]])
    assert got["ids"].tolist() == [[1, 2, 3], [3, 4, 0], [5, 6, 0]]
    got = sift(adapter(ListTransform()), [narrow, wide, narrow], [[0], [], [1, 2]])
    assert got["ids"].tolist() == [[1, 2], [3, 4], [5, 6]]
    with pytest.raises(UnsupportedDataFormatException, match="different sizes from batch to batch"):
        sift(adapter(_TensorTransform()), [wide, narrow], [[0], [1, 2]])


class _TensorTransform(SiftingBatchTransform):
    def transform(self, batch: Any) -> TensorBatch:
        return TensorBatch(batch[0], batch[-1])

    def reverse_transform(self, sifting_batch: TensorBatch) -> Any:
        return [sifting_batch.inputs, sifting_batch.labels]


@pytest.mark.parametrize("kind", [ListBatch, TensorBatch])
def test_transform_makes_batches_of_any_class_siftable(kind: type) -> None:
    a = adapter(CustomTransform(kind))
    got = sift(a, [Custom(x, y), Custom(x + 8, y)], [[0, 2], [3]])
    assert isinstance(got, Custom)
    assert same(got.x, torch.cat([x[[0, 2]], x[3:] + 8]))
    assert same(got.y, torch.tensor([0, 2, 3]))
    transformed, original = a.views(a.take_apart(Custom(x, y)))
    assert type(transformed) is kind
    assert same(original.x, x)


def test_transform_of_another_type_is_refused() -> None:
    class Wrong(CustomTransform):
        def transform(self, batch: Any) -> Any:
            return (batch.x, batch.y)

    with pytest.raises(UnsupportedDataFormatException, match="ListBatch or a TensorBatch"):
        adapter(Wrong(ListBatch)).take_apart(Custom(x, y))


# ------------------------------------------------------------ the data model
def test_list_batch_is_indexed_by_sample_and_iterated_by_tensor() -> None:
    batch = ListBatch([([1, 2], torch.ones(3)), ([3, 4], torch.zeros(3))], [0, 1])
    assert len(batch) == 2
    assert batch[1][0][0] == [3, 4]
    assert batch[1][1] == 1
    assert len(batch[:1]) == 1
    assert [list(t.shape) for t in batch] == [[2, 2], [2, 3], [2]]
    assert [t.tolist() for t in ListBatch([[1], [2]])] == [[[1], [2]]]
    with pytest.raises(UnsupportedDataFormatException, match="2 inputs and 1 labels"):
        ListBatch([1, 2], [1])


def test_tensor_batch_is_indexed_by_sample_and_iterated_by_tensor() -> None:
    batch = TensorBatch((x, x + 1), y)
    assert len(batch) == 4
    assert same(batch[1], ((x[1], x[1] + 1), y[1]))
    assert same(batch[1:3].labels, y[1:3])
    assert [t.to("cpu").shape[0] for t in batch] == [4, 4, 4]
    with pytest.raises(UnsupportedDataFormatException, match="first sizes"):
        TensorBatch(x, y[:3])
    with pytest.raises(UnsupportedDataFormatException, match="ListBatch"):
        TensorBatch([1, 2], y)


def test_lazy_batch_is_made_once() -> None:
    made: list[int] = []

    def make() -> ListBatch:
        made.append(1)
        return ListBatch([1, 2], [3, 4])

    batch = LazyBatch(make)
    assert not made
    assert batch.inputs == [1, 2]
    assert batch[0] == (1, 3)
    assert [t.tolist() for t in batch] == [[1, 2], [3, 4]]
    assert made == [1]
