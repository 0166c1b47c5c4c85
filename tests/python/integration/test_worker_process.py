# SPDX-License-Identifier: Apache-2.0
"""The siftd program as a process: ready line, signals, exit codes, HTTP, commands, hostile bytes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import zmq

from support import ROOT, Worker, binary, wait_until


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([binary(), *arguments], capture_output=True, text=True, timeout=60)


def test_ready_line_names_the_bound_endpoint(worker: Worker) -> None:
    line = worker.ready_line()
    assert re.fullmatch(
        rf"siftd worker ready endpoint={re.escape(worker.endpoint)} http=- device=cpu pid={worker.process.pid}\n", line
    )
    assert re.fullmatch(r"tcp://127\.0\.0\.1:[1-9]\d*", worker.endpoint)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(worker: Worker, number: int) -> None:
    worker.signal(number)
    assert worker.process.wait(20) == 0
    assert "draining" in worker.log.read_text()


def test_it_ends_with_the_parent_process(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with Worker(tmp_path, "--parent-pid", str(parent.pid)) as w:
        parent.kill()
        parent.wait(10)
        assert w.process.wait(20) == 0
        assert f"parent process {parent.pid} ended" in w.log.read_text()


def test_http_serves_metrics_and_health(tmp_path: Path) -> None:
    with Worker(tmp_path, "--http", "127.0.0.1:0") as w:
        match = re.search(r"http=(\S+)", w.ready_line())
        assert match is not None
        base = f"http://{match[1]}"

        def get(path: str) -> tuple[int, str]:
            try:
                with urllib.request.urlopen(base + path, timeout=10) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        assert get("/healthz") == (200, "ok\n")
        assert get("/readyz")[0] == 503
        wait_until("a reason in /readyz", lambda: get("/readyz") == (503, "waits for a scorer artifact\n"))
        wait_until("metrics", lambda: "siftd_candidates_total 0" in get("/metrics")[1])
        assert "# TYPE siftd_kept_rows_total counter" in get("/metrics")[1]


def test_status_as_json_and_for_people(worker: Worker) -> None:
    status = worker.status()
    assert status["worker_name"] == "w"
    assert status["ready"] is False
    assert status["not_ready_reason"] == "waits for a scorer artifact"
    assert [s["stage"] for s in status["stage"]] == ["decode", "score", "select", "emit"]
    text = run("status", worker.endpoint)
    assert text.returncode == 0
    assert "waits for a scorer artifact" in text.stdout


def test_status_of_nobody_is_exit_4() -> None:
    answer = run("status", "--timeout-ms", "200", "tcp://127.0.0.1:1")
    assert answer.returncode == 4
    assert "no answer from tcp://127.0.0.1:1" in answer.stderr


def test_version_names_every_library() -> None:
    out = run("version").stdout
    for library in (
        "siftd", "LibTorch", "oneTBB", "libzmq", "protobuf", "libsodium", "zlib", "spdlog", "prometheus-cpp",
        "cpp-httplib", "CLI11",
    ):  # fmt: skip
        assert re.search(rf"^{library} +\d", out, re.MULTILINE), f"{library} in\n{out}"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["worker", "--nonsense"], 2, "--nonsense"),
        ([], 2, "subcommand"),
        (["worker", "--lanes", "99"], 3, "lanes is 99; allowed: [1, 64]"),
        (["worker", "--liveness-ms", "100"], 3, "liveness_ms is 100; allowed: [2001, 3600000]"),
        (["worker", "--device", "tpu"], 3, "device is 'tpu'; allowed: cpu, cuda, cuda:N"),
        (["worker", "--device", "cuda"], 1, "has no CUDA"),
        (["worker", "--endpoint", "tcp://0.0.0.0:0"], 3, "insecure_plaintext"),
        (["worker", "--endpoint", "udp://x"], 3, "endpoint is 'udp://x'"),
        (["worker", "--artifact", "/nowhere.pt"], 1, "cannot read '/nowhere.pt'"),
        (["worker", "--policy", "uniform { keep: 2 }"], 3, "uniform.keep is 2; allowed: (0, 1]"),
        (["worker", "--policy", "uniform { kep: 2 }"], 3, 'no field named "kep"'),
        (["worker", "--config", "/nowhere"], 3, "cannot read config file '/nowhere'"),
        (["config", "check", "/nowhere"], 3, "cannot read config file '/nowhere'"),
    ],
)
def test_a_users_mistake_has_its_exit_code_and_text(arguments: list[str], code: int, text: str) -> None:
    answer = run(*arguments)
    assert (answer.returncode, text in answer.stdout + answer.stderr) == (code, True), answer


def test_an_artifact_that_is_none_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"PK\x03\x04 no archive")
    answer = run("worker", "--artifact", str(bad))
    assert answer.returncode == 3
    assert "not a TorchScript archive" in answer.stderr


def test_config_errors_have_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "w.textproto"
    file.write_text('endpoint: "tcp://127.0.0.1:0"\nlanez: 3\n')
    answer = run("config", "check", str(file))
    assert answer.returncode == 3
    assert re.search(rf'{re.escape(str(file))}:2:\d+: .*"lanez"', answer.stderr)


def test_flag_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "w.textproto"
    file.write_text("lanes: 3\nmax_rows: 77\npolicy { top_k { keep: 0.25 } }\n")
    out = run("config", "show", "--config", str(file), "--max-rows", "88").stdout
    assert "lanes: 3\n" in out
    assert "max_rows: 88\n" in out
    assert "max_inflight: 64\n" in out
    assert "keep: 0.25" in out


@pytest.mark.parametrize("file", sorted((ROOT / "configs").rglob("*.textproto")), ids=lambda p: p.name)
def test_every_shipped_config_is_valid(file: Path) -> None:
    answer = run("config", "check", str(file))
    assert answer.returncode == 0, answer.stderr


def test_what_config_show_prints_can_be_read_again(tmp_path: Path) -> None:
    first = run("config", "show", "--threads", "2", "--policy", "loss_cdf { keep: 0.5 }").stdout
    file = tmp_path / "again.textproto"
    file.write_text(first)
    assert run("config", "show", "--config", str(file)).stdout == first


def test_garbage_disturbs_nobody(worker: Worker) -> None:
    context = zmq.Context()
    try:
        link = context.socket(zmq.DEALER)
        link.linger = 0
        link.connect(worker.endpoint)
        for frames in (
            [b""], [b"x" * 9000], [b"SFTD\x01\x04\x00\x00"], [b"SFTD\x01\x04\x00\x00", b"\xff" * 50],
            [b"SFTD\x09\x01\x00\x00", b""], [b"a"] * 60, [b"SFTD\x01\x01\x00\x00", os.urandom(300)],
        ):  # fmt: skip
            link.send_multipart(frames)
        wait_until("errors counted", lambda: worker.status()["errors"].get("MALFORMED", "0") == "7")
        assert worker.process.poll() is None
    finally:
        context.destroy(linger=0)
