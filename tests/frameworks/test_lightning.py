# SPDX-License-Identifier: Apache-2.0
"""siftd.lightning with a real Trainer on one rank: where the data comes from, what counts as a step, how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.seed import pl_worker_init_function
from torch import nn

import siftd
from lightning_job import Lit, Sifting, Validated, data, kept, pl, sift, trainer
from siftd.compat.smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from siftd.compat.smart_sifting.loss.abstract_sift_loss_module import Loss
from siftd.compat.smart_sifting.sift_config.sift_configs import RelativeProbabilisticSiftConfig
from support import ROOT, Worker

JOB = Path(__file__).with_name("lightning_job.py")


class Probe(pl.Callback):
    """Calls `look` at the end of training, when the loader is still there."""

    def __init__(self, look: Callable[[Any], None]) -> None:
        self.look = look

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.look(trainer)


class Seen(pl.Callback):
    """Facts at the end of training: the loader's figures, the worker's model."""

    def __init__(self, sifting: Sifting, worker: Worker | None = None) -> None:
        self.sifting, self.worker = sifting, worker
        self.stats: siftd.Stats
        self.model_version = 0

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.stats = self.sifting.loader.stats()
        if self.worker is not None:
            self.model_version = int(self.worker.status()["model_version"])


def module_of(sifting: Sifting, kind: type[Lit] = Lit) -> Any:
    module = kind()
    module.sifting = sifting
    return module


class Hooked(Lit):
    def train_dataloader(self) -> Any:
        return data()


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return data()


@pytest.mark.parametrize("where", ["fit", "module", "datamodule"])
def test_the_callback_alone_sifts_data_from_wherever_it_comes(worker: Worker, tmp_path: Path, where: str) -> None:
    sifting = sift(worker.endpoint)
    module = module_of(sifting, Hooked if where == "module" else Lit)
    seen = Seen(sifting, worker)
    fit = trainer(tmp_path, sifting, seen)
    kind, source = type(fit), fit.fit_loop._data_source
    fit.fit(module, **{"fit": {"train_dataloaders": data()}, "datamodule": {"datamodule": Data()}}.get(where, {}))
    rows = module.rows()
    assert {epoch for epoch, _ in rows} == {0, 1, 2}
    assert set(rows.values()) == {1}
    assert 0.3 < len(rows) / (3 * 96) < 0.7
    assert seen.stats.steps == fit.global_step == len(module.trained)
    assert seen.stats.trained == len(rows)
    assert seen.model_version == 1 + fit.global_step // 2  # the first weights, then every sync_every steps
    assert sifting.loader is None
    assert type(fit) is kind
    assert vars(source).keys() == {"instance", "name"}


def test_the_kept_rows_are_those_that_a_plain_loop_keeps(worker: Worker, tmp_path: Path) -> None:
    sifting = sift(worker.endpoint)
    module = module_of(sifting)
    trainer(tmp_path, sifting).fit(module, data())
    assert module.rows() == Counter(kept(worker.endpoint, 3))


@pytest.mark.parametrize("manual", [False, True])
def test_accumulated_micro_batches_count_at_the_optimizer_step(worker: Worker, tmp_path: Path, manual: bool) -> None:
    class Manual(Lit):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.manual_backward(loss)
            if (batch_idx + 1) % 3 == 0 or self.trainer.is_last_batch:
                self.optimizers().step()
                self.optimizers().zero_grad()
            return loss

    sifting = sift(worker.endpoint)
    module = module_of(sifting, Manual if manual else Lit)
    seen = Seen(sifting)
    fit = trainer(tmp_path, sifting, seen, **({} if manual else {"accumulate_grad_batches": 3}))
    fit.fit(module, data())
    assert len(module.trained) > fit.global_step == seen.stats.steps
    assert seen.stats.trained == sum(module.rows().values())


def test_a_skipped_epoch_and_validation_in_mid_epoch_lose_no_claims(worker: Worker, tmp_path: Path) -> None:
    class Skips(Validated):
        validated = 0

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if self.current_epoch == 1 and batch_idx == 2 else None

        def on_validation_start(self) -> None:
            self.validated += 1

    sifting = sift(worker.endpoint)
    module = module_of(sifting, Skips)
    trainer(tmp_path, sifting, val_check_interval=2).fit(module, data(), data(16))
    epochs = Counter(epoch for epoch, _ in module.rows())
    assert epochs[1] == 2 * 8
    assert epochs[0] > 32 < epochs[2]
    assert module.validated >= 4


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"limit_train_batches": 4}, 12),
        ({"limit_train_batches": 0.5}, 18),
        ({"limit_train_batches": 500}, 36),  # no more than the loader has
        ({"fast_dev_run": 3}, 3),
        ({"max_steps": 7}, 7),
    ],
)
def test_the_trainers_limits_hold(worker: Worker, tmp_path: Path, options: dict[str, Any], steps: int) -> None:
    sifting = sift(worker.endpoint)
    module = module_of(sifting)
    fit = trainer(tmp_path, sifting, **options)
    fit.fit(module, data())
    assert fit.global_step == steps
    assert set(module.rows().values()) == {1}


def test_with_overfit_batches_the_same_batches_come_again_unsifted(tmp_path: Path) -> None:
    batches: list[list[int]] = []

    class Keeps(Lit):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            batches.append(batch[1].tolist())
            return super().training_step(batch, batch_idx)

    sifting = Sifting(["tcp://127.0.0.1:1"])  # nobody is there
    trainer(tmp_path, sifting, overfit_batches=2).fit(Keeps(), data())
    assert batches == batches[:2] * 3


def test_a_limited_epoch_has_a_length_and_is_validated_at_its_end(worker: Worker, tmp_path: Path) -> None:
    at: list[int] = []

    class Where(pl.Callback):
        def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
            at.append(trainer.global_step)

    sifting = sift(worker.endpoint, steps_per_epoch=6)
    trainer(tmp_path, sifting, Where(), val_check_interval=0.5).fit(module_of(sifting, Validated), data(), data(16))
    assert at == [3, 6, 9, 12, 15, 18]


def test_early_stop_and_a_second_fit_go_on_counting(worker: Worker, tmp_path: Path) -> None:
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            trainer.should_stop = trainer.global_step == 3

    sifting = sift(worker.endpoint)
    module = module_of(sifting)
    seen = Seen(sifting)
    fit = trainer(tmp_path, sifting, Stop(), seen, max_epochs=2)
    fit.fit(module, data())
    assert fit.global_step == 3
    fit.should_stop = False
    fit.fit(module, data())
    assert seen.stats.steps == fit.global_step > 8
    assert {epoch for _, rows in module.trained[3:] for epoch, _ in rows} == {1}


def test_reloaded_data_goes_on_in_the_same_training(worker: Worker, tmp_path: Path) -> None:
    sizes = iter([96, 64, 80])

    class Grows(Lit):
        def train_dataloader(self) -> Any:
            return data(next(sizes))

    sifting = sift(worker.endpoint)
    module = module_of(sifting, Grows)
    seen = Seen(sifting)
    fit = trainer(tmp_path, sifting, seen, reload_dataloaders_every_n_epochs=1)
    fit.fit(module)
    rows = module.rows()
    assert set(rows.values()) == {1}
    assert [max(i for e, i in rows if e == epoch) // 16 for epoch in range(3)] == [5, 3, 4]
    assert seen.stats.steps == fit.global_step


def test_an_exception_comes_out_and_ends_local_workers(tmp_path: Path) -> None:
    class Fails(Lit):
        def on_train_batch_end(self, *args: Any) -> None:
            if self.global_step == 3:
                children.extend(psutil.Process().children(recursive=True))
                raise KeyError("mine")

    children: list[psutil.Process] = []
    sifting = Sifting(1, policy=siftd.Uniform(0.5))
    fit = trainer(tmp_path, sifting)
    with pytest.raises(KeyError, match="mine"):
        fit.fit(module_of(sifting, Fails), data())
    assert children
    psutil.wait_procs(children, timeout=20)
    assert not any(c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in children)
    assert sifting.loader is None


def test_validate_and_test_are_left_alone(tmp_path: Path) -> None:
    class Tested(Validated):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.validation_step(batch, batch_idx)

    sifting = Sifting(["tcp://127.0.0.1:1"])  # nobody is there
    fit = trainer(tmp_path, sifting)
    module = Tested()
    assert "loss" in fit.validate(module, data(), verbose=False)[0]
    assert "loss" in fit.test(module, data(), verbose=False)[0]
    assert sifting.loader is None


# ------------------------------------------------------------ schedules
class Scheduled(Lit):
    """The shape of transformers' get_linear_schedule_with_warmup."""

    def configure_optimizers(self) -> Any:
        self.total = self.trainer.estimated_stepping_batches
        self.rates: list[float] = []
        optimizer = torch.optim.SGD(self.parameters(), 0.1)

        def scale(step: int) -> float:
            warm_up = 2
            if step < warm_up:
                return (step + 1) / warm_up
            return max(0.0, (self.total - step) / max(1, self.total - warm_up))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("accumulate", "bound"), [(1, 36), (5, 9)])
def test_a_linear_schedule_gets_an_upper_bound(worker: Worker, tmp_path: Path, accumulate: int, bound: int) -> None:
    sifting = sift(worker.endpoint, policy=siftd.Uniform(0.9))
    module = module_of(sifting, Scheduled)
    fit = trainer(tmp_path, sifting, accumulate_grad_batches=accumulate)
    fit.fit(module, data())
    assert module.total == bound
    assert bound >= fit.global_step > bound - 7
    assert fit.max_steps == -1
    assert all(rate > 0 for rate in module.rates)
    assert {epoch for epoch, _ in module.rows()} == {0, 1, 2}  # no epoch was cut off
    assert len(module.rows()) > 0.8 * 3 * 96


def test_with_a_known_length_a_schedule_is_exact(worker: Worker, tmp_path: Path) -> None:
    sifting = sift(worker.endpoint, steps_per_epoch=5)
    module = module_of(sifting, Scheduled)
    fit = trainer(tmp_path, sifting)
    fit.fit(module, data())
    assert module.total == fit.global_step == 15
    assert module.rates[-1] == pytest.approx(0.1 / 13)


def test_without_the_callback_the_estimate_is_lightnings_own(worker: Worker, tmp_path: Path) -> None:
    with siftd.SiftingDataLoader(data(), model=Lit(), workers=[worker.endpoint], step_on_next=True) as loader:
        module = Scheduled()
        trainer(tmp_path, max_epochs=1).fit(module, loader)
    assert module.total == -1


# ------------------------------------------------------------ the user's own sifting loader
def own(worker: Worker, model: nn.Module, **options: Any) -> siftd.SiftingDataLoader:
    return siftd.SiftingDataLoader(
        data(), model=model, workers=[worker.endpoint], policy=siftd.Uniform(0.5), seed=3, sync_every=2, **options
    )


@pytest.mark.parametrize("scored", ["module", "part"])
def test_the_callback_drives_the_users_loader(worker: Worker, tmp_path: Path, scored: str) -> None:
    sifting = Sifting()
    module = module_of(sifting)
    seen = Seen(sifting, worker)
    with own(worker, module if scored == "module" else module.net) as loader:
        fit = trainer(tmp_path, sifting, seen, max_epochs=2)
        fit.fit(module, loader)
        assert seen.stats.steps == fit.global_step
        assert seen.model_version == 1 + fit.global_step // 2
        fit.fit_loop.max_epochs = 3
        fit.fit(module, loader)  # the user's loader is not closed
        assert loader.stats().steps == fit.global_step
    assert {epoch for epoch, _ in module.rows()} == {0, 1, 2}
    assert set(module.rows().values()) == {1}


def test_the_callback_drives_the_sagemaker_loader(worker: Worker, tmp_path: Path) -> None:
    class PerRow(Loss):
        def loss(self, model: Any, transformed_batch: Any, original_batch: Any = None) -> Any:
            x, y = transformed_batch
            return F.cross_entropy(model(x), y, reduction="none")

    config = RelativeProbabilisticSiftConfig(
        beta_value=1, loss_history_length=64, loss_based_sift_config={"sift_config": {"sift_delay": 4}}
    )
    sifting = Sifting()
    module = module_of(sifting)
    seen = Seen(sifting)
    loader = SiftingDataloader(
        sift_config=config, orig_dataloader=data(), loss_impl=PerRow(), model=module, workers=[worker.endpoint]
    )
    with loader:
        fit = trainer(tmp_path, sifting, seen)
        fit.fit(module, loader)
    assert seen.stats.steps == fit.global_step == len(module.trained)
    assert seen.stats.trained == sum(module.rows().values())
    assert 0 < seen.stats.dropped < seen.stats.decided


def test_the_callback_drives_a_stream(worker: Worker, tmp_path: Path) -> None:
    candidates = siftd.CandidateLoader([worker.endpoint], data(), epochs=3)
    feeding = threading.Thread(target=candidates.run)
    sifting = Sifting()
    module = module_of(sifting)
    seen = Seen(sifting, worker)
    loader = siftd.StreamLoader(
        [worker.endpoint],
        8,
        model=module,
        example_batch=next(iter(data())),
        policy=siftd.Uniform(0.5),
        seed=3,
        sync_every=2,
    )
    feeding.start()
    with loader:
        fit = trainer(tmp_path, sifting, seen)
        fit.fit(module, loader)
    feeding.join(30)
    assert not feeding.is_alive()
    assert module.rows() == Counter(kept(worker.endpoint, 3))
    assert seen.stats.steps == fit.global_step
    assert seen.model_version == 1 + fit.global_step // 2


def test_a_sifting_loader_trains_without_the_callback(worker: Worker, tmp_path: Path) -> None:
    module = Lit()
    with own(worker, module, step_on_next=True) as loader:
        fit = trainer(tmp_path, max_epochs=2)
        fit.fit(module, loader)
        stats = loader.stats()
        assert int(worker.status()["model_version"]) > 3
    assert stats.batches == fit.global_step
    assert stats.trained == stats.handed_out == stats.kept > 64


# ------------------------------------------------------------ what is scored, and how
def test_the_modules_sifting_loss_is_used(worker: Worker, tmp_path: Path) -> None:
    class Named(Lit):
        def sifting_loss(self, batch: Any) -> torch.Tensor:
            x, y = batch
            return F.cross_entropy(self(x), y, reduction="none") + 100.0

    sifting = sift(worker.endpoint)
    scores: list[float] = []
    module = module_of(sifting, Named)
    trainer(tmp_path, sifting, Probe(lambda _: scores.extend(sifting.batch_info.scores)), max_epochs=1).fit(
        module, data()
    )
    assert scores
    assert all(score > 100 for score in scores)


@pytest.mark.parametrize("named", [False, True])
def test_a_part_of_the_module_can_be_what_is_scored(worker: Worker, tmp_path: Path, named: bool) -> None:
    class Odd(Lit):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("not this one")

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x, y = batch
            return F.cross_entropy(self.net(x), y)

    module = Odd()
    sifting = sift(worker.endpoint, model="net" if named else module.net, loss="cross_entropy")
    seen = Seen(sifting, worker)
    fit = trainer(tmp_path, sifting, seen, max_epochs=1)
    fit.fit(module, data())
    assert seen.stats.dropped > 0
    assert seen.model_version == 1 + fit.global_step // 2


def test_hooks_that_change_batches_after_the_loader_are_told_of(
    worker: Worker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Augments(Lit):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch

    for kind, told in ((Augments, 1), (Lit, 0)):
        caplog.clear()
        sifting = sift(worker.endpoint)
        trainer(tmp_path, sifting, max_epochs=1).fit(module_of(sifting, kind), data())
        assert sum("on_after_batch_transfer" in r.message for r in caplog.records) == told


def test_loading_processes_are_seeded_as_lightning_seeds_them(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_SEED_WORKERS", "1")  # what seed_everything(workers=True) sets
    sifting = sift(worker.endpoint)
    loader = data()
    trainer(tmp_path, sifting, max_epochs=1).fit(module_of(sifting), loader)
    assert loader.worker_init_fn.func is pl_worker_init_function
    assert loader.worker_init_fn.keywords == {"rank": 0}


# ------------------------------------------------------------ errors that say what to do
def test_arguments_are_checked() -> None:
    with pytest.raises(siftd.ConfigError, match="sync_evry.*sync_every"):
        Sifting(sync_evry=3)
    with pytest.raises(siftd.ConfigError, match="step_on_next"):
        Sifting(step_on_next=True)


class TakesIterator(Lit):
    def training_step(self, dataloader_iter: Any) -> Any:
        return None


@pytest.mark.parametrize(
    ("kind", "loaders", "options", "sifting_options", "message"),
    [
        (Lit, lambda: {"a": data(), "b": data()}, {}, {}, "train_dataloader is 'dict'.*one loader"),
        (Lit, lambda: pl.utilities.CombinedLoader([data()]), {}, {}, "train_dataloader is 'CombinedLoader'"),
        (Validated, data, {"val_check_interval": 0.5}, {}, "val_check_interval is 0.5.*steps_per_epoch"),
        (TakesIterator, data, {}, {}, "dataloader_iter"),
        (Lit, data, {}, {"model": "nut"}, "model is 'nut'.*name of a module in Lit"),
    ],
)
def test_what_cannot_be_sifted_is_refused(
    tmp_path: Path, kind: type[Lit], loaders: Any, options: Any, sifting_options: Any, message: str
) -> None:
    sifting = sift("tcp://127.0.0.1:1", **sifting_options)
    with pytest.raises(siftd.ConfigError, match=message):
        trainer(tmp_path, sifting, **options).fit(kind(), loaders(), data(16))


def test_options_beside_the_users_own_loader_are_refused(worker: Worker, tmp_path: Path) -> None:
    module = Lit()
    with own(worker, module) as loader, pytest.raises(siftd.ConfigError, match="has its own"):
        trainer(tmp_path, Sifting(keep=0.5)).fit(module, loader)


# ------------------------------------------------------------ pytorch_lightning
def test_the_other_package_of_lightning(worker: Worker, tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT / "client" / "python"), str(ROOT / "tests" / "python")])
    env = {**os.environ, "PYTHONPATH": path, "LIGHTNING": "pytorch_lightning", "OMP_NUM_THREADS": "1"}
    job = subprocess.run(
        [sys.executable, str(JOB), str(tmp_path), worker.endpoint], env=env, capture_output=True, text=True, timeout=120
    )
    assert job.returncode == 0, job.stderr
    assert "steps with pytorch_lightning" in job.stdout


def test_the_callback_is_one_of_both_packages_where_both_are_used() -> None:
    code = (
        "import lightning.pytorch as a, pytorch_lightning as b; from siftd.lightning import Sifting;"
        "assert issubclass(Sifting, a.Callback) and issubclass(Sifting, b.Callback);"
        "b.Trainer(callbacks=Sifting(), accelerator='cpu', logger=False)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "client" / "python")}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
