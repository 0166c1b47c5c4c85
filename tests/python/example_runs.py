# SPDX-License-Identifier: Apache-2.0
"""Runs the examples as a user does, as processes of their own, and reads the figures that they print."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT, binary

EXAMPLES = ROOT / "client" / "examples"
CHANCE = 0.1  # of ten digits
MOST = 0.18  # what guessing reaches on 360 images: 5 standard deviations above chance


def command(script: str | Path, *arguments: object, ranks: int = 1) -> list[str]:
    path = EXAMPLES / script
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    return [sys.executable, *launch, str(path), *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    python = os.pathsep.join([str(ROOT / "client" / "python"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "SIFTD_BIN": binary(), "PYTHONPATH": python, "OMP_NUM_THREADS": "1", **more}


def start(
    script: str | Path, *arguments: object, ranks: int = 1, cwd: Path | None = None, **more: str
) -> subprocess.Popen[str]:
    """`more`: of the environment."""
    return subprocess.Popen(
        command(script, *arguments, ranks=ranks),
        cwd=cwd,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output(process: subprocess.Popen[str], timeout: float = 200) -> str:
    """Waits for its end and fails unless that is exit code 0."""
    try:
        out, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
        process.wait(10)
    assert process.returncode == 0, out[-6000:]
    return out


def run(script: str | Path, *arguments: object, ranks: int = 1, cwd: Path | None = None, **more: str) -> str:
    return output(start(script, *arguments, ranks=ranks, cwd=cwd, **more))


def accuracies(out: str) -> list[float]:
    found = [float(a) for a in re.findall(r"validation accuracy ([\d.]+)", out)]
    assert found, out
    return found


class Summary:
    """What loader.summary() said."""

    def __init__(self, out: str) -> None:
        kept = re.search(r"kept ([\d.]+)% of (\d+) candidate rows \((\d+) unsifted\), trained (\d+)", out)
        rest = re.search(r"(\d+) model versions, waited [\d.]+ s over (\d+) batches", out)
        assert kept and rest, out
        self.kept_share, self.decided = float(kept[1]) / 100, int(kept[2])
        self.unsifted, self.trained = int(kept[3]), int(kept[4])
        self.versions, self.batches = int(rest[1]), int(rest[2])

    @property
    def sifted_share(self) -> float:
        """Kept of what the policy decided, to 0.001: a host that stalls for seconds gets some batches unsifted."""
        assert self.unsifted < 0.3 * self.decided, "hardly anything was sifted"
        return (self.kept_share * self.decided - self.unsifted) / (self.decided - self.unsifted)


def steps_of_ranks(out: str) -> dict[int, int]:
    return {int(rank): int(steps) for rank, steps in re.findall(r"rank (\d+): (\d+) steps", out)}


def check_usage(script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """--help works, and knows every option that the docstring's commands give to this script."""
    path = EXAMPLES / script
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    commands = [c.split("#")[0] for c in docstring.splitlines() if script in c and c.startswith("    ")]
    assert commands, f"the docstring of {script} does not say how to run it"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    told = capsys.readouterr().out
    for line in commands:
        for option in re.findall(r"--[a-z-]+", line.partition(script)[2]):
            assert re.search(rf"^  {option}\b", told, re.MULTILINE), f"{script}: {option} of: {line}"
