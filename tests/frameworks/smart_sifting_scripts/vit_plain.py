# SPDX-License-Identifier: Apache-2.0
"""A script for Amazon SageMaker: ViT on images, a plain loop, a list transform. test_smart_sifting_scripts.py runs it
on siftd."""

import argparse
from typing import Any

import torch
from smart_sifting.data_model.data_model_interface import SiftingBatch, SiftingBatchTransform
from smart_sifting.data_model.list_batch import ListBatch
from smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from smart_sifting.loss.abstract_sift_loss_module import Loss
from smart_sifting.sift_config.sift_configs import LossConfig, RelativeProbabilisticSiftConfig, SiftingBaseConfig
from torch.utils.data import DataLoader
from transformers import ViTConfig, ViTForImageClassification


class ImageLoss(Loss):
    def __init__(self):
        self.per_sample = torch.nn.CrossEntropyLoss(reduction="none")

    def loss(self, model: torch.nn.Module, transformed_batch: SiftingBatch, original_batch: Any = None):
        device = next(model.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in original_batch.items()}
        return self.per_sample(model(**batch).logits, batch["labels"])


class ImageTransform(SiftingBatchTransform):
    def transform(self, batch: Any):
        images, labels = [], []
        for i in range(len(batch["labels"])):
            images.append(batch["pixel_values"][i])
            labels.append(batch["labels"][i])
        return ListBatch(images, labels)

    def reverse_transform(self, list_batch: ListBatch):
        return {"pixel_values": torch.stack(list_batch.inputs), "labels": torch.stack(list_batch.labels)}


def images(rows: int) -> list[dict[str, Any]]:
    """Four kinds of noisy images, each bright in its own corner."""
    labels = torch.randint(0, 4, (rows,)).tolist()
    pixels = torch.randn(rows, 3, 16, 16)
    for i, label in enumerate(labels):
        top, left = 8 * (label // 2), 8 * (label % 2)
        pixels[i, :, top : top + 8, left : left + 8] += 0.5
    return [{"pixel_values": p, "label": label} for p, label in zip(pixels, labels, strict=True)]


def collate_fn(examples):
    pixel_values = torch.stack([example["pixel_values"] for example in examples])
    labels = torch.tensor([example["label"] for example in examples])
    return {"pixel_values": pixel_values, "labels": labels}


def evaluate(model, dataloader) -> float:
    model.eval()
    with torch.no_grad():
        losses = [model(**batch).loss for batch in dataloader]
    model.train()
    return torch.stack(losses).mean().item()


def main(args):
    torch.manual_seed(args.seed)
    model = ViTForImageClassification(
        ViTConfig(
            image_size=16,
            patch_size=8,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            num_labels=4,
            initializer_range=0.2,  # losses differ from the start, as those of a pretrained model do
        )
    )
    dataset = images(args.rows)
    train_dataloader = DataLoader(dataset, shuffle=True, collate_fn=collate_fn, batch_size=args.batch_size)
    eval_dataloader = DataLoader(dataset, collate_fn=collate_fn, batch_size=100)
    num_training_steps = args.num_train_epochs * len(train_dataloader)
    train_dataloader = SiftingDataloader(
        sift_config=RelativeProbabilisticSiftConfig(
            beta_value=3,
            loss_history_length=500,
            loss_based_sift_config=LossConfig(sift_config=SiftingBaseConfig(sift_delay=10)),
        ),
        orig_dataloader=train_dataloader,
        batch_transforms=ImageTransform(),
        loss_impl=ImageLoss(),
        model=model,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / num_training_steps))
    print(f"loss: {evaluate(model, eval_dataloader)}")
    for _epoch in range(args.num_train_epochs):
        model.train()
        for batch in train_dataloader:
            batch = {name: tensor.to("cpu") for name, tensor in batch.items()}
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        print(f"loss: {evaluate(model, eval_dataloader)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_train_epochs", type=int, default=3)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=7)
    main(parser.parse_args())
