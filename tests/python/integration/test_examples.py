# SPDX-License-Identifier: Apache-2.0
"""The examples that need no framework, run as their docstrings say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from example_runs import EXAMPLES, MOST, Summary, accuracies, check_usage, output, run, start, steps_of_ranks
from support import ROOT, Worker

ROWS = 1437  # of scikit-learn's 1,797 digits, less every fifth
MINE = ["plain_loop.py", "ddp_torchrun.py", "sagemaker_after.py", "stream_trainer.py", "stream_feeder.py"]


@pytest.mark.parametrize("script", MINE)
def test_usage_and_docstring_agree(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check_usage(script, monkeypatch, capsys)


def test_the_map_names_every_example_and_its_command() -> None:
    text = (EXAMPLES / "README.md").read_text()
    scripts = [p.name for p in EXAMPLES.iterdir() if p.suffix in (".py", ".cc")]
    assert [s for s in scripts if f"]({s})" not in text] == []
    for command in re.findall(r"`((?:python|torchrun)[^`]*\.py[^`]*)`", text):
        script = re.findall(r"[a-z_]+\.py", command)[0]
        assert command in (EXAMPLES / script).read_text(), f"{script} does not give the command: {command}"


def test_plain_loop_learns_and_publishes() -> None:
    out = run("plain_loop.py", "--epochs", 6)
    summary = Summary(out)
    assert accuracies(out)[-1] > 0.8 > MOST
    assert summary.decided == 6 * ROWS
    # The default policy drops what the model is sure of: little at first, then more.
    assert 0.3 < summary.sifted_share < 0.85
    assert abs(summary.trained - summary.kept_share * summary.decided) <= 0.0005 * summary.decided + 1, "all of them"
    assert summary.versions == 1 + summary.batches // 20


def test_plain_loop_with_the_control_keeps_the_share_asked_for() -> None:
    summary = Summary(run("plain_loop.py", "--epochs", 3, "--policy", "uniform", "--keep", 0.4))
    assert summary.decided == 3 * ROWS
    n = summary.decided - summary.unsifted
    assert abs(summary.sifted_share - 0.4) < 5 * (0.4 * 0.6 / n) ** 0.5 + 0.001


def test_plain_loop_inline_scores_with_the_newest_weights() -> None:
    out = run("plain_loop.py", "--epochs", 4, "--workers", "inline")
    summary = Summary(out)
    assert accuracies(out)[-1] > 0.8
    assert summary.decided == 4 * ROWS
    assert 0.3 < summary.sifted_share < 0.95
    assert re.search(r"staleness 0\.\d steps \(at most 1\)", out)  # the batch in hand is not stepped yet


def test_plain_loop_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    first = run("plain_loop.py", "--epochs", 2, "--checkpoint", file)
    second = run("plain_loop.py", "--epochs", 4, "--checkpoint", file)
    assert re.findall(r"^epoch (\d)", first, re.MULTILINE) == ["0", "1"]
    assert re.findall(r"^epoch (\d)", second, re.MULTILINE) == ["2", "3"]
    assert Summary(second).decided == 2 * ROWS
    assert accuracies(second)[0] > accuracies(first)[0], "the weights went on, too"


@pytest.mark.parametrize("shard", [[], ["--shard"]], ids=["ddp", "fsdp2"])
def test_ranks_make_equal_steps_and_resume(tmp_path: Path, shard: list[str]) -> None:
    file = tmp_path / "run.pt"
    out = run("ddp_torchrun.py", "--epochs", 4, "--checkpoint", file, *shard, ranks=2)
    assert steps_of_ranks(out) == {0: 80, 1: 80}
    assert re.findall(r"rank \d: 80 steps, (\d+) rows", out) == ["1280", "1280"]
    assert accuracies(out)[-1] > 0.7
    assert Summary(out).versions == 1 + 80 // 20
    assert Summary(out).sifted_share > 0.3
    more = run("ddp_torchrun.py", "--epochs", 5, "--checkpoint", file, *shard, ranks=2)
    assert steps_of_ranks(more) == {0: 20, 1: 20}
    assert accuracies(more)[0] > accuracies(out)[0]


def test_sagemaker_scripts_differ_in_the_imports_alone() -> None:
    before, after = [(EXAMPLES / f"sagemaker_{when}.py").read_text() for when in ("before", "after")]
    assert "from smart_sifting." in before and "from smart_sifting." not in after
    # Sorted imports stand in another group, and so after an empty line.
    renamed = before.replace("from smart_sifting.", "from siftd.compat.smart_sifting.")
    assert [line for line in renamed.splitlines() if line] == [line for line in after.splitlines() if line]


@pytest.mark.parametrize("inline", ["0", "1"], ids=["workers", "inline"])
def test_the_sagemaker_script_keeps_the_share_of_its_beta(inline: str) -> None:
    epochs, delay = 6, 45
    out = run("sagemaker_after.py", "--epochs", epochs, SIFTD_INLINE=inline)
    assert accuracies(out)[-1] > 0.8
    assert "beta_value 1 keeps 50% of the samples after 45 steps" in out
    assert ("scored by this process" in out) == (inline == "1")
    trained, seen = (int(n) for n in re.findall(r"trained (\d+) of (\d+) samples", out)[0])
    assert seen == epochs * ROWS
    # Losses fall, and the history holds older ones: a little less than the half is kept.
    expected = 32 * delay + (seen - 32 * delay) / 2
    assert 0.85 * expected < trained < 1.1 * expected


def test_the_sagemaker_script_uses_a_pool_that_is_named(pool: list[Worker]) -> None:
    out = run("sagemaker_after.py", "--epochs", 2, SIFTD_WORKERS=",".join(w.endpoint for w in pool))
    assert accuracies(out)[-1] > 0.5
    assert all(int(w.status()["model_version"]) > 1 for w in pool)


def endpoints(pool: list[Worker]) -> list[str]:
    return [a for w in pool for a in ("--endpoint", w.endpoint)]


def test_a_feeder_process_feeds_a_trainer_process(pool: list[Worker]) -> None:
    feeder = start("stream_feeder.py", *endpoints(pool), "--epochs", 4)
    trainer = start("stream_trainer.py", *endpoints(pool), "--epochs", 4)
    out, told = output(trainer), output(feeder)
    summary = Summary(out)
    assert accuracies(out)[-1] > 0.8
    assert summary.decided == 4 * ROWS
    assert steps_of_ranks(out) == {0: summary.batches}
    assert summary.versions == 1 + summary.batches // 20
    # The trainer's Goodbye may overtake the last settlements on another connection.
    kept = int(re.findall(r"(\d+) rows kept", told)[0])
    assert 0 < kept <= summary.trained < summary.decided


def test_two_feeders_feed_two_ranks(pool: list[Worker]) -> None:
    feeders = [start("stream_feeder.py", *endpoints(pool), "--index", i, "--count", 2) for i in range(2)]
    trainer = start("stream_trainer.py", *endpoints(pool), "--loaders", 2, "--steps", 20, "--epochs", 5, ranks=2)
    out = output(trainer)
    for feeder in feeders:
        assert re.search(r"loader \d: pass \d+", output(feeder))
    assert steps_of_ranks(out) == {0: 100, 1: 100}
    assert re.findall(r"rank \d: 100 steps, (\d+) rows", out) == ["3200", "3200"]
    assert accuracies(out)[-1] > 0.8
    assert Summary(out).versions == 1 + 100 // 20


def test_the_cpp_examples_are_built_and_tested() -> None:
    built = (EXAMPLES / "CMakeLists.txt").read_text()
    tested = (ROOT / "tests" / "python" / "integration" / "test_cpp_client.py").read_text()
    for source in EXAMPLES.glob("*.cc"):
        assert source.name in built and f"siftd_{source.stem}" in tested
