# SPDX-License-Identifier: Apache-2.0
"""A script for Amazon SageMaker: BERT with the Hugging Face Trainer, sifted by enable_sifting or by a subclass that
returns the SiftingDataloader. test_smart_sifting_scripts.py runs it on siftd."""

import argparse
from typing import Any

import torch
from smart_sifting.data_model.data_model_interface import SiftingBatch, SiftingBatchTransform
from smart_sifting.data_model.list_batch import ListBatch
from smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from smart_sifting.integrations.trainer import enable_sifting
from smart_sifting.loss.abstract_sift_loss_module import Loss
from smart_sifting.sift_config.sift_configs import LossConfig, RelativeProbabilisticSiftConfig, SiftingBaseConfig
from torch.nn import CrossEntropyLoss
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments


class Sentences(Dataset):
    def __init__(self, rows: int):
        kind = torch.randint(0, 2, (rows, 1))
        own = torch.where(torch.rand(rows, 12) < 0.8, kind, 1 - kind)
        self.ids = 5 + 20 * own + torch.randint(0, 20, (rows, 12))
        self.mask = (torch.arange(12) < torch.randint(4, 13, (rows, 1))).long()
        self.labels = torch.where(torch.rand(rows) < 0.9, kind[:, 0], 1 - kind[:, 0])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"input_ids": self.ids[i], "attention_mask": self.mask[i], "labels": self.labels[i]}


class BertLoss(Loss):
    def loss(self, model, transformed_batch, original_batch):
        per_sample = CrossEntropyLoss(reduction="none")
        logits = model(**original_batch).logits
        return per_sample(logits, original_batch.get("labels"))


class ListTransform(SiftingBatchTransform):
    def transform(self, batch: Any) -> SiftingBatch:
        samples = zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True)
        return ListBatch(list(samples), batch["labels"].tolist())

    def reverse_transform(self, list_batch: ListBatch):
        ids, mask = zip(*list_batch.inputs, strict=True)
        return {
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.tensor(mask),
            "labels": torch.tensor(list_batch.labels),
        }


def sift_config(args) -> RelativeProbabilisticSiftConfig:
    return RelativeProbabilisticSiftConfig(
        beta_value=args.beta,
        loss_history_length=500,
        loss_based_sift_config=LossConfig(sift_config=SiftingBaseConfig(sift_delay=0)),
    )


class SiftingTrainer(Trainer):
    def get_train_dataloader(self):
        return SiftingDataloader(
            sift_config=sift_config(args),
            orig_dataloader=super().get_train_dataloader(),
            batch_transforms=ListTransform(),
            loss_impl=BertLoss(),
            model=self.model,
        )


def main(args):
    torch.manual_seed(7)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            initializer_range=0.2,  # losses differ from the start, as those of a pretrained model do
        )
    )
    dataset = Sentences(args.rows)
    training_args = TrainingArguments(
        output_dir=args.output_dir,
        num_train_epochs=args.epochs,
        max_steps=args.max_steps,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=100,
        learning_rate=1e-4,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    kind = SiftingTrainer if args.subclass else Trainer
    trainer = kind(model=model, args=training_args, train_dataset=dataset, eval_dataset=dataset)
    if not args.subclass:
        enable_sifting(trainer, sift_config(args), loss=BertLoss(), set_epochs=bool(args.set_epochs))
    print(f"loss: {trainer.evaluate()['eval_loss']}")
    trainer.train()
    print(f"loss: {trainer.evaluate()['eval_loss']}")
    print(f"steps: {trainer.state.global_step} of {trainer.state.max_steps}, epoch {trainer.state.epoch}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", default="out")
    parser.add_argument("--subclass", type=int, default=0)
    parser.add_argument("--set_epochs", type=int, default=0)
    parser.add_argument("--beta", type=float, default=1)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--max_steps", type=int, default=-1)
    args = parser.parse_args()
    main(args)
