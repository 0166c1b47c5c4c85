# SPDX-License-Identifier: Apache-2.0
"""MosaicML Composer's own Trainer around a SiftingDataLoader. Composer 0.32 asks for an older torch than siftd's tests
run on, so it is not in requirements.txt; where it can be imported, this runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import siftd
from siftd.errors import ConfigError
from support import Rows, Worker, toy_model

composer = pytest.importorskip("composer", exc_type=ImportError)

from siftd.composer import SiftingCallback, batch_loss  # noqa: E402

BATCH, STEPS = 16, 8  # rows of a batch, batches of an epoch


class Classifier(composer.ComposerModel):
    def __init__(self) -> None:
        super().__init__()
        self.net = toy_model()

    def forward(self, batch: Any) -> torch.Tensor:
        return self.net(batch[0])

    def loss(self, outputs: torch.Tensor, batch: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        return F.cross_entropy(outputs, batch[1], *args, **kwargs)


class Seen(composer.Callback):
    """Sample ids of each batch that was trained."""

    def __init__(self, loader: siftd.SiftingDataLoader) -> None:
        self.loader = loader
        self.ids: list[list[int]] = []

    def batch_end(self, state: Any, logger: Any) -> None:
        assert self.loader.last_batch_info is not None
        ids = self.loader.last_batch_info.ids.astype(int).tolist()
        assert torch.equal(state.batch[1].cpu(), Rows(400).y[ids])
        self.ids.append(ids)


def make(worker: Worker, duration: str, **options: Any) -> tuple[Any, Seen, siftd.SiftingDataLoader]:
    model = Classifier()
    data = DataLoader(Rows(400), BATCH, shuffle=True, generator=torch.Generator().manual_seed(5))
    loader = siftd.SiftingDataLoader(
        data,
        model=model,
        loss=batch_loss(),
        workers=[worker.endpoint],
        policy=siftd.Uniform(0.5),
        steps_per_epoch=STEPS,
        sync_every=2,
        seed=7,
    )
    seen = Seen(loader)
    trainer = composer.Trainer(
        model=model,
        train_dataloader=loader,
        max_duration=duration,
        optimizers=torch.optim.SGD(model.parameters(), 0.05),
        callbacks=[SiftingCallback(loader, log_every=4), seen],
        device="cpu",
        progress_bar=False,
        **options,
    )
    return trainer, seen, loader


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """The ids of two epochs without interruption."""
    logger = composer.loggers.InMemoryLogger()
    with Worker(tmp_path_factory.mktemp("worker")) as worker:
        trainer, seen, loader = make(worker, "2ep", loggers=[logger])
        trainer.fit()
        trainer.close()
    stats = loader.stats()
    assert stats.steps == stats.batches == 2 * STEPS == int(trainer.state.timestamp.batch)
    assert stats.trained == 2 * STEPS * BATCH
    assert stats.model_versions >= STEPS
    logged = logger.data["sifting/trained"]
    assert [value for _, value in logged] == [64.0, 128.0, 192.0, 256.0, 256.0]
    return seen.ids


def test_two_epochs_are_trained_as_the_loader_gives_them(whole: list[list[int]]) -> None:
    assert [len(ids) for ids in whole] == [BATCH] * 2 * STEPS
    first = [i for ids in whole[:STEPS] for i in ids]
    assert len(set(first)) == len(first)


@pytest.mark.parametrize("stop", [5, STEPS, 11], ids=["in-the-first-epoch", "between-epochs", "in-the-second-epoch"])
def test_a_run_resumes_where_its_checkpoint_stands(
    stop: int, whole: list[list[int]], worker: Worker, tmp_path: Path
) -> None:
    trainer, before, _ = make(worker, f"{stop}ba", save_folder=str(tmp_path), save_interval=f"{stop}ba")
    trainer.fit()
    trainer.close()
    trainer, after, loader = make(worker, "2ep", load_path=str(tmp_path / "latest-rank0.pt"))
    trainer.fit()
    trainer.close()
    assert int(trainer.state.timestamp.batch) == 2 * STEPS
    assert loader.stats().steps == 2 * STEPS
    assert before.ids + after.ids == whole


def test_composers_own_selective_backprop_is_refused_beside_it(worker: Worker) -> None:
    trainer, _, loader = make(worker, "2ba", algorithms=[composer.algorithms.SelectiveBackprop()])
    with pytest.raises(ConfigError, match="algorithms is 'SelectiveBackprop'"):
        trainer.fit()
    trainer.close()
    with pytest.raises(siftd.WorkerError, match="closed"):
        next(iter(loader))
