# SPDX-License-Identifier: Apache-2.0
"""Exporting LightningModules, alone and while a Trainer holds them."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import siftd
from siftd.losses import BatchLoss
from support import toy_model

G = torch.Generator().manual_seed(9)
X, Y = torch.randn(12, 8, generator=G), torch.arange(12) % 5


class Lit(L.LightningModule):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = toy_model()
        self.example_input_array = X[:2]
        self.register_buffer("shift", torch.arange(5.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.to(self.device)) + self.shift

    def losses(self, batch: Any) -> torch.Tensor:
        x, y = batch
        losses = F.cross_entropy(self(x), y, reduction="none")
        self.log("mean", losses.mean())
        return losses

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return self.losses(batch).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Exports(L.Callback):
    """Exports inside the training loop, as the adapter does."""

    def __init__(self, loss: Any) -> None:
        self.loss = loss
        self.scorer: siftd.Scorer | None = None
        self.want = torch.empty(0)
        self.kept: list[bool] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if self.scorer is None:
            logged = set(trainer.callback_metrics)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                self.scorer = siftd.export_scorer(module, self.loss, batch)
            self.kept = [module.trainer is trainer, module.training, set(trainer.callback_metrics) == logged]
            module.eval()
            with torch.no_grad():
                self.want = F.cross_entropy(module(X), Y, reduction="none")
            module.train()


@pytest.mark.parametrize(
    "loss", ["cross_entropy", BatchLoss(lambda module, batch: module.losses(batch))], ids=["name", "batch_loss"]
)
def test_a_module_is_exported_while_its_trainer_runs(loss: Any, tmp_path: Path) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    exports = Exports(loss)
    trainer = L.Trainer(
        max_steps=2, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, callbacks=[exports],
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    module = Lit(width=8)
    trainer.fit(module, DataLoader(TensorDataset(X, Y), batch_size=6))
    assert exports.kept == [True, True, True], "the module keeps its trainer and mode, and logs nothing"
    scorer = exports.scorer
    assert scorer is not None
    assert scorer.fields == ("0", "1")
    assert "shift" in [e.name for e in scorer.state], "a buffer that a checkpoint leaves out"
    loaded = torch.jit.load(io.BytesIO(scorer.archive))
    torch.testing.assert_close(loaded(X, Y)[0], exports.want, rtol=1e-4, atol=1e-5)


def test_a_module_without_a_trainer() -> None:
    module = Lit()
    with pytest.raises(RuntimeError, match="not attached"):
        module.trainer  # noqa: B018
    scorer = siftd.export_scorer(module, nn.CrossEntropyLoss(), (X, Y))
    module.eval()
    want = F.cross_entropy(module(X), Y, reduction="none").detach()
    torch.testing.assert_close(torch.jit.load(io.BytesIO(scorer.archive))(X, Y)[0], want, rtol=1e-4, atol=1e-5)
