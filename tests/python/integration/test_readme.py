# SPDX-License-Identifier: Apache-2.0
"""The README's examples run as they stand; only endpoints are put in place of its own. Its commands and links exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT, Worker, binary

README = (ROOT / "README.md").read_text()
EXAMPLES = dict(re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)```", README, re.DOTALL))
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]


def start(tmp_path: Path, name: str, pool: list[Worker] = []) -> subprocess.Popen[str]:  # noqa: B006
    text = EXAMPLES[name]
    for port, worker in zip(("7001", "7002"), pool, strict=False):
        text = text.replace(f"tcp://127.0.0.1:{port}", worker.endpoint)
    script = tmp_path / name
    script.write_text(text)
    return subprocess.Popen(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "SIFTD_BIN": binary()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_three_line_example(tmp_path: Path) -> None:
    process = start(tmp_path, "train.py")
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    assert re.search(r"kept [\d.]+% of 8985 candidate rows", out), out  # 5 epochs of 1,797 digits


def test_the_stream_example(tmp_path: Path, pool: list[Worker]) -> None:
    trainer, feeder = start(tmp_path, "trainer.py", pool), start(tmp_path, "feeder.py", pool)
    try:
        out, _ = trainer.communicate(timeout=200)
        assert trainer.returncode == 0, out
        assert [line.split()[0] for line in out.splitlines()[-3:]] == ["0", "1", "2"], out
        told, _ = feeder.communicate(timeout=100)
        assert feeder.returncode == 0, told
    finally:
        for p in (trainer, feeder):
            p.kill()
            p.wait(10)


def test_the_keys_example(tmp_path: Path) -> None:
    """Its commands as they stand, but for the port; the worker's line is the one that names the keys."""
    for command in (c for c in COMMANDS if c.startswith("siftd keygen")):
        made = subprocess.run(
            [binary(), *command.split()[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert made.returncode == 0, made.stderr
    line = next(c for c in COMMANDS if c.startswith("siftd worker") and "--key-file" in c).split()
    line[line.index("--endpoint") + 1] = "tcp://0.0.0.0:0"
    with Worker(tmp_path, *_below(tmp_path, line[2:])) as worker:
        worker.endpoint = worker.endpoint.replace("0.0.0.0", "127.0.0.1")
        process = start(tmp_path, "locked.py", [worker])
        out, _ = process.communicate(timeout=200)
        assert process.returncode == 0, out
    assert re.search(r"kept [\d.]+% of 1600 candidate rows", out), out


def _below(folder: Path, words: list[str]) -> list[str]:
    return [str(folder / w) if w.startswith("keys/") else w for w in words]


def test_the_changed_lines_are_three() -> None:
    assert re.findall(r"# (\d)$", EXAMPLES["train.py"], re.MULTILINE) == ["1", "2", "3"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("siftd worker")])
def test_the_flags_of_its_worker_commands_exist(command: str, tmp_path: Path) -> None:
    (tmp_path / "scorer.pt").touch()
    words = [binary(), "config", "show", *shlex.split(command)[2:]]
    shown = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("./dev")])
def test_its_developer_commands_exist(command: str) -> None:
    usage = subprocess.run([str(ROOT / "dev"), "help"], capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^  {command.split()[1]}\b", usage, re.MULTILINE)


def every_readme() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*README.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.split()]


@pytest.mark.parametrize("readme", every_readme(), ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(readme: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", readme.read_text()):
        assert (readme.parent / target).exists(), f"{readme}: {target}"
