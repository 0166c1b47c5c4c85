# SPDX-License-Identifier: Apache-2.0
"""A script for Amazon SageMaker: BERT on sentences, a plain loop. test_smart_sifting_scripts.py runs it on siftd."""

import argparse
from typing import Any

import torch
from smart_sifting.data_model.data_model_interface import SiftingBatch
from smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from smart_sifting.loss.abstract_sift_loss_module import Loss
from smart_sifting.sift_config.sift_configs import LossConfig, RelativeProbabilisticSiftConfig, SiftingBaseConfig
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertForSequenceClassification


class BertLoss(Loss):
    def __init__(self):
        self.per_sample = torch.nn.CrossEntropyLoss(reduction="none")

    def loss(self, model: torch.nn.Module, transformed_batch: SiftingBatch, original_batch: Any = None):
        device = next(model.parameters()).device
        batch = [t.to(device) for t in original_batch]
        return self.per_sample(model(batch).logits, batch[2])


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        config = BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            initializer_range=0.2,  # losses differ from the start, as those of a pretrained model do
        )
        self.bert = BertForSequenceClassification(config)

    def forward(self, batch):
        return self.bert(batch[0], token_type_ids=None, attention_mask=batch[1])


def sentences(rows: int) -> TensorDataset:
    """Two kinds of sentences, each mostly in its own words; one label in ten is wrong."""
    kind = torch.randint(0, 2, (rows, 1))
    own = torch.where(torch.rand(rows, 12) < 0.8, kind, 1 - kind)
    ids = 5 + 20 * own + torch.randint(0, 20, (rows, 12))
    mask = (torch.arange(12) < torch.randint(4, 13, (rows, 1))).long()
    labels = torch.where(torch.rand(rows) < 0.9, kind[:, 0], 1 - kind[:, 0])
    return TensorDataset(ids * mask, mask, labels)


def evaluate(model, dataset) -> float:
    model.eval()
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(list(dataset.tensors)).logits, dataset.tensors[2])
    model.train()
    return loss.item()


def main(args):
    torch.manual_seed(7)
    model = Classifier()
    dataset = sentences(args.rows)
    sift_config = RelativeProbabilisticSiftConfig(
        beta_value=args.beta,
        loss_history_length=500,
        loss_based_sift_config=LossConfig(sift_config=SiftingBaseConfig(sift_delay=args.delay)),
    )
    train_dataloader = SiftingDataloader(
        sift_config=sift_config,
        orig_dataloader=DataLoader(dataset, args.batch_size, shuffle=True),
        loss_impl=BertLoss(),
        model=model,
        log_batch_data=False,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    criterion = torch.nn.CrossEntropyLoss()
    print(f"loss: {evaluate(model, dataset)}")
    for _epoch in range(args.epochs):
        for batch in train_dataloader:
            loss = criterion(model(batch).logits, batch[2])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"loss: {evaluate(model, dataset)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--beta", type=float, default=1)
    parser.add_argument("--delay", type=int, default=0)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-4)
    main(parser.parse_args())
