# SPDX-License-Identifier: Apache-2.0
"""siftd.lightning and Lightning's checkpoints: a run that goes on from one trains each kept row once, and none twice.

The rows that Uniform keeps are a function of seed, epoch and id: with or without stops, a run trains the same.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import siftd
from lightning_job import Lit, Row, Sifting, Validated, data, kept, pl, sift, trainer
from support import Worker

ModelCheckpoint = pl.callbacks.ModelCheckpoint


def each_batch(folder: Path) -> Any:
    return ModelCheckpoint(folder / "ckpt", "{step}", every_n_train_steps=1, save_top_k=-1)


def each_epoch(folder: Path) -> Any:
    return ModelCheckpoint(folder / "ckpt", "{step}", save_on_train_epoch_end=True, save_top_k=-1)


def each_validation(folder: Path) -> Any:
    return ModelCheckpoint(folder / "ckpt", "{step}", save_on_train_epoch_end=False, save_top_k=-1)


class Scheduled(Lit):
    """Has Lightning set up the data in configure_optimizers, before it restores its loops."""

    def configure_optimizers(self) -> Any:
        steps = self.trainer.estimated_stepping_batches
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Own(Lit):
    """Makes its sifting loader itself, in the hook."""

    endpoint = ""

    def train_dataloader(self) -> Any:
        return siftd.SiftingDataLoader(
            data(), model=self, workers=[self.endpoint], policy=siftd.Uniform(0.5), seed=3, sync_every=2
        )


class AfterSetup(pl.strategies.SingleDeviceStrategy):
    """Restores as the strategies for sharded models do."""

    restore_checkpoint_after_setup = True


@dataclass
class Case:
    kind: type[Lit] = Lit
    saver: Any = each_batch
    options: dict[str, Any] = field(default_factory=dict)  # of the trainer
    sifting: dict[str, Any] = field(default_factory=dict)
    loader: dict[str, Any] = field(default_factory=dict)
    whole: int = 3  # epochs whose rows must all be trained
    late: bool = False  # restored after the setup

    def fit(self, worker: Worker, folder: Path, *callbacks: Any, resume: Path | None = None) -> tuple[Any, Any]:
        module = self.kind()
        module.sifting = sift(worker.endpoint, **self.sifting)
        loaders = [data(**self.loader)]
        if isinstance(module, Own):
            module.endpoint, module.sifting, loaders = worker.endpoint, Sifting(), []
        if isinstance(module, Validated):
            loaders.append(data(16))
        strategy = {"strategy": AfterSetup(torch.device("cpu"))} if self.late else {}
        fit = trainer(folder, module.sifting, *callbacks, **self.options, **strategy)
        fit.fit(module, *loaders, ckpt_path=resume)
        return module, fit


CASES = {
    "batches": Case(),
    "batches, validated": Case(kind=Validated),
    "epochs": Case(saver=each_epoch),
    "epochs, validated": Case(kind=Validated, saver=each_epoch),
    "validations": Case(kind=Validated, saver=each_validation),
    "validations in mid-epoch": Case(kind=Validated, saver=each_validation, options={"val_check_interval": 2}),
    "accumulated": Case(options={"accumulate_grad_batches": 2}),
    "accumulated, validated within": Case(
        kind=Validated, saver=each_validation, options={"accumulate_grad_batches": 2, "val_check_interval": 3}
    ),
    "remainder carried over": Case(loader={"drop_last": True}, whole=2),
    "validations, remainder carried over": Case(
        kind=Validated, saver=each_validation, loader={"drop_last": True}, whole=2
    ),
    "reloaded, remainder carried over": Case(
        options={"reload_dataloaders_every_n_epochs": 1}, loader={"drop_last": True}, whole=2
    ),
    "epochs of fixed length": Case(sifting={"steps_per_epoch": 4}, whole=1),
    "limited epochs": Case(options={"limit_train_batches": 4}, whole=1),
    "steps": Case(options={"max_steps": 14, "max_epochs": -1}, whole=2),
    "scheduled": Case(kind=Scheduled),
    "scheduled, restored late": Case(kind=Scheduled, late=True),
    "own loader": Case(kind=Own),
    "own loader, made anew each epoch": Case(kind=Own, options={"reload_dataloaders_every_n_epochs": 1}),
    "reloaded": Case(options={"reload_dataloaders_every_n_epochs": 1}),
    "loaded by processes": Case(loader={"num_workers": 1}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_resumed_run_trains_what_an_undisturbed_one_does(worker: Worker, tmp_path: Path, case: Case) -> None:
    module, fit = case.fit(worker, tmp_path, case.saver(tmp_path))
    rows = module.rows()
    assert set(rows.values()) == {1}
    wanted = kept(worker.endpoint, case.whole)
    assert {row for row in rows if row[0] < case.whole} == wanted
    saved = {int(m[1]): p for p in (tmp_path / "ckpt").iterdir() if (m := re.search(r"step=(\d+)", p.name))}
    for step in around_the_ends(module, set(saved)):
        again, resumed = case.fit(worker, tmp_path / "again", resume=saved[step])
        both = module.rows(before_step=step) + again.rows()
        assert wanted <= set(both), f"lost after step {step}: {sorted(wanted - set(both))}"
        assert set(both.values()) == {1}, f"repeated after step {step}"
        if case.whole == 3:
            assert both == rows
        if "accumulate_grad_batches" not in case.options:  # Lightning forgets half a window
            assert resumed.global_step == fit.global_step


def around_the_ends(module: Lit, saved: set[int]) -> list[int]:
    """Steps in the middle of an epoch, before, at and after the end of one."""
    first_of_epoch = [
        step for (_, before), (step, now) in zip(module.trained, module.trained[1:], strict=False)
        if before[-1][0] != now[-1][0]
    ]  # fmt: skip
    wanted = {2, *(end + k for end in first_of_epoch for k in (-1, 0, 1))}
    return sorted(saved & wanted) or sorted(saved)


def test_a_checkpoint_loads_without_code_and_lightnings_own_copy_is_empty(worker: Worker, tmp_path: Path) -> None:
    CASES["batches"].fit(worker, tmp_path, each_batch(tmp_path))
    state = torch.load(next((tmp_path / "ckpt").glob("*step=2*")), weights_only=True)
    assert state["callbacks"]["Sifting"]["loader"]["steps"] == 2
    assert state["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{}]


class SavesFirst(pl.Callback):
    """Saves at the end of a batch, before the sifting callback hears of it."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def test_a_callback_that_saves_before_ours_saves_the_batch_as_trained(worker: Worker, tmp_path: Path) -> None:
    def fit(*first: Any, resume: Path | None = None) -> Lit:
        module = Lit()
        module.sifting = sift(worker.endpoint)
        trainer(tmp_path, *first, module.sifting).fit(module, data(), ckpt_path=resume)
        return module

    module = fit(SavesFirst(tmp_path / "mine.ckpt", 3))
    assert module.rows(before_step=3) + fit(resume=tmp_path / "mine.ckpt").rows() == module.rows()


class Fails(Lit):
    """Fails while it trains the fifth batch."""

    failed = False

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        if self.global_step == 4 and not Fails.failed:
            Fails.failed = True
            self.trained.pop()
            raise KeyError("mine")
        return loss


def test_a_checkpoint_saved_on_an_exception_goes_on_with_the_batch_that_failed(worker: Worker, tmp_path: Path) -> None:
    case = Case(kind=Fails)
    Fails.failed = False
    rows: Counter[Row] = Counter()

    class Keep(pl.Callback):
        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            rows.update(pl_module.rows())

    saver = pl.callbacks.OnExceptionCheckpoint(tmp_path, "died")
    with pytest.raises(KeyError, match="mine"):
        case.fit(worker, tmp_path, Keep(), saver)
    assert sum(rows.values()) == 4 * 8
    module, _ = case.fit(worker, tmp_path, resume=tmp_path / "died.ckpt")
    undisturbed, _ = Case().fit(worker, tmp_path)
    assert rows + module.rows() == undisturbed.rows()


def test_a_checkpoint_saved_after_fit_goes_on_with_the_next_epoch(worker: Worker, tmp_path: Path) -> None:
    two = Case(options={"max_epochs": 2}, loader={"drop_last": True})
    three = Case(loader={"drop_last": True})
    module, fit = two.fit(worker, tmp_path)
    fit.save_checkpoint(tmp_path / "two.ckpt")
    again, _ = three.fit(worker, tmp_path, resume=tmp_path / "two.ckpt")
    both = module.rows() + again.rows()
    undisturbed = three.fit(worker, tmp_path)[0].rows()
    assert set(both.values()) == {1}
    assert {row for row in undisturbed if row[0] < 2} <= set(both)  # the remainder of epoch 1, too
    assert sum(both.values()) == sum(undisturbed.values())


def test_a_checkpoint_saved_without_the_callback_is_taken_up_by_it(worker: Worker, tmp_path: Path) -> None:
    def own(module: Lit) -> siftd.SiftingDataLoader:
        return siftd.SiftingDataLoader(
            data(), model=module, workers=[worker.endpoint], policy=siftd.Uniform(0.5), seed=3, steps_per_epoch=5
        )

    seen: list[int] = []

    class Ids(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step <= 3:
                seen.extend(loader.last_batch_info.ids.tolist())

    module = Lit()
    with own(module) as loader:
        trainer(tmp_path, each_batch(tmp_path), Ids(), max_epochs=1).fit(module, loader)
    resumed = Lit()
    resumed.sifting = Sifting()
    with own(resumed) as loader:
        saved = next((tmp_path / "ckpt").glob("*step=3*"))
        trainer(tmp_path, resumed.sifting, max_epochs=1).fit(resumed, loader, ckpt_path=saved)
    again = [i for _, i in resumed.rows()]
    assert len(seen) == 3 * 8
    assert len(again) == 2 * 8
    assert not set(seen) & set(again)


def test_a_checkpoint_of_plain_training_begins_its_epoch_anew_and_says_so(
    worker: Worker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(tmp_path, each_batch(tmp_path), max_epochs=1).fit(Lit(), data())
    module, _ = Case(options={"max_epochs": 1}).fit(worker, tmp_path, resume=next((tmp_path / "ckpt").glob("*step=3*")))
    assert module.rows() == Counter(kept(worker.endpoint, 1))
    assert "its epoch begins anew" in caplog.text
    caplog.clear()
    _, fit = Case(options={"max_epochs": 1}).fit(worker, tmp_path)
    fit.save_checkpoint(tmp_path / "one.ckpt")
    Case(options={"max_epochs": 2}).fit(worker, tmp_path, resume=tmp_path / "one.ckpt")
    assert "begins anew" not in caplog.text


def test_testing_from_a_checkpoint_does_not_move_the_next_fit(worker: Worker, tmp_path: Path) -> None:
    class Tested(Validated):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.validation_step(batch, batch_idx)

    module, fit = Case(kind=Tested).fit(worker, tmp_path, each_batch(tmp_path))
    fit.test(module, data(16), ckpt_path=next((tmp_path / "ckpt").glob("*step=2*")), verbose=False)
    again = Tested()
    again.sifting = module.sifting
    trainer(tmp_path, again.sifting).fit(again, data())
    assert again.rows() == module.rows()
