# SPDX-License-Identifier: Apache-2.0
"""Exporting models of transformers and peft: tiny ones, of random weights."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from peft import LoraConfig, get_peft_model
from torch import nn

import siftd
from siftd._scorer.trace import device_constants
from siftd.losses import BatchLoss

G = torch.Generator().manual_seed(8)
TEXT: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


def bert(kind: Any = hf.BertForSequenceClassification, **more: Any) -> Any:
    return kind(hf.BertConfig(**TEXT, num_labels=3, **more))


def distilbert() -> Any:
    config = hf.DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32, num_labels=3)
    return hf.DistilBertForSequenceClassification(config)


def llama() -> Any:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, num_key_value_heads=1))


def vit() -> Any:
    config = hf.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4,
        num_labels=3,
    )  # fmt: skip
    return hf.ViTForImageClassification(config)


def tokens(rows: int, length: int, labels: str, padded: bool = True) -> dict[str, torch.Tensor]:
    """`labels`: of "rows", "tokens" (some ignored, one row wholly) or "next" (the input's)."""
    ids = torch.randint(1, 50, (rows, length), generator=G)
    mask = torch.ones(rows, length, dtype=torch.long)
    if padded:
        mask[::2, length - 2 :] = 0
    if labels == "rows":
        y = torch.arange(rows) % 3
    elif labels == "tokens":
        y = torch.randint(0, 3, (rows, length), generator=G).masked_fill(mask == 0, -100)
        y[1] = -100
    else:
        y = ids.masked_fill(mask == 0, -100)
    # The collators' own fields, and one that no model takes.
    return {"idx": torch.arange(rows), "input_ids": ids, "attention_mask": mask, "labels": y}


def images(rows: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=G), "labels": torch.arange(rows) % 3}


def own_losses(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the model itself returns as .loss, row by row; 0 for a row without labels."""
    model.eval()
    inputs = {k: v for k, v in batch.items() if k != "idx"}
    out = []
    with torch.no_grad():
        for i in range(len(batch["labels"])):
            row = {k: v[i : i + 1] for k, v in inputs.items()}
            out.append(model(**row).loss if (row["labels"] != -100).any() else torch.tensor(0.0))
    return torch.stack(out)


def scored(scorer: siftd.Scorer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.load's
        module = torch.jit.load(io.BytesIO(scorer.archive))
    assert not device_constants(module.inlined_graph)
    return module(*(batch[n] for n in scorer.fields))[0]  # type: ignore[no-any-return]


MODELS = {
    "bert": (bert, "cross_entropy", "rows"),
    "distilbert": (distilbert, "cross_entropy", "rows"),
    "bert_tokens": (lambda: bert(hf.BertForTokenClassification), "cross_entropy", "tokens"),
    "bert_eager_attention": (lambda: bert(attn_implementation="eager"), "cross_entropy", "rows"),
    "llama": (llama, "causal_lm", "next"),
}  # fmt: skip


@pytest.mark.parametrize("padded", [True, False], ids=["padded_example", "full_example"])
@pytest.mark.parametrize("name", MODELS)
def test_text_models_give_their_own_loss_at_any_length(name: str, padded: bool) -> None:
    torch.manual_seed(0)
    make, loss, labels = MODELS[name]
    model = make().train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer = siftd.export_scorer(model, loss, tokens(4, 10, labels, padded))
    assert model.training
    assert scorer.fields == ("input_ids", "attention_mask", "labels"), "without idx"
    assert scorer.sees_logits == (labels == "rows")
    for other in (tokens(6, 10, labels, True), tokens(5, 7, labels, True), tokens(3, 21, labels, False)):
        torch.testing.assert_close(scored(scorer, other), own_losses(model, other), rtol=1e-4, atol=1e-5)


def test_an_image_model() -> None:
    model = vit()
    scorer = siftd.export_scorer(model, "cross_entropy", images(4))
    other = images(7)
    torch.testing.assert_close(scored(scorer, other), own_losses(model, other), rtol=1e-4, atol=1e-5)
    assert [list(e.shape) for e in scorer.state if e.name == "classifier.bias"] == [[3]]


def test_a_batch_of_a_tokenizers_type_and_targets_in_a_tuple() -> None:
    model, batch = bert(), tokens(4, 10, "rows")
    encoding = hf.BatchEncoding({k: batch[k] for k in ("input_ids", "attention_mask")})
    scorer = siftd.export_scorer(model, "cross_entropy", (encoding, batch["labels"]))
    assert scorer.fields == ("0.input_ids", "0.attention_mask", "1")
    named = {"0.input_ids": batch["input_ids"], "0.attention_mask": batch["attention_mask"], "1": batch["labels"]}
    torch.testing.assert_close(scored(scorer, named), own_losses(model, batch), rtol=1e-4, atol=1e-5)


def test_embeddings_in_place_of_tokens() -> None:
    model, batch = bert(), tokens(4, 10, "rows")
    batch["inputs_embeds"] = torch.randn(4, 10, 16, generator=G)
    del batch["input_ids"]
    scorer = siftd.export_scorer(model, "cross_entropy", batch)
    shorter = {k: v[:, :6] if v.dim() > 1 else v for k, v in batch.items()}
    torch.testing.assert_close(scored(scorer, shorter), own_losses(model, shorter), rtol=1e-4, atol=1e-5)


def test_a_lora_model_and_its_weights() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's
        model: Any = get_peft_model(bert(), LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False))
    batch = tokens(4, 10, "rows")
    scorer = siftd.export_scorer(model, "cross_entropy", batch)
    assert scorer.fields == ("input_ids", "attention_mask", "labels")
    names = {n for n, _ in model.named_parameters()} | {n for n, _ in model.named_buffers()}
    assert {e.name for e in scorer.state} <= names
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained <= {e.name for e in scorer.state}
    torch.testing.assert_close(scored(scorer, batch), own_losses(model, batch), rtol=1e-4, atol=1e-5)


def test_a_model_in_bfloat16_gives_float32_columns() -> None:
    model = bert().bfloat16()
    scorer = siftd.export_scorer(model, "cross_entropy", tokens(4, 10, "rows"))
    got = scored(scorer, batch := tokens(5, 8, "rows"))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, own_losses(model, batch).float(), rtol=0.05, atol=0.05)


def test_a_compiled_model_that_scales_its_gradients_with_hooks() -> None:
    model = bert()
    model.register_full_backward_hook(lambda module, grad_in, grad_out: None)
    compiled: nn.Module = torch.compile(model, backend="eager")  # type: ignore[assignment]
    batch = tokens(4, 10, "rows")
    scorer = siftd.export_scorer(compiled, "cross_entropy", batch)
    assert not any("_orig_mod" in e.name for e in scorer.state)
    torch.testing.assert_close(scored(scorer, batch), own_losses(model, batch), rtol=1e-4, atol=1e-5)


def test_a_model_that_makes_its_decoders_input_of_the_labels() -> None:
    config = hf.T5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    model = hf.T5ForConditionalGeneration(config)

    def fn(model: Any, batch: Any) -> torch.Tensor:
        logits = model(**batch).logits
        losses = F.cross_entropy(logits.transpose(1, 2), batch["labels"], reduction="none")
        mean: torch.Tensor = losses.sum(1) / (batch["labels"] != -100).sum(1)
        return mean

    batch = tokens(4, 10, "rows")
    del batch["idx"]
    batch["labels"] = torch.randint(1, 50, (4, 6), generator=G)
    scorer = siftd.export_scorer(model, BatchLoss(fn), batch)
    other = {k: v[:3, :4] for k, v in batch.items()}
    torch.testing.assert_close(scored(scorer, other), own_losses(model, other), rtol=1e-4, atol=1e-5)
