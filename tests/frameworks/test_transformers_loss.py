# SPDX-License-Identifier: Apache-2.0
"""The scorer's loss of each row is what the model itself returns as .loss for that row alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from torch import nn

import siftd
from hf_support import VOCABULARY, bert, bert_config
from siftd._frameworks.hf_loss import loss_of

ROWS, WIDTH = 5, 6


def text(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(4, VOCABULARY, (ROWS, WIDTH), generator=generator)
    mask = torch.ones_like(ids)
    ids[1, 4:], mask[1, 4:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask, **more}


def token_labels(classes: int) -> torch.Tensor:
    labels = torch.arange(ROWS * WIDTH).view(ROWS, WIDTH) % classes
    labels[1, 4:], labels[2, 0] = -100, -100
    return labels


def llama() -> nn.Module:
    return hf.LlamaForCausalLM(
        hf.LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
        )
    )


def t5() -> nn.Module:
    return hf.T5ForConditionalGeneration(
        hf.T5Config(
            vocab_size=VOCABULARY, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
    )


def vit() -> nn.Module:
    return hf.ViTForImageClassification(
        hf.ViTConfig(
            image_size=16, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, num_labels=4,
        )
    )  # fmt: skip


CLASSES = torch.arange(ROWS) % 3
REALS = torch.linspace(-1, 2, ROWS)
SEVERAL = (torch.arange(ROWS * 3).view(ROWS, 3) % 2).float()
SPANS = {"start_positions": torch.tensor([0, 1, 2, 9, 3]), "end_positions": torch.tensor([1, 3, 4, 9, 5])}
CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, torch.Tensor]]] = {
    "classes": (bert, text(labels=CLASSES)),
    "classes, said so": (lambda: bert(problem_type="single_label_classification"), text(labels=CLASSES)),
    "one real value": (lambda: bert(num_labels=1), text(labels=REALS)),
    "real values": (lambda: bert(problem_type="regression"), text(labels=torch.randn(ROWS, 3))),
    "several labels": (bert, text(labels=SEVERAL)),
    "several labels, said so": (lambda: bert(problem_type="multi_label_classification"), text(labels=SEVERAL)),
    "tokens": (lambda: hf.BertForTokenClassification(bert_config()), text(labels=token_labels(3))),
    "masked tokens": (lambda: hf.BertForMaskedLM(bert_config()), text(labels=token_labels(50))),
    "next tokens": (llama, text(labels=token_labels(50))),
    "spans": (lambda: hf.BertForQuestionAnswering(bert_config(num_labels=2)), text(**SPANS)),
    "sequence to sequence": (t5, text(labels=token_labels(50)[:, :4])),
    "images": (vit, {"pixel_values": torch.randn(ROWS, 3, 16, 16), "labels": CLASSES}),
    "choices": (
        lambda: hf.BertForMultipleChoice(bert_config()),
        {"input_ids": torch.randint(4, VOCABULARY, (ROWS, 3, WIDTH)), "labels": CLASSES},
    ),
    "an adapter around classes": (
        lambda: get_peft_model(bert(), LoraConfig(task_type="SEQ_CLS", target_modules=["query"])),
        text(labels=CLASSES),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_loss_of_a_row_is_the_models_own(case: str) -> None:
    torch.manual_seed(4)
    make, batch = CASES[case]
    model = make().eval()
    scorer = siftd.export_scorer(model, loss_of(model), batch)
    scored = torch.jit.load(io.BytesIO(scorer.archive))(*(batch[name] for name in scorer.fields))[0]
    with torch.no_grad():
        own = torch.stack([model(**{k: v[i : i + 1] for k, v in batch.items()}).loss for i in range(ROWS)])
    own = own.nan_to_num(0.0)  # a row without any label left
    torch.testing.assert_close(scored, own, rtol=1e-4, atol=1e-5)
    assert scored.std() > 0


def test_logits_of_classes_give_confidence_too() -> None:
    model = bert()
    assert "confidence" in siftd.export_scorer(model, loss_of(model), text(labels=CLASSES)).columns


def test_a_model_of_another_kind_asks_for_a_loss() -> None:
    class Other(nn.Module):
        pass

    models: list[Any] = [Other(), hf.BertForPreTraining(bert_config())]
    for model in models:
        with pytest.raises(siftd.ConfigError, match=f"loss is None; allowed: given for {type(model).__name__}"):
            loss_of(model)
