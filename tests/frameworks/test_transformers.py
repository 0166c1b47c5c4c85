# SPDX-License-Identifier: Apache-2.0
"""siftd.transformers with the real Trainer in one process: batches, epochs, steps, logs, hooks, ends."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler
from transformers import Trainer, TrainerCallback

import siftd
import siftd.transformers
from hf_support import RecordingTrainer, Texts, make_trainer, rows_of, tokenizer
from siftd.transformers import enable_sifting
from support import Worker, wait_until

HALF = siftd.Uniform(0.5)


def sift(trainer: Any, worker: Worker, **options: Any) -> siftd.transformers.Sifting:
    options.setdefault("policy", HALF)
    return enable_sifting(trainer, workers=[worker.endpoint], **options)


def test_the_model_gets_the_collators_rows_padded(tmp_path: Path, worker: Worker) -> None:
    trainer = make_trainer(tmp_path)
    sift(trainer, worker)
    trainer.train()
    assert len(trainer.batches) > 4
    widths = set()
    for batch in trainer.batches:
        rows = [trainer.train_dataset.rows[i] for i in rows_of(batch["input_ids"])]
        width = batch["input_ids"].shape[1]
        want = tokenizer().pad([{k: v for k, v in r.items() if k != "labels"} for r in rows], return_tensors="pt")
        pad = width - want["input_ids"].shape[1]  # a dropped row may have been the longest of its candidates
        for name in ("input_ids", "attention_mask"):
            assert torch.equal(batch[name], torch.nn.functional.pad(want[name], (0, pad)))
        assert batch["labels"].tolist() == [r["labels"] for r in rows]
        widths.add(width)
    assert len(widths) > 1


def test_a_collator_that_tells_nothing_is_padded_as_its_tokenizer_does(tmp_path: Path, worker: Worker) -> None:
    words = tokenizer()

    def collate(rows: list[dict[str, Any]]) -> Any:
        return words.pad(rows, return_tensors="pt")

    alone = make_trainer(tmp_path, data_collator=collate)
    sift(alone, worker)
    with pytest.raises(siftd.StructureError, match=r"give pad={'input_ids': VALUE}"):
        alone.train()
    with_tokenizer = make_trainer(tmp_path, data_collator=collate, processing_class=words, num_train_epochs=1)
    sift(with_tokenizer, worker)
    with_tokenizer.train()
    own_choice = make_trainer(tmp_path, data_collator=collate, num_train_epochs=1)
    sift(own_choice, worker, pad={"input_ids": 0, "attention_mask": 0})
    own_choice.train()
    assert own_choice.all_trained == with_tokenizer.all_trained


def test_epochs_without_a_length_are_exactly_that_many_passes(tmp_path: Path, worker: Worker) -> None:
    trainer = make_trainer(tmp_path, rows=100, num_train_epochs=3, logging_steps=1)
    sifting = sift(trainer, worker)
    result = trainer.train()
    stats = sifting.loader.stats()
    assert stats.candidates == stats.decided == 300
    assert stats.kept == stats.trained == len(trainer.all_trained)
    assert 1 < max(Counter(trainer.all_trained).values()) <= 3
    assert trainer.state.max_steps == 3 * math.ceil(100 / 8)  # the scheduler's bound
    assert result.global_step == trainer.state.global_step < trainer.state.max_steps
    epochs = [entry["epoch"] for entry in trainer.state.log_history]
    assert epochs == sorted(epochs)
    assert trainer.state.epoch == epochs[-1] == 3.0
    assert any(0.3 < e < 0.7 for e in epochs)


def test_nothing_dropped_is_the_run_without_sifting(tmp_path: Path, worker: Worker) -> None:
    plain = make_trainer(tmp_path, rows=50, num_train_epochs=2)
    plain.train()
    sifted = make_trainer(tmp_path, rows=50, num_train_epochs=2)
    sift(sifted, worker, policy=siftd.Uniform(1.0))
    sifted.train()
    assert sifted.trained == plain.trained
    assert sifted.state.global_step == plain.state.global_step == 14
    for a, b in zip(plain.model.parameters(), sifted.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("drop_last", [False, True])
def test_an_epochs_last_accumulation_group_is_stepped_also_when_short(
    tmp_path: Path, worker: Worker, drop_last: bool
) -> None:
    trainer = make_trainer(
        tmp_path, rows=125, num_train_epochs=3, gradient_accumulation_steps=3, dataloader_drop_last=drop_last
    )
    sifting = sift(trainer, worker)
    groups: list[int] = []
    seen = [0]

    class Count(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            groups.append(len(trainer.batches) - seen[0])
            seen[0] = len(trainer.batches)

    trainer.add_callback(Count())
    trainer.train()
    stats = sifting.loader.stats()
    assert set(groups) <= {1, 2, 3} and 3 in groups and min(groups) < 3
    assert trainer.pending == []
    assert stats.trained == len(trainer.all_trained) == stats.handed_out
    assert stats.kept - stats.trained < (8 if drop_last else 1)  # the run's remainder
    assert stats.steps == trainer.state.global_step == len(groups)


def test_steps_per_epoch_gives_the_trainer_a_length(tmp_path: Path, worker: Worker) -> None:
    trainer = make_trainer(tmp_path, num_train_epochs=2, logging_steps=1, gradient_accumulation_steps=2)
    sift(trainer, worker, steps_per_epoch=5, total_steps=None)
    trainer.train()
    assert trainer.state.max_steps == trainer.state.global_step == 6
    assert [len(rows) for rows in trainer.trained] == [16, 16, 8, 16, 16, 8]
    epochs = [entry["epoch"] for entry in trainer.state.log_history if "loss" in entry]
    assert epochs == pytest.approx([0.4, 0.8, 1.0, 1.4, 1.8, 2.0])
    assert set(trainer.lr_scheduler.get_last_lr()) == {0.0}


def test_max_steps_runs_over_the_passes(tmp_path: Path, worker: Worker) -> None:
    trainer = make_trainer(tmp_path, rows=60, max_steps=12)
    sifting = sift(trainer, worker, total_steps=None)
    trainer.train()
    assert trainer.state.global_step == 12
    assert sifting.loader.stats().candidates > 120
    assert 2 < trainer.state.epoch < 4


@pytest.mark.parametrize("epochs", [1.5, 2])
def test_a_run_by_passes_ends_as_one_at_max_steps(tmp_path: Path, worker: Worker, epochs: float) -> None:
    trainer = make_trainer(
        tmp_path, rows=160, num_train_epochs=epochs, save_strategy="steps", save_steps=1000, eval_strategy="steps",
        eval_steps=1000, eval_dataset=Texts(16),
    )  # fmt: skip
    sift(trainer, worker)
    trainer.train()
    assert epochs <= trainer.state.epoch < epochs + 0.3
    last = trainer.state.global_step
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{last}"]
    assert [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry] == [last]


def test_loaders_that_are_no_dataloader_are_sifted(tmp_path: Path, worker: Worker) -> None:
    class Own(RecordingTrainer):
        def get_train_dataloader(self) -> Any:
            rows = self.train_dataset.rows
            return [self.data_collator(rows[i : i + 8]) for i in range(0, 64, 8)]

    trainer = make_trainer(tmp_path, kind=Own, num_train_epochs=2)
    sifting = sift(trainer, worker)
    trainer.train()
    assert sifting.loader.stats().candidates == 128
    assert trainer.state.max_steps == 16


def test_the_known_end_of_a_run_stays_unsifted(tmp_path: Path, worker: Worker) -> None:
    # Its last fifth is more than what is decided ahead of the steps.
    trainer = make_trainer(tmp_path, rows=200, max_steps=80)
    sifting = sift(trainer, worker)
    trainer.train()
    assert sifting.loader.policy.modifiers.end == 0.8
    assert sifting.loader.stats().unsifted > 0


def test_figures_stand_in_training_logs_only(tmp_path: Path, worker: Worker) -> None:
    trainer = make_trainer(tmp_path, num_train_epochs=2, eval_dataset=Texts(24), eval_strategy="steps", eval_steps=4)
    sift(trainer, worker)
    told: list[dict[str, float]] = []

    class Integration(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            told.append(dict(logs))

    trainer.add_callback(Integration())
    trainer.train()
    training = [entry for entry in trainer.state.log_history if "loss" in entry]
    others = [entry for entry in trainer.state.log_history if "loss" not in entry]
    assert len(training) >= 2 and any("eval_loss" in e for e in others)
    assert all(0.2 < e["sifting/kept_share"] < 0.8 for e in training)
    assert all(e["sifting/staleness_steps"] >= 0 for e in training)
    assert not any(key.startswith("sifting/") for e in others for key in e)
    assert [e for e in told if "loss" in e][-1]["sifting/trained"] == training[-1]["sifting/trained"] > 0


def test_evaluation_sees_every_row_and_leaves_training_alone(tmp_path: Path, worker: Worker) -> None:
    trainer = make_trainer(tmp_path, num_train_epochs=1, eval_dataset=Texts(30), eval_strategy="steps", eval_steps=2)
    sizes: list[int] = []
    trainer.compute_metrics = lambda p: sizes.append(len(p.label_ids)) or {}
    alone = make_trainer(tmp_path, eval_dataset=Texts(30))
    enable_sifting(alone, workers=["tcp://127.0.0.1:9"])  # nobody there, and nobody asked
    assert alone.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]
    sifting = sift(trainer, worker)
    trainer.train()
    assert sizes and set(sizes) == {30}
    assert sifting.loader.stats().trained == len(trainer.all_trained)


def test_each_train_call_begins_anew(tmp_path: Path, worker: Worker) -> None:
    trainer = make_trainer(tmp_path, num_train_epochs=1)
    sifting = sift(trainer, worker)
    trainer.train()
    first, loader = sorted(trainer.all_trained), sifting.loader
    trainer.trained.clear()
    trainer.train()
    assert sifting.loader is not loader
    assert sorted(trainer.all_trained) == first
    assert sifting.run is None
    with pytest.raises(siftd.WorkerError, match="closed"):
        next(iter(loader))


def test_local_workers_end_with_an_exception_in_training(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, num_train_epochs=1)
    sifting = enable_sifting(trainer, workers=1, policy=HALF)
    pids: list[int] = []

    class Break(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                pids.extend(sifting.loader._running.local.pids)
                raise KeyboardInterrupt

    trainer.add_callback(Break())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert len(pids) == 1
    wait_until("the worker ended", lambda: not Path(f"/proc/{pids[0]}").exists())


def test_a_batch_too_large_is_tried_again_smaller(tmp_path: Path, worker: Worker) -> None:
    tried = []

    class SmallDevice(RecordingTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            tried.append(sifting.loader)
            if len(inputs["input_ids"]) > 4:
                raise RuntimeError("CUDA out of memory.")
            return super().training_step(model, inputs, *args, **kwargs)

    trainer = make_trainer(tmp_path, kind=SmallDevice, num_train_epochs=1, auto_find_batch_size=True)
    sifting = sift(trainer, worker)
    trainer.train()
    assert max(len(rows) for rows in trainer.trained) == 4
    assert len(trainer.all_trained) == sifting.loader.stats().kept
    assert len({id(loader) for loader in tried}) > 1
    with pytest.raises(siftd.WorkerError, match="closed"):
        next(iter(tried[0]))


def test_grouping_by_length_and_overridden_loaders_are_kept(tmp_path: Path, worker: Worker) -> None:
    class Own(RecordingTrainer):
        made = 0

        def get_train_dataloader(self) -> Any:
            Own.made += 1
            loader = DataLoader(
                self.train_dataset, 6, sampler=SequentialSampler(self.train_dataset), collate_fn=self.data_collator
            )
            return self.accelerator.prepare(loader)

    trainer = make_trainer(tmp_path, kind=Own, num_train_epochs=1)
    sifting = sift(trainer, worker)
    trainer.train()
    assert Own.made == 1 and type(trainer).__name__ == "Own"
    assert {len(rows) for rows in trainer.trained[:-1]} == {6}
    assert trainer.all_trained == sorted(trainer.all_trained)
    grouped = make_trainer(tmp_path, num_train_epochs=1, train_sampling_strategy="group_by_length")
    sifting = sift(grouped, worker)
    grouped.train()
    assert sifting.loader.stats().candidates == 120
    assert len(set(grouped.all_trained)) == len(grouped.all_trained) == sifting.loader.stats().kept


def test_iterable_datasets_run_to_max_steps(tmp_path: Path, worker: Worker) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(Texts(64).rows)

    trainer = make_trainer(tmp_path, train_dataset=Stream(), max_steps=10)
    sifting = sift(trainer, worker, total_steps=None)
    trainer.train()
    assert trainer.state.global_step == 10
    assert sifting.loader.stats().candidates > 64


def test_the_order_follows_from_the_seed_alone(tmp_path: Path, worker: Worker) -> None:
    orders = []
    for disturb in (0, 1000):
        trainer = make_trainer(tmp_path, num_train_epochs=2, data_seed=11)
        sift(trainer, worker)
        torch.rand(disturb)
        trainer.train()
        orders.append(trainer.all_trained)
    assert orders[0] == orders[1]


def test_detach_leaves_the_trainer_as_it_was(tmp_path: Path, worker: Worker) -> None:
    trainer = make_trainer(tmp_path, num_train_epochs=1)
    before, callbacks = dict(vars(trainer)), list(trainer.callback_handler.callbacks)
    sift(trainer, worker)
    sifting = sift(trainer, worker)  # in place of the first, not around it
    assert len(trainer.callback_handler.callbacks) == len(callbacks) + 1
    sifting.detach()
    assert set(vars(trainer)) - set(before) <= {"_siftd"}
    assert trainer.callback_handler.callbacks == callbacks
    assert not trainer.args.ignore_data_skip
    trainer.train()
    assert sorted(trainer.all_trained) == list(range(120))


def test_what_cannot_be_meant_is_refused_at_once(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    with pytest.raises(siftd.ConfigError, match="beta and keep"):
        enable_sifting(trainer, beta=1.0, keep=0.5)
    with pytest.raises(TypeError, match="sync_evry"):
        enable_sifting(trainer, sync_evry=3)
    assert type(trainer).get_train_dataloader is Trainer.get_train_dataloader
    assert "get_train_dataloader" not in vars(trainer)


def test_attach_without_epochs_asks_for_max_steps(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, num_train_epochs=1)

    def make(loader: Any) -> Any:
        return siftd.SiftingDataLoader(loader, model=trainer.model, workers="inline", policy=HALF)

    siftd.transformers.attach(trainer, make, set_epochs=False)
    with pytest.raises(ValueError, match="max_steps must be set"):
        trainer.train()
