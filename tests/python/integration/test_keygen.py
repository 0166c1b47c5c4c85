# SPDX-License-Identifier: Apache-2.0
"""`siftd keygen`, and what the program says of key files that are not sound."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import zmq.auth

from keys import Keys, keygen
from support import ROOT, binary


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([binary(), *arguments], capture_output=True, text=True, timeout=60, env={**os.environ, **env})


def test_it_makes_files_that_others_may_not_read_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        keys = Keys(tmp_path / "keys")
        keys.client("alice", "loader", "publisher")
    finally:
        os.umask(old)
    assert mode(keys.folder) == 0o700
    for secret in keys.folder.glob("*.key_secret"):
        assert mode(secret) == 0o600
    folders = [keys.folder / "clients", *(keys.folder / "clients").iterdir()]
    assert sorted(f.name for f in folders) == ["clients", "loader", "monitor", "publisher", "trainer"]
    assert {mode(f) for f in folders} == {0o755}
    assert {mode(p) for p in keys.folder.rglob("*.key")} == {0o644}
    assert keys.public("alice", "loader").read_text() == keys.public("alice", "publisher").read_text()
    assert not keys.public("alice", "trainer").exists()


def test_the_files_are_zeromqs_certificates(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    public, secret = zmq.auth.load_certificate(keys.client("alice", "loader"))
    assert secret is not None and zmq.curve_public(secret) == public
    assert zmq.auth.load_certificate(keys.public("alice", "loader")) == (public, None)


def test_no_secret_is_printed(tmp_path: Path) -> None:
    out = keygen("worker", str(tmp_path))
    _, secret = zmq.auth.load_certificate(tmp_path / "worker.key_secret")
    assert secret is not None
    assert secret.decode() not in out.stdout + out.stderr
    assert "--key-file" in out.stdout and "--client-keys" in out.stdout
    shown = run("config", "show", *Keys(tmp_path / "more").flags)
    _, other = zmq.auth.load_certificate(tmp_path / "more" / "worker.key_secret")
    assert other is not None and other.decode() not in shown.stdout + shown.stderr
    assert str(tmp_path / "more" / "worker.key_secret") in shown.stdout


def test_nothing_is_replaced_unless_forced(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.client("alice", "loader", "trainer")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for command in (["worker", str(tmp_path)], ["client", str(tmp_path), "--name", "alice", "--role", "monitor"]):
        again = keygen(*command)
        assert again.returncode == 1
        assert "--force" in again.stderr
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    forced = keygen("client", str(tmp_path), "--name", "alice", "--role", "monitor", "--force")
    assert forced.returncode == 0
    assert not keys.public("alice", "loader").exists(), "the old key would still be let in"
    assert keys.public("alice", "monitor").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["client", "{}", "--name", "worker", "--role", "loader"], "name is 'worker'"),
        (["client", "{}", "--name", "../x", "--role", "loader"], "name is '../x'"),
        (["client", "{}", "--name", ".x", "--role", "loader"], "name is '.x'"),
        (["client", "{}", "--name", "x", "--role", "king"], "role is 'king'; allowed: loader, trainer"),
        (["client", "{}", "--name", "x"], "--role"),
        (["client", "{}"], "--name"),
        ([], "subcommand"),
    ],
)
def test_mistakes_are_usage_errors(tmp_path: Path, arguments: list[str], text: str) -> None:
    answer = keygen(*(a.format(tmp_path) for a in arguments))
    assert (answer.returncode, text in answer.stdout + answer.stderr) == (2, True), answer
    assert list(tmp_path.rglob("*.key*")) == []


def test_its_help_has_the_example(tmp_path: Path) -> None:
    for command in ([], ["worker"], ["client"]):
        out = keygen(*command, "--help").stdout
        example = re.findall(r"siftd (keygen .*keys.*)", out)
        assert example, out
    made = run(*example[0].split()[:2], str(tmp_path / "keys"), *example[0].split()[3:])
    assert made.returncode == 0, made.stderr


def test_a_worker_refuses_unsound_keys_by_file_and_remedy(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    secret = tmp_path / "worker.key_secret"
    secret.chmod(0o640)
    answer = run("worker", *keys.flags)
    assert answer.returncode == 3
    assert f"chmod 600 {secret}" in answer.stderr
    secret.chmod(0o600)
    (tmp_path / "clients" / "loader").chmod(0o775)
    answer = run("worker", *keys.flags)
    assert answer.returncode == 3
    assert f"chmod go-w {tmp_path / 'clients' / 'loader'}" in answer.stderr
    config = tmp_path / "w.textproto"
    config.write_text(f'key_file: "{secret}" client_keys: "{tmp_path / "clients"}"')
    answer = run("config", "check", str(config))
    assert answer.returncode == 3
    assert "chmod go-w" in answer.stderr
    (tmp_path / "clients" / "loader").chmod(0o755)
    assert run("config", "check", str(config)).returncode == 0


def test_the_commands_of_security_md(tmp_path: Path) -> None:
    block = re.findall(r"```sh\n(.*?)```", (ROOT / "SECURITY.md").read_text(), re.DOTALL)[0]
    commands = [line.split("#")[0].split()[1:] for line in block.splitlines()]
    assert {c[0] for c in commands} == {"keygen", "worker", "status"}
    for command in commands:
        if command[0] == "worker":
            command = ["config", "show", *command[1:]]
        if command[0] == "status":  # nobody is there
            command = ["status", "--timeout-ms", "50", *command[1:-1], "tcp://127.0.0.1:1"]
        answer = subprocess.run([binary(), *command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert answer.returncode == (4 if command[0] == "status" else 0), answer


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--key-file", "k"], "client_keys ''; allowed: both"),
        (["--key-file", "k", "--client-keys", "c", "--insecure-plaintext"], "insecure_plaintext is true"),
        (["--endpoint", "tcp://0.0.0.0:0"], "siftd keygen worker"),
        (["--http", "0.0.0.0:0"], "http_public: true"),
        (["--artifact-sha256", "abc"], "64 lower-case hexadecimal digits"),
    ],
)
def test_doors_that_do_not_fit_together_are_refused(flags: list[str], text: str) -> None:
    answer = run("worker", *flags)
    assert (answer.returncode, text in answer.stderr) == (3, True), answer
