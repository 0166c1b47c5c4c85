# SPDX-License-Identifier: Apache-2.0
"""A script for Amazon SageMaker: BERT on sentences with PyTorch Lightning. test_smart_sifting_scripts.py runs it on
siftd."""

import argparse
import logging
from typing import Any

import pytorch_lightning as pl
import torch
from smart_sifting.data_model.data_model_interface import SiftingBatch, SiftingBatchTransform
from smart_sifting.data_model.list_batch import ListBatch
from smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from smart_sifting.loss.abstract_sift_loss_module import Loss
from smart_sifting.metrics.lightning import TrainingMetricsRecorder
from smart_sifting.sift_config.sift_configs import (
    LossConfig,
    RelativeProbabilisticSiftConfig,
    SiftingBaseConfig,
)
from torch.optim import AdamW
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup


class BertLoss(Loss):
    def __init__(self):
        self.per_sample = torch.nn.CrossEntropyLoss(reduction="none")

    def loss(self, model: torch.nn.Module, transformed_batch: SiftingBatch, original_batch: Any = None):
        device = next(model.parameters()).device
        batch = [t.to(device) for t in original_batch]
        return self.per_sample(model(batch).logits, batch[2])


class PairTransform(SiftingBatchTransform):
    """Samples as (ids, mask), labels as numbers."""

    def transform(self, batch: Any):
        pairs = [(batch[0][i], batch[1][i]) for i in range(len(batch[0]))]
        return ListBatch(pairs, batch[2].tolist())

    def reverse_transform(self, list_batch: ListBatch):
        ids = torch.stack([i for i, _ in list_batch.inputs])
        mask = torch.stack([m for _, m in list_batch.inputs])
        return [ids, mask, torch.tensor(list_batch.labels, dtype=torch.int64)]


class Sentences(pl.LightningDataModule):
    def __init__(self, model, args):
        super().__init__()
        self.model = model
        self.args = args

    def setup(self, stage: str) -> None:
        kind = torch.randint(0, 2, (self.args.rows, 1))
        own = torch.where(torch.rand(self.args.rows, 12) < 0.8, kind, 1 - kind)
        ids = 5 + 20 * own + torch.randint(0, 20, (self.args.rows, 12))
        mask = (torch.arange(12) < torch.randint(4, 13, (self.args.rows, 1))).long()
        labels = torch.where(torch.rand(self.args.rows) < 0.9, kind[:, 0], 1 - kind[:, 0])
        self.train = TensorDataset(ids * mask, mask, labels)

    def train_dataloader(self):
        dataloader = DataLoader(self.train, self.args.batch_size, shuffle=True)
        if not self.args.sifting:
            return dataloader
        sift_config = RelativeProbabilisticSiftConfig(
            beta_value=self.args.beta,
            loss_history_length=500,
            loss_based_sift_config=LossConfig(sift_config=SiftingBaseConfig(sift_delay=self.args.delay)),
        )
        return SiftingDataloader(
            sift_config=sift_config,
            orig_dataloader=dataloader,
            loss_impl=BertLoss(),
            model=self.model,
            batch_transforms=PairTransform() if self.args.transform else None,
        )

    def val_dataloader(self):
        return DataLoader(self.train, 100)


class Classifier(pl.LightningModule):
    def __init__(self, lr: float):
        super().__init__()
        self.save_hyperparameters()
        self.model = BertForSequenceClassification(
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
        self.criterion = torch.nn.CrossEntropyLoss()

    def forward(self, batch):
        return self.model(batch[0], token_type_ids=None, attention_mask=batch[1])

    def training_step(self, batch, batch_idx):
        loss = self.criterion(self(batch).logits, batch[2])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.criterion(self(batch).logits, batch[2]))

    def on_validation_epoch_end(self):
        if self.trainer.is_global_zero:
            print(f"loss: {self.trainer.callback_metrics['val_loss'].item()}")

    def configure_optimizers(self):
        optimizer = AdamW(self.parameters(), lr=self.hparams.lr)
        scheduler = get_linear_schedule_with_warmup(
            optimizer, num_warmup_steps=0, num_training_steps=self.trainer.estimated_stepping_batches
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def main(args):
    logging.basicConfig(level=args.log_level)
    pl.seed_everything(7)
    model = Classifier(args.lr)
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        strategy="ddp",
        accelerator="cpu",
        devices=args.devices,
        gradient_clip_val=1,
        callbacks=[TrainingMetricsRecorder()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.validate(model, Sentences(model, args), verbose=False)
    trainer.fit(model, Sentences(model, args))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sifting", type=int, default=1)
    parser.add_argument("--transform", type=int, default=0)
    parser.add_argument("--beta", type=float, default=1)
    parser.add_argument("--delay", type=int, default=0)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--log_level", type=int, default=30)
    main(parser.parse_args())
