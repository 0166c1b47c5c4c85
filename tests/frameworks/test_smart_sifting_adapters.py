# SPDX-License-Identifier: Apache-2.0
"""TrainingMetricsRecorder and enable_sifting at their edges."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

import siftd
from siftd.compat.smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from siftd.compat.smart_sifting.integrations.trainer import LossImplementationNotProvidedException, enable_sifting
from siftd.compat.smart_sifting.loss.abstract_sift_loss_module import Loss
from siftd.compat.smart_sifting.metrics.lightning import TrainingMetricsRecorder
from support import Rows

LOGGER = "siftd.compat.smart_sifting"
CONFIG = {
    "beta_value": 1,
    "loss_history_length": 100,
    "loss_based_sift_config": {"sift_config": {"sift_delay": 0}},
}


class Lit(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 5)
        self.rates: list[float] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.01)
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, (total - step) / max(1, total)))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class LitLoss(Loss):
    def loss(self, model: Any, transformed_batch: Any, original_batch: Any = None) -> torch.Tensor:
        return nn.functional.cross_entropy(model(original_batch[0]), original_batch[1], reduction="none")


class Data(pl.LightningDataModule):
    """`train` is asked for when the trainer asks."""

    def __init__(self, train: Any) -> None:
        super().__init__()
        self.train = train

    def train_dataloader(self) -> Any:
        return self.train()


def fit(module: pl.LightningModule, train: Any, *callbacks: Any, **options: Any) -> pl.Trainer:
    settings = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False} | options
    trainer = pl.Trainer(callbacks=list(callbacks), **settings)
    trainer.fit(module, Data(train))
    return trainer


def sifting(module: nn.Module) -> SiftingDataloader:
    return SiftingDataloader(CONFIG, DataLoader(Rows(400), 10), LitLoss(), module, workers="inline", seed=1)


def lines(caplog: pytest.LogCaptureFixture, begin: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == LOGGER and r.getMessage().startswith(begin)]


# ------------------------------------------------------------ TrainingMetricsRecorder
def test_recorder_drives_the_loader_and_gives_schedules_a_length(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    module, made = Lit(), []
    trainer = fit(module, lambda: made.append(sifting(module)) or made[-1], TrainingMetricsRecorder())
    stats = made[-1].stats()
    assert stats.candidates == 400
    assert stats.trained == stats.kept
    assert stats.steps == trainer.global_step == len(lines(caplog, "train step count: "))
    assert module.rates[0] == 0.01 and module.rates[-1] < 0.01, "the schedule goes over at most 40 batches"
    assert not lines(caplog, "siftd: this Trainer")


def test_recorder_counts_optimizer_steps_where_gradients_are_accumulated(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    module, made = Lit(), []
    trainer = fit(
        module, lambda: made.append(sifting(module)) or made[-1], TrainingMetricsRecorder(), accumulate_grad_batches=2
    )
    stats = made[-1].stats()
    assert stats.steps == trainer.global_step == len(lines(caplog, "train optimizer step latency: "))
    assert stats.batches == len(lines(caplog, "train step count: ")) > stats.steps


def test_recorder_leaves_a_script_without_sifting_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    trainer = fit(Lit(), lambda: DataLoader(Rows(400), 10), TrainingMetricsRecorder())
    assert trainer.global_step == 40
    assert type(trainer.train_dataloader) is DataLoader
    assert len(lines(caplog, "train total step latency: ")) == 40


def test_trainer_without_the_recorder_trains_and_is_told_what_it_lacks(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, LOGGER)
    module, made = Lit(), []
    fit(module, lambda: made.append(sifting(module)) or made[-1])
    assert len(lines(caplog, "siftd: this Trainer has no TrainingMetricsRecorder()")) == 1
    assert made[-1].stats().model_versions > 1
    assert made[-1].stats().trained == made[-1].stats().kept


def test_sifting_callback_drives_a_smart_sifting_dataloader_too() -> None:
    from siftd.lightning import Sifting

    module, made = Lit(), []
    fit(module, lambda: made.append(sifting(module)) or made[-1], Sifting())
    assert made[-1].stats().trained == made[-1].stats().kept > 0


def test_recorder_resumes_within_an_epoch_without_repeating_a_row(tmp_path: Path) -> None:
    class Note(pl.Callback):
        def __init__(self, recorder: TrainingMetricsRecorder, until: int) -> None:
            self.recorder, self.until, self.ids = recorder, until, []

        def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
            self.ids += self.recorder.batch_info.ids.tolist()
            if trainer.global_step == self.until:
                trainer.save_checkpoint(tmp_path / "at.ckpt")

    module = Lit()
    first = Note(TrainingMetricsRecorder(), until=6)
    fit(module, lambda: sifting(module), first.recorder, first, max_steps=6)
    second = Note(TrainingMetricsRecorder(), until=-1)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[second.recorder, second],
    )  # fmt: skip
    trainer.fit(module, Data(lambda: sifting(module)), ckpt_path=tmp_path / "at.ckpt")
    every = first.ids + second.ids
    assert len(first.ids) == 60 and second.ids
    assert len(every) == len(set(every))


# ------------------------------------------------------------ enable_sifting
class Named(torch.utils.data.Dataset):
    def __init__(self, n: int = 320) -> None:
        self.rows = Rows(n)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        x, y = self.rows[i]
        return {"x": x, "labels": y}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layer(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class NamedLoss(Loss):
    def loss(self, model: Any, transformed_batch: Any, original_batch: Any) -> torch.Tensor:
        logits = model(**original_batch)["logits"]
        return nn.functional.cross_entropy(logits, original_batch["labels"], reduction="none")


def trainer(tmp_path: Path, **options: Any) -> Trainer:
    settings = {"output_dir": str(tmp_path), "per_device_train_batch_size": 16, "num_train_epochs": 3}
    settings |= {"use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
    return Trainer(Model(), TrainingArguments(**(settings | options)), train_dataset=Named())


@pytest.mark.parametrize(
    ("delay", "repeat", "steps"),
    # 20 batches a pass; beta 3 keeps a quarter of those after the delay.
    [(0, False, 5), (1000, False, 20), (30, False, 13), (4, True, 8)],
)
def test_enable_sifting_plans_as_many_steps_as_its_passes_keep(
    tmp_path: Path, delay: int, repeat: bool, steps: int
) -> None:
    hf = trainer(tmp_path)
    base = {"sift_delay": delay, "repeat_delay_per_epoch": repeat}
    config = {"beta_value": 3, "loss_history_length": 100, "loss_based_sift_config": {"sift_config": base}}
    handle = enable_sifting(hf, config, loss=NamedLoss(), workers="inline")
    hf.train()
    assert hf.state.global_step == hf.state.max_steps == 3 * steps
    assert handle.loader.stats().trained == 3 * steps * 16
    assert set(hf.lr_scheduler.get_last_lr()) == {0.0}, "the schedule ends where the training does"


def test_enable_sifting_by_max_steps_is_the_trainers_own(tmp_path: Path) -> None:
    hf = trainer(tmp_path, max_steps=12)
    handle = enable_sifting(hf, CONFIG, loss=NamedLoss(), workers="inline")
    hf.train()
    assert hf.state.global_step == 12
    assert handle.loader.stats().batches == 12


def test_enable_sifting_with_set_epochs_makes_passes(tmp_path: Path) -> None:
    hf = trainer(tmp_path)
    handle = enable_sifting(hf, CONFIG, loss=NamedLoss(), set_epochs=True, workers="inline")
    hf.train()
    stats = handle.loader.stats()
    assert stats.candidates == 3 * 320
    assert stats.trained == stats.kept
    assert hf.state.epoch == 3.0


def test_enable_sifting_refuses_at_once(tmp_path: Path) -> None:
    hf = trainer(tmp_path)
    with pytest.raises(LossImplementationNotProvidedException, match="loss"):
        enable_sifting(hf, CONFIG)
    with pytest.raises(siftd.ConfigError, match="beta_value"):
        enable_sifting(hf, CONFIG | {"beta_value": 0}, loss=NamedLoss())
