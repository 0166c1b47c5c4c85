# SPDX-License-Identifier: Apache-2.0
"""The examples that need a framework, run as their docstrings say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from doc_examples import write_blocks
from example_runs import Summary, accuracies, check_usage, run, steps_of_ranks

ROWS = 1437  # of scikit-learn's 1,797 digits, less every fifth
MINE = ["lightning_digits.py", "transformers_trainer.py", "accelerate_loop.py"]


@pytest.mark.parametrize("script", MINE)
def test_usage_and_docstring_agree(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check_usage(script, monkeypatch, capsys)


def scalars(folder: Path) -> dict[str, list[Any]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


def test_plain_loop_writes_tensorboard_and_a_bar(tmp_path: Path) -> None:
    out = run("plain_loop.py", "--epochs", 2, "--logdir", tmp_path, "--progress")
    assert "epoch 1: " in out and "it/s" in out
    found = scalars(tmp_path)
    summary = Summary(out)
    assert found["sifting/kept_share"][-1].value == pytest.approx(summary.kept_share, abs=0.001)
    assert [e.step for e in found["sifting/model_version"]] == [45, summary.batches]
    assert found["sifting/model_version"][-1].value == summary.versions


def test_the_readmes_watched_loop(tmp_path: Path) -> None:
    write_blocks(tmp_path)
    out = run(tmp_path / "watched.py", cwd=tmp_path)
    found = scalars(tmp_path / "runs")
    assert len(found["sifting/staleness_steps"]) == 3
    assert found["sifting/trained"][-1].value == Summary(out).trained
    assert "epoch 2" in out and "it/s" in out


def test_the_migration_pages_composer_trainer(tmp_path: Path) -> None:
    pytest.importorskip("composer", exc_type=ImportError)
    write_blocks(tmp_path)
    summary = Summary(run(tmp_path / "composer_trainer.py", cwd=tmp_path))
    steps = 6 * (1797 // 32)
    assert summary.batches == steps and summary.trained == 32 * steps
    assert 0.75 < summary.kept_share < 0.98  # every other batch of 40 % of the run is sifted


def test_lightning_learns_logs_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    first = run("lightning_digits.py", "--epochs", 4, "--folder", tmp_path)
    summary = Summary(first)
    steps = [int(n) for n in re.findall(r"after (\d+) steps", first)]
    assert summary.decided == 4 * ROWS
    assert 0.3 < summary.sifted_share < 0.95
    assert steps == [summary.batches]
    assert summary.versions == 1 + summary.batches // 20
    assert accuracies(first)[-1] > 0.8
    logged = scalars(next((tmp_path / "lightning_logs").iterdir()))
    assert logged["sifting/kept_share"][-1].value == pytest.approx(summary.kept_share, abs=0.02)

    second = run("lightning_digits.py", "--epochs", 6, "--folder", tmp_path, "--resume", tmp_path / "last.ckpt")
    assert Summary(second).decided == 2 * ROWS
    assert [int(n) for n in re.findall(r"after (\d+) steps", second)] == [steps[0] + Summary(second).batches]
    assert accuracies(second)[-1] > 0.85


def test_lightning_ranks_make_equal_steps() -> None:
    out = run("lightning_digits.py", "--ranks", 2, "--steps", 20, "--epochs", 5)
    assert "validation accuracy" in out
    assert accuracies(out)[-1] > 0.8
    assert re.findall(r"after (\d+) steps", out) == ["100"]
    assert Summary(out).batches == 100 and Summary(out).sifted_share < 1


def test_transformers_trainer_learns_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    first = run("transformers_trainer.py", "--epochs", 3, "--folder", tmp_path)
    summary = Summary(first)
    assert accuracies(first) > [0.8]
    assert summary.decided == 3 * ROWS
    assert 0.3 < summary.sifted_share < 0.95
    assert steps_of_ranks(first) == {0: summary.batches}
    assert summary.versions == 1 + summary.batches // 20
    assert "'sifting/kept_share'" in first

    second = run("transformers_trainer.py", "--epochs", 4, "--folder", tmp_path, "--resume")
    assert Summary(second).decided == ROWS
    assert steps_of_ranks(second) == {0: summary.batches + Summary(second).batches}
    assert accuracies(second) > [0.85]


def test_transformers_ranks_make_equal_steps() -> None:
    out = run("transformers_trainer.py", "--steps", 15, "--epochs", 4, ranks=2)
    assert steps_of_ranks(out) == {0: 60, 1: 60}
    assert accuracies(out)[-1] > 0.6
    assert Summary(out).batches == 60


def test_accelerate_accumulates_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    first = run("accelerate_loop.py", "--epochs", 3, "--folder", tmp_path)
    assert steps_of_ranks(first) == {0: 60}, "an optimizer step takes two batches"
    assert Summary(first).batches == 120 and Summary(first).trained == 120 * 16
    assert Summary(first).versions == 1 + 60 // 20
    second = run("accelerate_loop.py", "--epochs", 4, "--resume", tmp_path / "epoch_2")
    assert steps_of_ranks(second) == {0: 20}
    assert accuracies(second)[0] > max(0.8, accuracies(first)[0])


def test_accelerate_ranks_make_equal_steps() -> None:
    out = run("accelerate_loop.py", "--epochs", 3, ranks=2)
    assert steps_of_ranks(out) == {0: 60, 1: 60}
    assert len(accuracies(out)) == 3, "printed by one rank"
    assert accuracies(out)[-1] > 0.7
