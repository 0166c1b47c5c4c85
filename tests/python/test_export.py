# SPDX-License-Identifier: Apache-2.0
"""The exporter: what its scorers compute, and its errors."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import siftd
from siftd.errors import ConfigError, ExportError
from support import eager_losses, toy_model

X, Y = torch.randn(12, 8, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 5


def run(scorer: siftd.Scorer, *fields: torch.Tensor) -> dict[str, torch.Tensor]:
    module = torch.jit.load(io.BytesIO(scorer.archive))
    return dict(zip(scorer.columns, module(*fields), strict=True))


def test_columns_are_the_losses_in_eval_mode_and_what_logits_tell() -> None:
    model = toy_model()
    scorer = siftd.export_scorer(model, "cross_entropy", (X, Y))
    assert scorer.columns == ("loss", "confidence", "grad_norm")
    assert scorer.fields == ("0", "1")
    out = run(scorer, X[:7], Y[:7])
    torch.testing.assert_close(out["loss"], eager_losses(model, X[:7], Y[:7]), rtol=1e-5, atol=1e-6)
    model.eval()
    logits = model(X[:7]).detach()
    p = logits.softmax(1)
    torch.testing.assert_close(out["confidence"], p.amax(1), rtol=1e-5, atol=1e-6)
    norm = (p - F.one_hot(Y[:7], 5)).norm(dim=1)
    torch.testing.assert_close(out["grad_norm"], norm, rtol=1e-4, atol=1e-5)


def test_the_model_and_the_random_state_are_left_alone() -> None:
    model = toy_model().train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    rng = torch.get_rng_state()
    siftd.export_scorer(model, "cross_entropy", (X, Y))
    assert model.training
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def plain(loss: Callable[..., torch.Tensor], **options: Any) -> Callable[..., torch.Tensor]:
    return lambda o, t: loss(o, t, reduction="none", **options)


@pytest.mark.parametrize(
    ("loss", "target", "want"),
    [
        ("mse", torch.randn(12, 5), plain(F.mse_loss)),
        (nn.CrossEntropyLoss(label_smoothing=0.1), Y, plain(F.cross_entropy, label_smoothing=0.1)),
        (plain(F.l1_loss), torch.randn(12, 5), plain(F.l1_loss)),
        (
            "bce_with_logits",
            torch.rand(12, 5) > 0.5,
            lambda o, t: plain(F.binary_cross_entropy_with_logits)(o, t.float()),
        ),
    ],
    ids=["name", "module", "callable", "bool_targets"],
)
def test_losses_by_name_by_module_and_by_callable(loss: Any, target: torch.Tensor, want: Callable[..., Any]) -> None:
    model = toy_model().eval()
    out = run(siftd.export_scorer(model, loss, (X, target)), X, target)
    losses = want(model(X), target).detach()
    torch.testing.assert_close(out["loss"], losses.reshape(12, -1).mean(1), rtol=1e-5, atol=1e-6)


class Named(nn.Module):
    """Takes its inputs by name and returns a dict, as the models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight  # tied
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        mask = attention_mask.unsqueeze(-1).float()
        pooled = (self.embed(input_ids) * mask).sum(1) / mask.sum(1)
        return {"logits": self.head(pooled) * self.scale}


def token_batch(rows: int, length: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(rows * 100 + length)
    return {
        "input_ids": torch.randint(0, 20, (rows, length), generator=g),
        "attention_mask": torch.ones(rows, length, dtype=torch.long),
        "labels": torch.randint(0, 20, (rows,), generator=g),
    }


def test_dict_batches_tied_weights_buffers_and_other_lengths() -> None:
    model = Named().eval()
    scorer = siftd.export_scorer(model, "cross_entropy", token_batch(4, 6))
    assert scorer.fields == ("input_ids", "attention_mask", "labels")
    assert sorted(e.name for e in scorer.state) == ["embed.weight", "scale"], "a tied weight travels once"
    assert [e.is_buffer for e in scorer.state if e.name == "scale"] == [True]
    other = token_batch(7, 9)
    out = run(scorer, *other.values())
    logits = model(other["input_ids"], other["attention_mask"])["logits"]
    want = F.cross_entropy(logits, other["labels"], reduction="none").detach()
    torch.testing.assert_close(out["loss"], want, rtol=1e-5, atol=1e-6)


def test_a_saved_scorer_is_loaded_again(tmp_path: Path) -> None:
    scorer = siftd.export_scorer(toy_model(), "cross_entropy", (X, Y))
    again = siftd.Scorer.load(scorer.save(tmp_path / "scorer.pt"))
    assert again == scorer
    (tmp_path / "none.pt").write_bytes(b"nothing")
    torch.jit.save(torch.jit.trace(nn.Linear(8, 5), X), str(tmp_path / "plain.pt"))
    for name in ("none.pt", "plain.pt"):
        with pytest.raises(ConfigError, match="export_scorer"):
            siftd.Scorer.load(tmp_path / name)


def test_targets_can_be_named() -> None:
    model = nn.Linear(8, 5)
    scorer = siftd.export_scorer(nn.Sequential(model), "cross_entropy", (Y, X), targets=["0"])
    assert scorer.fields == ("1", "0")
    with pytest.raises(ConfigError, match="targets is \\['7'\\]"):
        siftd.export_scorer(model, "cross_entropy", (X, Y), targets=["7"])


class MixesRows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :5] - x.mean(0)[:5]


class HoldsTheBatchSize(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(12, 8)[:, :5]


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :5] if x.sum() > X.sum() + 1 else x[:, :5] * 2


@pytest.mark.parametrize(
    ("model", "loss", "error", "text"),
    [
        (MixesRows(), "cross_entropy", ExportError, "Rows depend on each other|batch size"),
        (HoldsTheBatchSize(), "cross_entropy", ExportError, "batch size"),
        (nn.Linear(8, 5), F.cross_entropy, ExportError, "without reduction"),
        (nn.Linear(8, 5), lambda o, t: 3.0, ExportError, "must return a tensor with one loss per row"),
        (nn.Linear(7, 5), "cross_entropy", ExportError, "failed on the example batch.*targets"),
        (nn.Linear(8, 5), "crossentropy", ConfigError, "loss is 'crossentropy'"),
        (nn.Linear(8, 5), 7, ConfigError, "loss is 7"),
    ],
)
def test_errors_say_what_to_do(model: nn.Module, loss: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        siftd.export_scorer(model, loss, (X, Y))


def test_wrapped_models_are_unwrapped() -> None:
    model = toy_model()
    plain = siftd.export_scorer(model, "cross_entropy", (X, Y))
    wrapped = siftd.export_scorer(nn.DataParallel(model), "cross_entropy", (X, Y))
    assert [e.name for e in wrapped.state] == [e.name for e in plain.state]
    compiled = siftd.export_scorer(torch.compile(model), "cross_entropy", (X, Y))  # type: ignore[arg-type]
    assert [e.name for e in compiled.state] == [e.name for e in plain.state]
