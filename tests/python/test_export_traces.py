# SPDX-License-Identifier: Apache-2.0
"""What a trace may freeze: lengths, masks, values. The exporter finds it, and its errors say what to do."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import siftd
from siftd._scorer import module as scorer_module
from siftd._scorer import signature
from siftd.errors import ExportError
from siftd.losses import BatchLoss
from support import toy_model

G = torch.Generator().manual_seed(6)
X, Y = torch.randn(6, 8, generator=G), torch.arange(6) % 5


def tokens(rows: int, length: int, ones: bool = False) -> dict[str, torch.Tensor]:
    mask = torch.ones(rows, length, dtype=torch.long)
    if not ones:
        mask[1::2, length // 2 :] = 0
    return {
        "input_ids": torch.randint(0, 20, (rows, length), generator=G),
        "attention_mask": mask,
        "labels": torch.arange(rows) % 5,
    }


def loss_of(scorer: siftd.Scorer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    module = torch.jit.load(io.BytesIO(scorer.archive))
    return module(*(batch[n] for n in scorer.fields))[0]  # type: ignore[no-any-return]


class Pooled(nn.Module):
    """Mean of embeddings under a mask. `freeze` says what of the example its trace holds."""

    def __init__(self, freeze: str = "") -> None:
        super().__init__()
        self.embed, self.head, self.freeze = nn.Embedding(20, 8), nn.Linear(8, 5), freeze

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, inputs_embeds: torch.Tensor | None = None
    ) -> torch.Tensor:
        x = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        if self.freeze == "length":
            x = x[:, : int(input_ids.shape[1])] + torch.ones(int(input_ids.shape[1]), 8)
        if self.freeze == "mask" and bool(attention_mask.bool().all()):
            return self.head(x.mean(1))  # type: ignore[no-any-return]
        mask = attention_mask.to(x.dtype).unsqueeze(-1)
        return self.head((x * mask).sum(1) / mask.sum(1).clamp(min=1))  # type: ignore[no-any-return]


def test_sequences_of_other_lengths_and_masks() -> None:
    model = Pooled().eval()
    scorer = siftd.export_scorer(model, "cross_entropy", tokens(4, 9))
    other = tokens(3, 5)
    want = F.cross_entropy(model(other["input_ids"], other["attention_mask"]), other["labels"], reduction="none")
    torch.testing.assert_close(loss_of(scorer, other), want.detach())


def test_floats_along_a_sequence_vary_with_it_and_pixels_dont() -> None:
    batch = {
        "ids": torch.zeros(2, 7, dtype=torch.long),
        "embeds": torch.zeros(2, 7, 16),
        "float_mask": torch.zeros(2, 1, 7, 7),
        "pixels": torch.zeros(2, 3, 32, 32),
        "flag": torch.zeros(2, 1, dtype=torch.bool),
        "scale": torch.zeros(2, 1),
    }
    shapes = {s.name: list(s.shape) for s in signature.specs_of(batch)}
    assert shapes == {
        "ids": [-1, -1],
        "embeds": [-1, -1, 16],
        "float_mask": [-1, 1, -1, -1],
        "pixels": [-1, 3, 32, 32],
        "flag": [-1, -1],
        "scale": [-1, 1],
    }


def test_embeddings_and_audio_with_a_mask_take_other_lengths() -> None:
    class Audio(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(1, 5)

        def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            mask = attention_mask.to(input_values.dtype)
            return self.head(((input_values * mask).sum(1) / mask.sum(1)).unsqueeze(1))  # type: ignore[no-any-return]

    def batch(length: int) -> dict[str, torch.Tensor]:
        audio = torch.randn(4, length, generator=G)
        mask = tokens(4, length)["attention_mask"]
        return {"input_values": audio, "attention_mask": mask, "labels": torch.arange(4)}

    model = Audio()
    scorer = siftd.export_scorer(model, "cross_entropy", batch(16))
    other = batch(11)
    want = F.cross_entropy(model(other["input_values"], other["attention_mask"]), other["labels"], reduction="none")
    torch.testing.assert_close(loss_of(scorer, other), want.detach())


@pytest.mark.parametrize(
    ("model", "ones", "text"),
    [
        (Pooled("length"), False, r"on sequences of 4 instead of 9.*sequence length.*Python backend"),
        (Pooled("mask"), True, r"on another 'attention_mask'.*branches on the mask.*Python backend"),
    ],
    ids=["length", "mask"],
)
def test_a_frozen_length_or_mask_is_found(model: nn.Module, ones: bool, text: str) -> None:
    with pytest.raises(ExportError, match=text):
        siftd.export_scorer(model, "cross_entropy", tokens(4, 9, ones))


def test_a_model_of_one_length_is_exported() -> None:
    """It refuses other lengths itself, so that there is nothing to compare."""

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 4), nn.Linear(9 * 4, 5)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(ids).flatten(1))  # type: ignore[no-any-return]

    model, batch = Fixed(), tokens(4, 9)
    scorer = siftd.export_scorer(model, "cross_entropy", {"ids": batch["input_ids"], "y": batch["labels"]})
    want = F.cross_entropy(model(batch["input_ids"]), batch["labels"], reduction="none").detach()
    torch.testing.assert_close(loss_of(scorer, {"ids": batch["input_ids"], "y": batch["labels"]}), want)


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :5] + torch.randn(5)


class Loops(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return [float(v) for v in x.sum(1)]


class Elsewhere(nn.Module):
    """Computes with a parameter that is not its own."""

    other = nn.Parameter(torch.ones(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :5] * Elsewhere.other


class CantBeCopied(nn.Module):
    def __setstate__(self, state: Any) -> None:
        raise RuntimeError("one of a kind")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :5]


@torch.compile(backend="eager")
def compiled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


class CallsCompiled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return compiled(x)[:, :5]


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (Noisy(), "two runs of the model on the example batch differ.*random numbers in eval mode"),
        (Loops(), "the model returns list"),
        (Elsewhere(), "uses a parameter that is not the model's.*Python backend"),
        (CantBeCopied(), "can't be copied: RuntimeError: one of a kind.*PythonScorer"),
        (CallsCompiled(), "torch.compile made: give the function itself.*Python backend"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else None,
)
def test_errors_name_the_cause_and_the_remedy_in_one_line(model: nn.Module, text: str) -> None:
    with pytest.raises(ExportError, match=text) as caught:
        siftd.export_scorer(model, "cross_entropy", (X, Y))
    assert "\n" not in str(caught.value)


def test_no_warning_leaves_the_exporter() -> None:
    class Warns(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            warnings.warn("of the model", stacklevel=1)
            return x[:, :5] * len(x[0])  # the tracer warns of len

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer = siftd.export_scorer(Warns(), "cross_entropy", (X, Y))
    assert scorer.columns[0] == "loss"


def test_nothing_of_the_users_model_changes() -> None:
    model = toy_model().train()
    model[3].eval()
    model(X).sum().backward()
    grads = [p.grad for p in model.parameters()]
    before = [g.clone() for g in grads if g is not None]
    versions = [t._version for t in (*model.parameters(), *model.buffers())]
    rng, batch = torch.get_rng_state(), (X.clone(), Y.clone())
    siftd.export_scorer(model, "cross_entropy", batch)
    assert [m.training for m in model] == [True, True, True, False, True]
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, grads, strict=True) if b is not None)
    assert [t._version for t in (*model.parameters(), *model.buffers())] == versions
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(batch[0], X) and torch.equal(batch[1], Y)


class FillsIn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) + torch.ones(5)  # type: ignore[no-any-return]


def test_autocast_and_default_device_of_the_caller_stay_out_of_the_trace() -> None:
    model = FillsIn()
    want = F.cross_entropy(model(X), Y, reduction="none").detach()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        scorer = siftd.export_scorer(model, "cross_entropy", (X, Y))
    torch.testing.assert_close(torch.jit.load(io.BytesIO(scorer.archive))(X, Y)[0], want)


class HasSpareParts(nn.Module):
    """A non-persistent buffer that is used, and a head and a property that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.spare = nn.Linear(8, 5), nn.Linear(300, 300)
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    @property
    def trainer(self) -> Any:
        raise RuntimeError("not attached")

    @torch.jit.export
    def other(self, x: torch.Tensor) -> Any:
        return self.undefined(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) * self.scale  # type: ignore[no-any-return]


def test_what_the_scorer_does_not_use_is_not_in_it() -> None:
    model = HasSpareParts()
    scorer = siftd.export_scorer(model, "cross_entropy", (X, Y))
    assert sorted(e.name for e in scorer.state) == ["net.bias", "net.weight", "scale"]
    assert {e.name for e in scorer.state if e.is_buffer} == {"scale"}
    assert len(scorer.archive) < 100_000
    module = torch.jit.load(io.BytesIO(scorer.archive))
    held = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        held[next(e.archive_name for e in scorer.state if e.name == "scale")].fill_(3.0)
    want = F.cross_entropy(model.net(X) * 3, Y, reduction="none").detach()
    torch.testing.assert_close(module(X, Y)[0], want)


def test_large_models_are_run_on_a_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer_module, "_LARGE", 10)
    seen: list[int] = []

    def fn(model: nn.Module, batch: Any) -> torch.Tensor:
        seen.append(len(batch[0]))
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    scorer = siftd.export_scorer(toy_model(), BatchLoss(fn), (X, Y))
    assert set(seen) == {2}, "the eager runs; the traced module runs on its own"
    assert torch.jit.load(io.BytesIO(scorer.archive))(X, Y)[0].shape == (6,)


def test_products_in_reduced_precision_are_compared_less_strictly(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rounds(nn.Module):
        """Off by one per cent with other numbers of rows, as products in bfloat16 may be."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :5] * (1 + 0.01 * (x.shape[0] != 6))

    with pytest.raises(ExportError, match="differs on one row less"):
        siftd.export_scorer(Rounds(), "cross_entropy", (X, Y))
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    siftd.export_scorer(Rounds(), "cross_entropy", (X, Y))


def test_images_in_channels_last_order() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5))
    model = model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    images = torch.randn(6, 3, 8, 8, generator=G).contiguous(memory_format=torch.channels_last)
    scorer = siftd.export_scorer(model, "cross_entropy", (images, Y))
    want = F.cross_entropy(model(images), Y, reduction="none").detach()
    for given in (images, images.contiguous()):
        torch.testing.assert_close(torch.jit.load(io.BytesIO(scorer.archive))(given, Y)[0], want)


def test_columns_of_a_confident_model_are_exact() -> None:
    """The gradient's norm is a difference of numbers near 1."""
    model = nn.Linear(8, 5)
    with torch.no_grad():
        model.weight.mul_(15)
    sure = model(X).argmax(1)
    scorer = siftd.export_scorer(model, "cross_entropy", (X, sure))
    got = torch.jit.load(io.BytesIO(scorer.archive))(X, sure)[2]
    p = model.double()(X.double()).softmax(1)
    want = (p - F.one_hot(sure, 5)).norm(dim=1).float().detach()
    assert want.min() < 1e-3
    torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-6)
