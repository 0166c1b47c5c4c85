# SPDX-License-Identifier: Apache-2.0
"""The loss per row that a Hugging Face model trains on, read off its class and configuration."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import siftd
from siftd.errors import ConfigError
from siftd.export import Loss, unwrap

# PreTrainedModel.loss_type (transformers/loss/loss_utils.py, LOSS_MAPPING).
_CLASSIFIES_ROWS = {
    "ForSequenceClassification",
    "ForImageClassification",
    "ForVideoClassification",
    "ForAudioClassification",
}
_CLASSIFIES_TOKENS = {"ForTokenClassification", "ForMaskedLM"}
_WITHOUT_TYPE = ("ForMultipleChoice", "ForNextSentencePrediction")  # plain cross entropy over their logits [n, C]


def base_model(model: nn.Module) -> Any:
    """The transformers model inside wrappers of torch and of peft."""
    inner = unwrap(model)
    get_base = getattr(inner, "get_base_model", None)
    return inner if get_base is None else get_base()


def loss_of(model: nn.Module) -> Any:
    """What `model` itself returns as .loss, before the mean over the rows. Raises ConfigError where it is not known."""
    base = base_model(model)
    kind, config = getattr(base, "loss_type", None), getattr(base, "config", None)
    if kind in _CLASSIFIES_ROWS:
        return _of_problem(config)
    if kind in _CLASSIFIES_TOKENS or type(base).__name__.endswith(_WITHOUT_TYPE):
        return "cross_entropy"
    if kind == "ForQuestionAnswering":
        return siftd.BatchLoss(_span_loss)
    if getattr(config, "is_encoder_decoder", False) and kind in ("ForConditionalGeneration", None):
        return siftd.BatchLoss(_seq2seq_loss)
    if kind in ("ForCausalLM", "ForConditionalGeneration"):
        return "causal_lm"
    raise ConfigError(
        "loss", None, f"given for {type(base).__name__}, whose loss per row is not known here: "
        "loss=callable(logits, labels) -> [n], or loss=siftd.BatchLoss(callable(model, batch) -> [n])",
    )  # fmt: skip


def _of_problem(config: Any) -> Loss:
    known: dict[str, Loss] = {
        "regression": _regression,
        "single_label_classification": "cross_entropy",
        "multi_label_classification": "bce_with_logits",
    }
    if config.problem_type is None:
        return _regression if config.num_labels == 1 else _by_labels
    if config.problem_type not in known:
        raise ConfigError("problem_type", config.problem_type, ", ".join(known))
    return known[config.problem_type]


def _regression(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """[n, 1] against [n], or [n, k] against [n, k]."""
    return F.mse_loss(logits.float(), labels.view_as(logits).float(), reduction="none")


def _by_labels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As the model does while its problem_type is not set: whole numbers are classes, anything else is multi-label."""
    if labels.is_floating_point():
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, labels.flatten(), reduction="none")


def _span_loss(model: nn.Module, batch: Any) -> torch.Tensor:
    out = model(**{k: v for k, v in batch.items() if k not in ("start_positions", "end_positions")})

    def one(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        # Positions beyond the text count for nothing.
        beyond = logits.shape[1]
        where = position.flatten().clamp(min=0)
        losses = F.cross_entropy(logits.float(), where.clamp(max=beyond - 1), reduction="none")
        return losses.masked_fill(where >= beyond, 0.0)

    return (one(out.start_logits, batch["start_positions"]) + one(out.end_logits, batch["end_positions"])) / 2


def _seq2seq_loss(model: nn.Module, batch: Any) -> torch.Tensor:
    """With the labels, of which the model makes its decoder's input; mean over the row's tokens."""
    logits, labels = model(**batch).logits, batch["labels"]
    losses = F.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=-100, reduction="none")
    mean: torch.Tensor = losses.sum(1) / labels.ne(-100).sum(1).clamp(min=1)
    return mean
