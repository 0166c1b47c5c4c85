# SPDX-License-Identifier: Apache-2.0
"""One loss per row: from names, torch's modules and callables, for rows, tokens and pixels."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from siftd.errors import ConfigError, ExportError
from siftd.losses import BatchLoss, Output, row_loss

G = torch.Generator().manual_seed(5)
TOKENS = torch.randn(3, 6, 4, generator=G)  # [n, T, C]
LABELS = torch.randint(0, 4, (3, 6), generator=G)
LABELS[0, 3:] = -100
LABELS[2] = -100


def losses(loss: Any, output: Any, *targets: torch.Tensor) -> torch.Tensor:
    return row_loss(loss)(Output.of(output), targets)


def by_row(one: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], out: Any, y: torch.Tensor) -> torch.Tensor:
    """torch's own mean over each row that has a label, 0 for the others."""
    rows = [one(out[i : i + 1], y[i : i + 1]) if (y[i] != -100).any() else torch.tensor(0.0) for i in range(len(y))]
    return torch.stack(rows)


TOKEN_MEAN = by_row(lambda o, y: F.cross_entropy(o.transpose(1, 2), y), TOKENS, LABELS)


@pytest.mark.parametrize(
    "loss",
    [
        "cross_entropy",
        nn.CrossEntropyLoss(),
        lambda o, y: F.cross_entropy(o.transpose(1, 2), y, reduction="none"),
        lambda o, y: F.cross_entropy(o.reshape(-1, 4), y.reshape(-1), reduction="none"),
    ],
    ids=["name", "module", "callable", "callable_on_flat_tokens"],
)
@pytest.mark.parametrize("wrap", [dict, SimpleNamespace], ids=["dict", "object"])
def test_token_losses_are_means_over_the_labels_that_count(loss: Any, wrap: Any) -> None:
    got = losses(loss, wrap(logits=TOKENS), LABELS)
    torch.testing.assert_close(got, TOKEN_MEAN)
    assert got[2] == 0, "a row without labels"


def test_log_probabilities_of_tokens() -> None:
    torch.testing.assert_close(losses("nll", {"logits": TOKENS.log_softmax(2)}, LABELS), TOKEN_MEAN)


def test_classes_may_be_second_or_last() -> None:
    second = TOKENS.transpose(1, 2)
    torch.testing.assert_close(losses("cross_entropy", second, LABELS), TOKEN_MEAN)
    torch.testing.assert_close(losses("cross_entropy", TOKENS, LABELS), TOKEN_MEAN)
    pixels, y = torch.randn(2, 3, 5, 7), torch.randint(0, 3, (2, 5, 7))
    want = F.cross_entropy(pixels, y, reduction="none").mean((1, 2))
    torch.testing.assert_close(losses("cross_entropy", {"out": pixels, "aux": pixels * 0}, y), want)


def test_where_both_orders_fit_only_transformers_outputs_have_classes_last() -> None:
    square, y = torch.randn(2, 4, 4), torch.randint(0, 4, (2, 4))
    plain = F.cross_entropy(square, y, reduction="none").mean(1)
    torch.testing.assert_close(losses("cross_entropy", square, y), plain)
    last = F.cross_entropy(square.transpose(1, 2), y, reduction="none").mean(1)
    torch.testing.assert_close(losses("cross_entropy", {"logits": square}, y), last)


def test_a_causal_language_model_is_scored_on_the_next_token() -> None:
    want = by_row(lambda o, y: F.cross_entropy(o[:, :-1].transpose(1, 2), y[:, 1:]), TOKENS, LABELS)
    torch.testing.assert_close(losses("causal_lm", {"logits": TOKENS}, LABELS), want)
    assert losses("causal_lm", TOKENS[:, :1], LABELS[:, :1]).tolist() == [0, 0, 0], "one token has no next one"
    with pytest.raises(ExportError, match=r"logits \[n, T, C\]"):
        losses("causal_lm", TOKENS[:, 0], LABELS[:, 0])


def test_a_torch_modules_options_are_kept_and_the_module_is_not_touched() -> None:
    out, y = torch.randn(8, 4), torch.arange(8) % 4
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 4.0]), label_smoothing=0.1, ignore_index=2)
    want = F.cross_entropy(out, y, weight=loss.weight, label_smoothing=0.1, ignore_index=2, reduction="none")
    torch.testing.assert_close(losses(loss, out, y), want)
    assert loss.reduction == "mean"
    ignored = losses(nn.CrossEntropyLoss(ignore_index=1), TOKENS, torch.ones(3, 6, dtype=torch.long))
    assert ignored.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("loss", "y", "want"),
    [
        ("mse", torch.randn(6, 3), lambda o, y: F.mse_loss(o, y, reduction="none").mean(1)),
        ("l1", torch.randn(6, 3), lambda o, y: (o - y).abs().mean(1)),
        (nn.HuberLoss(), torch.randn(6, 3), lambda o, y: F.huber_loss(o, y, reduction="none").mean(1)),
        ("smooth_l1", torch.randn(6, 3), lambda o, y: F.smooth_l1_loss(o, y, reduction="none").mean(1)),
        (
            nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0])),
            torch.rand(6, 3) > 0.5,
            lambda o, y: F.binary_cross_entropy_with_logits(
                o, y.float(), pos_weight=torch.tensor([1.0, 2.0, 3.0]), reduction="none"
            ).mean(1),
        ),
    ],
    ids=["mse", "l1", "huber", "smooth_l1", "bce"],
)
def test_losses_of_values_are_averaged_inside_the_row(loss: Any, y: torch.Tensor, want: Any) -> None:
    out = torch.randn(6, 3, generator=G)
    torch.testing.assert_close(losses(loss, out, y), want(out, y))


def test_a_regression_head_of_one_output_is_compared_with_targets_without_that_dimension() -> None:
    out, y = torch.randn(6, 1), torch.randn(6)
    torch.testing.assert_close(losses("mse", out, y), (out[:, 0] - y).square())
    with pytest.raises(ExportError, match=r"the model's \[6, 2\] with the target's \[6\]"):
        losses("mse", torch.randn(6, 2), y)


def test_half_precision_outputs_are_scored_in_float32() -> None:
    out, y = torch.randn(6, 4).bfloat16(), torch.arange(6) % 4
    got = losses("cross_entropy", out, y)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, F.cross_entropy(out.float(), y, reduction="none"))


def test_class_probabilities_and_small_integers_are_targets_too() -> None:
    out, p = torch.randn(6, 4), torch.rand(6, 4).softmax(1)
    torch.testing.assert_close(losses("cross_entropy", out, p), F.cross_entropy(out, p, reduction="none"))
    y = (torch.arange(6) % 4).to(torch.uint8)
    torch.testing.assert_close(losses("cross_entropy", out, y), F.cross_entropy(out, y.long(), reduction="none"))


def test_a_callable_gets_what_it_was_written_for() -> None:
    out, y = torch.randn(6, 4), torch.arange(6) % 4
    want = F.cross_entropy(out, y, reduction="none")
    for output, loss in (
        ((out, "hidden"), lambda o, y: F.cross_entropy(o, y, reduction="none")),
        ((out, "hidden"), lambda o, y: F.cross_entropy(o[0], y, reduction="none")),
        ({"logits": out, "more": 1}, lambda o, y: F.cross_entropy(o, y, reduction="none")),
        ({"logits": out, "more": 1}, lambda o, y: F.cross_entropy(o["logits"], y, reduction="none")),
        (SimpleNamespace(logits=out), lambda o, y: F.cross_entropy(o.logits, y, reduction="none")),
        (torch.distributions.Categorical(logits=out), lambda o, y: -o.log_prob(y)),
    ):
        loss = row_loss(loss)
        for _ in range(2):
            torch.testing.assert_close(loss(Output.of(output), (y,)), want)


def test_a_callables_losses_per_value_are_averaged() -> None:
    out, y = torch.randn(6, 4, 2), torch.randn(6, 4, 2)
    torch.testing.assert_close(losses(lambda o, t: (o - t).abs(), out, y), (out - y).abs().mean((1, 2)))


def test_errors_say_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match="causal_lm.*BatchLoss"):
        row_loss("crossentropy")
    with pytest.raises(ConfigError, match="loss is 7"):
        row_loss(7)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="callable"):
        BatchLoss(3)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="takes one target tensor and found none"):
        losses("cross_entropy", TOKENS[:, 0])
    with pytest.raises(ExportError, match="the model returns dict with a, b"):
        losses("cross_entropy", {"a": TOKENS, "b": TOKENS}, LABELS)
    with pytest.raises(ExportError, match="one loss per row"):
        losses(lambda o, y: 3.0, TOKENS, LABELS)
