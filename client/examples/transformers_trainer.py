# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's Trainer, sifted by one call. A small ConvNeXt, made from its configuration, learns digits.

    python transformers_trainer.py
    python transformers_trainer.py --steps 30                          # an epoch of 30 batches: schedules fit exactly
    python transformers_trainer.py --folder run --epochs 4
    python transformers_trainer.py --folder run --epochs 8 --resume
    torchrun --standalone --nproc-per-node=2 transformers_trainer.py --steps 15

Training log entries hold the sifting's figures ("sifting/kept_share", ...), and so do the trackers of report_to.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import torch
from sklearn.datasets import load_digits
from transformers import ConvNextV2Config, ConvNextV2ForImageClassification, Trainer, TrainingArguments, set_seed

import siftd.transformers


class Digits(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """scikit-learn's 1,797 digits: pixel_values float32 [1, 8, 8] in [-1, 1], labels. `held_out`: every fifth."""

    def __init__(self, held_out: bool) -> None:
        data = load_digits()
        rows = torch.tensor([i for i in range(len(data.target)) if (i % 5 == 0) == held_out])
        self.images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1)[rows] / 8 - 1
        self.labels = torch.tensor(data.target)[rows]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[i], "labels": self.labels[i]}


def accuracy(predicted: Any) -> dict[str, float]:
    return {"accuracy": float((predicted.predictions.argmax(1) == predicted.label_ids).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, help="batches of an epoch on each rank; default: an epoch is a pass")
    parser.add_argument("--folder", help="of checkpoints; default: none are kept")
    parser.add_argument("--resume", action="store_true", help="from the last checkpoint in --folder")
    args = parser.parse_args()

    set_seed(0)
    config = ConvNextV2Config(
        num_channels=1, num_labels=10, patch_size=2, num_stages=2, hidden_sizes=[32, 64], depths=[1, 1]
    )
    options = TrainingArguments(
        output_dir=args.folder or tempfile.mkdtemp(),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=360,
        learning_rate=2e-3,
        save_strategy="epoch" if args.folder else "no",
        logging_steps=20,
        use_cpu=not torch.accelerator.is_available(),
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=ConvNextV2ForImageClassification(config), args=options, train_dataset=Digits(held_out=False),
        eval_dataset=Digits(held_out=True), compute_metrics=accuracy,
    )  # fmt: skip
    sifting = siftd.transformers.enable_sifting(trainer, workers="auto", steps_per_epoch=args.steps)
    trainer.train(resume_from_checkpoint=args.resume)

    found = trainer.evaluate()["eval_accuracy"]
    print(f"rank {options.process_index}: {trainer.state.global_step} steps", flush=True)
    if options.process_index == 0:
        print(f"validation accuracy {found:.3f}")
        print(sifting.loader.summary())


if __name__ == "__main__":
    main()
