# SPDX-License-Identifier: Apache-2.0
"""Tiny models, texts and Trainers for the tests of siftd.transformers. A text's first two tokens tell its row."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

VOCABULARY = 64
BASE = 40  # row = 40 * (first token - 4) + second token - 4


def tokenizer() -> PreTrainedTokenizerFast:
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3} | {f"w{i}": i for i in range(4, VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="[UNK]")),
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
    )  # fmt: skip


class Texts(Dataset[dict[str, Any]]):
    """n rows of 2 to 9 tokens: ids, mask, label."""

    def __init__(self, n: int, classes: int = 3) -> None:
        draw = random.Random(5)
        self.rows = []
        for i in range(n):
            ids = [4 + i // BASE, 4 + i % BASE] + [draw.randrange(4, VOCABULARY) for _ in range(draw.randrange(8))]
            self.rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": i % classes})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.rows[i]


def rows_of(input_ids: torch.Tensor) -> list[int]:
    return ((input_ids[:, 0] - 4) * BASE + input_ids[:, 1] - 4).tolist()


def bert_config(**changes: Any) -> BertConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertConfig(vocab_size=VOCABULARY, max_position_embeddings=32, **{"num_labels": 3, **sizes, **changes})


def bert(**changes: Any) -> BertForSequenceClassification:
    torch.manual_seed(1)
    return BertForSequenceClassification(bert_config(**changes))


class RecordingTrainer(Trainer):
    """Notes what each optimizer step trained: the rows `trained[i]`, at the global step `steps[i]`, at `epochs[i]`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pending: list[int] = []
        self.trained: list[list[int]] = []
        self.steps: list[int] = []
        self.epochs: list[float] = []
        self.batches: list[dict[str, torch.Tensor]] = []
        self.add_callback(_Recorder(self))

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.pending += rows_of(inputs["input_ids"])
        self.batches.append({k: v.clone() for k, v in inputs.items()})
        return super().training_step(model, inputs, *args, **kwargs)

    @property
    def all_trained(self) -> list[int]:
        return [row for rows in self.trained for row in rows]


class _Recorder(TrainerCallback):
    def __init__(self, trainer: RecordingTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.trained.append(self.trainer.pending)
        self.trainer.steps.append(state.global_step)
        self.trainer.epochs.append(state.epoch)
        self.trainer.pending = []


class DieAt(TrainerCallback):
    """Ends the process without a word, as a kill does; what was trained is on disk then."""

    def __init__(self, trainer: RecordingTrainer, step: int, out: Path) -> None:
        self.trainer, self.step, self.out = trainer, step, out

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= self.step:
            write(self.trainer, self.out)
            os._exit(9)


def write(trainer: RecordingTrainer, out: Path, **more: Any) -> None:
    out.write_text(json.dumps({"steps": trainer.steps, "epochs": trainer.epochs, "trained": trainer.trained, **more}))


def make_trainer(folder: Path, rows: int = 120, **options: Any) -> RecordingTrainer:
    kind = options.pop("kind", RecordingTrainer)
    own = {
        k: options.pop(k)
        for k in ("train_dataset", "eval_dataset", "model", "data_collator", "processing_class")
        if k in options
    }
    given = {
        "train_dataset": Texts(rows),
        "model": bert(),
        "data_collator": DataCollatorWithPadding(tokenizer()),
    } | own
    options = {
        "output_dir": str(folder), "per_device_train_batch_size": 8, "use_cpu": True, "report_to": [],
        "disable_tqdm": True, "logging_steps": 5, "save_strategy": "no", "seed": 3, **options,
    }  # fmt: skip
    return kind(args=TrainingArguments(**options), **given)
