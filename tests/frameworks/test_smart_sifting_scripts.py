# SPDX-License-Identifier: Apache-2.0
"""Scripts for Amazon SageMaker smart sifting run on siftd after one change to their imports, and no other."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import ROOT

SCRIPTS = Path(__file__).with_name("smart_sifting_scripts")
sys.path.insert(0, str(SCRIPTS))


def run(tmp_path: Path, script: str, *arguments: str, where: str = "workers") -> tuple[list[float], Any, str]:
    """(the losses that the script prints, what the sifting did, all that was written)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "client" / "python"), "OMP_NUM_THREADS": "1"}
    environment |= {"SIFTD_WORKERS": "", "SIFTD_INLINE": "1" if where == "inline" else ""}
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "run_on_siftd.py"), str(SCRIPTS / script), str(tmp_path / "script.py")]
        + list(arguments),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    losses = [float(line.removeprefix("loss: ")) for line in lines if line.startswith("loss: ")]
    did = json.loads(next(line for line in reversed(lines) if line.startswith('{"loaders"')))
    return losses, did, done.stdout + done.stderr


def assert_trained(losses: list[float], did: Any) -> None:
    assert losses[-1] < losses[0] - 0.02
    assert did["loaders"] == 1
    assert did["changed"] == did["parameters"], "every weight was trained"
    assert did["stats"]["model_versions"] > 1, "and published"
    assert did["stats"]["rejected_batches"] == 0


def assert_share(did: Any, beta: float) -> None:
    """The share kept of what the policy decided is 1 / (1 + beta) within three standard deviations."""
    stats = did["stats"]
    sifted = stats["decided"] - stats["unsifted"]
    share, p = (stats["kept"] - stats["unsifted"]) / sifted, 1 / (1 + beta)
    assert sifted > 2000
    assert abs(share - p) <= 3 * math.sqrt(p * (1 - p) / sifted), (share, sifted)


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("[!r]*.py")), ids=lambda p: p.stem)
def test_script_changes_in_its_imports_only(script: Path) -> None:
    from run_on_siftd import on_siftd

    text = script.read_text()
    pairs = list(zip(text.splitlines(), on_siftd(text).splitlines(), strict=True))
    changed = [(before, after) for before, after in pairs if before != after]
    assert len(changed) >= 4
    assert all(
        after == before.replace("from smart_sifting.", "from siftd.compat.smart_sifting.") for before, after in changed
    )
    assert not [after for _, after in pairs if "from smart_sifting" in after]


# ------------------------------------------------------------ a plain loop
@pytest.mark.parametrize(("where", "beta"), [("workers", 1.0), ("inline", 1.0), ("workers", 3.0)])
def test_bert_in_a_plain_loop_trains_on_its_share(tmp_path: Path, where: str, beta: float) -> None:
    losses, did, _ = run(tmp_path, "bert_plain.py", "--beta", str(beta), where=where)
    assert_trained(losses, did)
    assert_share(did, beta)
    assert did["stats"]["candidates"] == 9000, "three passes"


def test_vit_with_a_list_transform_trains_on_its_share_after_its_delay(tmp_path: Path) -> None:
    losses, did, _ = run(tmp_path, "vit_plain.py")
    assert_trained(losses, did)
    assert_share(did, 3)
    assert did["stats"]["unsifted"] >= 10 * 16, "ten steps before the sifting began"


# ------------------------------------------------------------ PyTorch Lightning
@pytest.mark.parametrize(("where", "transform"), [("workers", "0"), ("inline", "1")])
def test_bert_in_lightning_trains_on_its_share(tmp_path: Path, where: str, transform: str) -> None:
    short = ("--rows", "1600", "--epochs", "2", "--log_level", "20")
    losses, did, written = run(tmp_path, "bert_lightning.py", "--transform", transform, *short, where=where)
    assert_trained(losses, did)
    assert_share(did, 1)
    steps = did["stats"]["steps"]
    assert steps == did["stats"]["batches"]
    for line in ("train step count", "train forward pass latency", "train backprop latency"):
        assert written.count(f"{line}: ") == steps
    assert written.count("train optimizer step latency: ") == written.count("train total step latency: ") == steps
    assert "learning rate of 0" not in written


def test_bert_in_lightning_on_two_ranks_makes_equal_steps(tmp_path: Path) -> None:
    arguments = ("--rows", "800", "--epochs", "2", "--devices", "2", "--log_level", "20")
    _, did, written = run(tmp_path, "bert_lightning.py", *arguments)
    # 400 rows on each rank, 13 batches of 32, of which a half is kept.
    assert did["stats"]["steps"] == 14
    assert did["stats"]["trained"] == 14 * 32
    assert written.count("train step count: 14") == 2
    assert written.count("an epoch is 7 steps on each of 2 ranks") == 1


# ------------------------------------------------------------ the Hugging Face Trainer
@pytest.mark.parametrize(
    ("arguments", "where"),
    [((), "workers"), (("--set_epochs", "1"), "inline")],
    ids=str,
)
def test_bert_in_the_trainer_trains_on_its_share(tmp_path: Path, arguments: tuple[str, ...], where: str) -> None:
    losses, did, written = run(tmp_path, "bert_trainer.py", "--output_dir", str(tmp_path), *arguments, where=where)
    assert_trained(losses, did)
    assert_share(did, 1)
    if arguments:
        assert did["stats"]["candidates"] == 4000, "two passes"
    else:  # 63 batches a pass, of which a half is kept; the schedule has as many steps
        assert "steps: 64 of 64, epoch 2.0" in written


def test_bert_in_a_trainer_that_returns_the_dataloader_trains_on_its_share(tmp_path: Path) -> None:
    arguments = ("--output_dir", str(tmp_path), "--subclass", "1", "--max_steps", "70")
    losses, did, written = run(tmp_path, "bert_trainer.py", *arguments)
    assert_trained(losses, did)
    assert_share(did, 1)
    assert "steps: 70 of 70" in written
