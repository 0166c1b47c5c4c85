# SPDX-License-Identifier: Apache-2.0
"""siftd.compat.smart_sifting's SiftingDataloader at work: local workers, a pool, inline, two ranks."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import siftd
from siftd.compat.smart_sifting.data_model.data_model_interface import SiftingBatchTransform
from siftd.compat.smart_sifting.data_model.list_batch import ListBatch
from siftd.compat.smart_sifting.data_model.tensor_batch import TensorBatch
from siftd.compat.smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from siftd.compat.smart_sifting.loss.abstract_sift_loss_module import Loss
from siftd.compat.smart_sifting.sift_config.sift_configs import RelativeProbabilisticSiftConfig
from support import ROOT, Rows, Worker

LOGGER = "siftd.compat.smart_sifting"


class FirstLoss(Loss):
    """Of a batch by feature; [n, 1] as some losses give it."""

    def loss(self, model: Any, transformed_batch: Any, original_batch: Any = None) -> torch.Tensor:
        device = next(model.parameters()).device
        batch = [t.to(device) for t in original_batch]
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none").unsqueeze(1)


def config(beta: float = 1, delay: int = 0) -> RelativeProbabilisticSiftConfig:
    return RelativeProbabilisticSiftConfig(
        beta_value=beta,
        loss_history_length=500,
        loss_based_sift_config={"sift_config": {"sift_delay": delay}},  # type: ignore[arg-type]
    )


@pytest.fixture
def rows() -> Rows:
    return Rows(1000)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(5)
    return nn.Linear(8, 5)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIFTD_WORKERS", raising=False)
    monkeypatch.delenv("SIFTD_INLINE", raising=False)


def shares(stats: siftd.Stats) -> tuple[float, int]:
    """(share kept, number) of the candidates that the policy decided."""
    sifted = stats.decided - stats.unsifted
    return (stats.kept - stats.unsifted) / sifted, sifted


def within_three_sigma(stats: siftd.Stats, beta: float) -> bool:
    share, n = shares(stats)
    p = 1 / (1 + beta)
    return abs(share - p) <= 3 * math.sqrt(p * (1 - p) / n)


# ------------------------------------------------------------ a batch of the default collate, wherever it is scored
def all_decided(pool: list[Worker]) -> bool:
    return all(int(w.status()["decided_batches"]) > 0 for w in pool)


@pytest.mark.parametrize("where", ["local workers", "a pool", "inline"])
def test_kept_rows_are_the_datas_own_and_their_share_is_beta(
    where: str, rows: Rows, model: nn.Module, pool: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "a pool":
        monkeypatch.setenv("SIFTD_WORKERS", ",".join(w.endpoint for w in pool))
    elif where == "inline":
        monkeypatch.setenv("SIFTD_INLINE", "1")
    with SiftingDataloader(config(), DataLoader(rows, 20, shuffle=True), FirstLoss(), model, seed=3) as loader:
        passes = 0
        while passes < 3 or (where == "a pool" and passes < 300 and not all_decided(pool)):
            passes += 1  # weights do not change, so that losses do not drift
            seen: list[int] = []
            for batch in loader:
                assert type(batch) is list
                x, y = batch
                ids = loader.last_batch_info.ids.astype(int)
                assert torch.equal(x, rows.x[ids]) and torch.equal(y, rows.y[ids])
                seen += ids.tolist()
            assert len(seen) == len(set(seen))
        stats = loader.stats()
        assert stats.decided == 1000 * passes
        assert within_three_sigma(stats, 1)
        assert stats.model_versions > 1, "weights follow without a step() in the loop"
        assert where != "a pool" or all_decided(pool), "one that takes the first weights later joins in"


def test_sift_delay_counts_training_steps(rows: Rows, model: nn.Module) -> None:
    loader = SiftingDataloader(config(delay=5), DataLoader(rows, 20), FirstLoss(), model, workers="inline")
    probabilities = [loader.last_batch_info.keep_probability.copy() for _ in loader]
    # The batches of the first five steps were whole candidates; a few more may have been scored by then.
    assert all((p == 1).all() for p in probabilities[:5])
    assert any((p < 1).any() for p in probabilities[5:])


# ------------------------------------------------------------ other forms of batches
class SampleLoss(Loss):
    """Of a list of samples: nothing that can be exported."""

    def loss(self, model: Any, transformed_batch: Any, original_batch: Any = None) -> torch.Tensor:
        x = torch.stack([x for x, _ in original_batch])
        y = torch.tensor([y for _, y in original_batch])
        return nn.functional.cross_entropy(model(x), y, reduction="none")


class Box:
    """A batch that nobody but its user knows."""

    def __init__(self, samples: Any) -> None:
        self.x = torch.stack([x for x, _ in samples])
        self.y = torch.tensor([y for _, y in samples])


class BoxTransform(SiftingBatchTransform):
    def transform(self, batch: Box) -> ListBatch:
        return ListBatch(batch.x.tolist(), batch.y.tolist())

    def reverse_transform(self, sifting_batch: ListBatch) -> Box:
        return Box([(torch.tensor(x), y) for x, y in zip(sifting_batch.inputs, sifting_batch.labels, strict=True)])


class BoxLoss(Loss):
    def loss(self, model: Any, transformed_batch: Any, original_batch: Any = None) -> torch.Tensor:
        assert isinstance(original_batch, Box)
        assert len(transformed_batch) == len(original_batch.y)
        return nn.functional.cross_entropy(model(original_batch.x), original_batch.y, reduction="none")


def identity(batch: Any) -> Any:
    return batch


@pytest.mark.parametrize("workers", [1, "inline"])
def test_list_of_samples_is_scored_and_handed_out_as_such(rows: Rows, model: nn.Module, workers: Any) -> None:
    source = DataLoader(rows, 20, collate_fn=identity)
    with SiftingDataloader(config(), source, SampleLoss(), model, workers=workers) as loader:
        # Rows depend on Python loops here: local workers run the loss as Python.
        batches = list(with_ids(loader, warns=workers == 1))
        for ids, batch in batches:
            assert type(batch) is list and {type(s) for s in batch} == {tuple}
            assert torch.equal(torch.stack([x for x, _ in batch]), rows.x[ids])
            assert [y for _, y in batch] == rows.y[ids].tolist()
        assert loader.stats().unsifted == 0
        assert within_three_sigma(loader.stats(), 1)


@pytest.mark.parametrize("workers", [1, "inline"])
def test_custom_class_is_scored_and_handed_out_through_its_transform(
    rows: Rows, model: nn.Module, workers: Any
) -> None:
    source = DataLoader(rows, 20, collate_fn=Box)
    with SiftingDataloader(
        config(), source, BoxLoss(), model, batch_transforms=BoxTransform(), workers=workers
    ) as loader:
        for ids, batch in with_ids(loader, warns=workers == 1):
            assert isinstance(batch, Box)
            assert torch.equal(batch.x, rows.x[ids]) and torch.equal(batch.y, rows.y[ids])
        assert loader.stats().unsifted == 0
        assert within_three_sigma(loader.stats(), 1)


def with_ids(loader: SiftingDataloader, warns: bool) -> Iterator[tuple[Any, Any]]:
    batches = iter(loader)
    if warns:
        with pytest.warns(UserWarning, match="can't be exported"):
            first = next(batches)
    else:
        first = next(batches)
    yield loader.last_batch_info.ids.astype(int), first
    for batch in batches:
        yield loader.last_batch_info.ids.astype(int), batch


def test_custom_class_without_a_transform_is_refused_at_the_first_batch(rows: Rows, model: nn.Module) -> None:
    loader = SiftingDataloader(config(), DataLoader(rows, 20, collate_fn=Box), BoxLoss(), model, workers="inline")
    with pytest.raises(siftd.StructureError, match="Batches of type .*Box.* are not supported by default"):
        next(iter(loader))


class TransformedLoss(Loss):
    """As in SageMaker's guide: of the transformed batch, whose tensors are its fields."""

    def loss(self, model: Any, transformed_batch: Any, original_batch: Any = None) -> torch.Tensor:
        device = next(model.parameters()).device
        batch = [t.to(device) for t in transformed_batch]
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


class TensorTransform(SiftingBatchTransform):
    def transform(self, batch: Any) -> TensorBatch:
        return TensorBatch(batch[0], batch[-1])

    def reverse_transform(self, sifting_batch: TensorBatch) -> Any:
        return [sifting_batch.inputs, sifting_batch.labels]


class ListTransform(TensorTransform):
    def transform(self, batch: Any) -> Any:
        return ListBatch(batch[0].tolist(), batch[-1].tolist())

    def reverse_transform(self, sifting_batch: Any) -> Any:
        return [torch.tensor(sifting_batch.inputs), torch.tensor(sifting_batch.labels)]


@pytest.mark.parametrize(
    ("transform", "loss", "scorer"),
    [
        (TensorTransform(), TransformedLoss(), "Scorer"),
        (ListTransform(), TransformedLoss(), "PythonScorer"),  # .tolist() can't be exported
        (ListTransform(), FirstLoss(), "Scorer"),  # nor need it be, where the loss does not look
    ],
)
@pytest.mark.filterwarnings("ignore:the model can't be exported")
def test_transformed_batch_is_scored_as_what_it_can_be(
    rows: Rows, model: nn.Module, transform: Any, loss: Loss, scorer: str
) -> None:
    with SiftingDataloader(config(), DataLoader(rows, 20), loss, model, transform, workers=1) as loader:
        for x, y in loader:
            ids = loader_ids(loader)
            assert torch.allclose(x, rows.x[ids]) and torch.equal(y, rows.y[ids])
        assert type(loader.scorer).__name__ == scorer
        assert loader.stats().unsifted == 0
        assert within_three_sigma(loader.stats(), 1)


# Sentences of one to six tokens; the longest of eight in a row has three to six.
TOKENS = [([i % 7 + 1] * (i % 3 + i // 8 % 4 + 1), i % 2) for i in range(400)]


def padded(sentences: Any) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence([torch.as_tensor(s) for s in sentences], batch_first=True)


def to_its_longest(samples: Any) -> Any:
    """A collate_fn: each batch is as wide as its longest sentence."""
    return {"ids": padded([s for s, _ in samples]), "labels": torch.tensor([y for _, y in samples])}


class SentenceTransform(SiftingBatchTransform):
    """SageMaker's way with sentences of any length: lists, padded when a batch is whole."""

    def transform(self, batch: Any) -> ListBatch:
        return ListBatch(batch["ids"].tolist(), batch["labels"].tolist())

    def reverse_transform(self, sifting_batch: ListBatch) -> Any:
        return {"ids": padded(sifting_batch.inputs), "labels": torch.tensor(sifting_batch.labels)}


class SentenceLoss(Loss):
    def loss(self, model: Any, transformed_batch: Any, original_batch: Any = None) -> torch.Tensor:
        if isinstance(original_batch, list):
            original_batch = to_its_longest(original_batch)
        logits = model(original_batch["ids"])
        return nn.functional.cross_entropy(logits, original_batch["labels"], reduction="none")


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(9, 2, padding_idx=0)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.tokens(ids).sum(1)


@pytest.mark.parametrize("transform", [None, SentenceTransform()])
@pytest.mark.parametrize("workers", [1, "inline"])
@pytest.mark.filterwarnings("ignore:the model can't be exported")
def test_sentences_of_any_length_are_sifted(transform: Any, workers: Any) -> None:
    collate = identity if transform is None else to_its_longest
    source = DataLoader(TOKENS, 8, collate_fn=collate)  # type: ignore[arg-type]
    with SiftingDataloader(config(), source, SentenceLoss(), Bag(), transform, workers=workers) as loader:
        for batch in loader:
            want = [TOKENS[int(i)] for i in loader.last_batch_info.ids]
            if transform is None:
                assert batch == want
            else:  # pads of the reverse transform, not of siftd
                widths = [max(len(s) for s, _ in TOKENS[i // 8 * 8 : i // 8 * 8 + 8]) for i in loader_ids(loader)]
                assert batch["ids"].shape == (len(want), max(widths))
                assert [[t for t in row if t] for row in batch["ids"].tolist()] == [s for s, _ in want]
                assert batch["labels"].tolist() == [y for _, y in want]
        assert loader.stats().unsifted == 0
        assert loader.stats().trained == loader.stats().kept > 0


def loader_ids(loader: SiftingDataloader) -> list[int]:
    ids: list[int] = loader.last_batch_info.ids.astype(int).tolist()
    return ids


def test_resume_within_a_pass_repeats_no_sample(rows: Rows, model: nn.Module, tmp_path: Path) -> None:
    def make() -> SiftingDataloader:
        source = DataLoader(rows, 20, shuffle=True, collate_fn=identity)
        return SiftingDataloader(config(), source, SampleLoss(), model, workers="inline", seed=4)

    first, before, after = make(), [], []
    for _, batch in zip(range(7), first):
        before += [int(x[0] * 1000 + 0.5) for x, _ in batch]
        torch.save(first.state_dict(), tmp_path / "state.pt")
    second = make()
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=False))
    for batch in second:
        assert {type(sample) for sample in batch} == {tuple}
        after += [int(x[0] * 1000 + 0.5) for x, _ in batch]
    assert len(before) == 140 and len(after) > 200
    assert len(set(before + after)) == len(before + after)


# ------------------------------------------------------------ logs
def test_log_batch_data_tells_of_kept_and_dropped_samples(
    rows: Rows, model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    loader = SiftingDataloader(
        config(), DataLoader(rows, 20), FirstLoss(), model, log_batch_data=True, workers="inline"
    )
    batch = next(iter(loader))
    lines = [r.getMessage() for r in caplog.records if r.name == LOGGER]
    kept = next(line for line in lines if line.startswith("kept"))
    dropped = next(line for line in lines if line.startswith("dropped"))
    ids = {int(i) for line in (kept, dropped) for i in line.split("ids [")[1].split("]")[0].split(",") if i.strip()}
    assert ids == set(range(20)), "the first candidate batch, each sample in one of the two lines"
    handed = next(line for line in lines if line.startswith("batch 1:"))
    assert f"0 {list(batch[0].shape)}" in handed


def test_debug_lines_are_those_that_sagemakers_notebooks_search_for(
    rows: Rows, model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    loader = SiftingDataloader(config(), DataLoader(rows, 20), FirstLoss(), model, workers="inline")
    batches = len(list(loader))
    lines = [r.getMessage() for r in caplog.records if r.name == LOGGER]
    for name in ("num_orig_samples_seen", "num_orig_samples_kept", "sifted_batch_creation_latency"):
        assert sum(line.startswith(f"{name}: ") for line in lines) == batches
    seen = [int(line.split(": ")[1]) for line in lines if line.startswith("num_orig_samples_seen")]
    assert seen[-1] == 1000
    values = [line for line in lines if line.startswith("relevance_values: [")]
    assert len(values) == 50


# ------------------------------------------------------------ ranks
def test_two_ranks_sift_their_own_share_in_equal_steps(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        + [str(ROOT / "tests" / "python" / "compat_ranks_job.py"), str(tmp_path)],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'client' / 'python'}:{ROOT / 'tests' / 'python'}",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ends = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    # 401 rows on two ranks: at most 201, 13 batches of 16; beta 1 keeps half.
    assert [e["steps"] for e in ends] == [[7, 7], [7, 7]]
    assert [e["len"] for e in ends] == [7, 7]
    every = [tuple(row) for e in ends for row in e["ids"]]
    assert len(every) == len(set(every)) == 2 * 14 * 16, "no row on both ranks, none twice in a pass"
    assert done.stderr.count("an epoch is 7 steps on each of 2 ranks") == 1
