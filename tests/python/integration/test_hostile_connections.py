# SPDX-License-Identifier: Apache-2.0
"""Connections that are no peers', against a real worker: scanners, half handshakes, messages without an end, floods.

Each time a real training loop beside them goes on being sifted, and the worker's memory stays in bounds.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import socket
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import siftd
from raw_peers import dial, frame, greet, resident, until_closed
from support import Rows, Worker, binary, toy_model, wait_until

MIB = 1 << 20
# Of the worker here: budget 16 MiB + five chunks of 1 MiB + two headers of 16 MiB.
MOST_UNFINISHED = (16 + 5 + 32) * MIB
# libzmq keeps a frame of 200 bytes in twice that; what comes between two looks (100 ms, later 20 ms) is held, too.
MOST_GROWTH = 2 * (MOST_UNFINISHED + 128 * MIB)
CLOSES_WITHIN = 40.0  # seconds; the worker's own limits are 5 s for a handshake and 10 s for a first message


@dataclass
class Site:
    worker: Worker
    loader: siftd.SiftingDataLoader
    batches: Iterator[Any]
    http: str
    resident: int = 0

    def errors(self) -> dict[str, int]:
        return {name: int(count) for name, count in self.worker.status()["errors"].items()}

    def undisturbed(self) -> None:
        """The worker goes on deciding for the loop beside it, in bounded memory."""
        assert self.worker.process.poll() is None
        before = self.loader.stats()
        for batch in self.batches:
            assert len(batch[0]) == 16
            if self.loader.stats().verdicts >= before.verdicts + 3:
                break
        after = self.loader.stats()
        assert after.unsifted == before.unsifted, "no batch had to go out unsifted"
        grown = resident(self.worker.process.pid) - self.resident
        assert grown < MOST_GROWTH, f"{grown >> 20} MiB more than at the start"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    torch.set_num_threads(1)
    flags = ["--budget-bytes", "16MiB", "--max-batch-bytes", "1MiB", "--max-frame-bytes", "1MiB"]
    flags += ["--heartbeat-ms", "500", "--liveness-ms", "5000", "--http", "127.0.0.1:0"]
    with Worker(tmp_path_factory.mktemp("site"), *flags) as worker:
        match = re.search(r"http=(\S+)", worker.ready_line())
        assert match is not None
        loader = siftd.SiftingDataLoader(
            DataLoader(Rows(160), 16), model=toy_model(), workers=[worker.endpoint], policy=siftd.Uniform(0.5), seed=7,
            steps_per_epoch=10**9, starve_timeout=60.0, timeout=60.0,
        )  # fmt: skip
        with loader:
            place = Site(worker, loader, iter(loader), f"http://{match[1]}")
            for _ in range(20):
                next(place.batches)
            place.resident = resident(worker.process.pid)
            yield place


SCANS = {
    "one_byte": b"\0",
    "ssh": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "tls": bytes.fromhex("16030100c8010000c403030000") + bytes(190),
    "smb": bytes.fromhex("000000a4ff534d4272000000000801c8") + bytes(150),
    "redis": b"*1\r\n$4\r\nINFO\r\n",
    "zmtp_of_the_future": b"\xff" + bytes(8) + b"\x7f" + b"\x09" * 54,
    "all_ones": b"\xff" * 4096,
    "http_get": b"GET / HTTP/1.1\r\nHost: siftd\r\nAccept: */*\r\n\r\n",
    "http_post": b"POST /run HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
}


@pytest.mark.parametrize("name", SCANS)
def test_a_scanners_bytes_are_cut_off(site: Site, name: str) -> None:
    with dial(site.worker.endpoint) as link:
        with contextlib.suppress(ConnectionError):  # cut already
            link.sendall(SCANS[name])
        site.undisturbed()
        said = until_closed(link, CLOSES_WITHIN)
    # A greeting; and Errors where the bytes happen to be frames of ZMTP 1.0, until the connection is cut.
    assert len(said) <= 128 or (len(said) < 16384 and b"frames is" in said)
    assert b"HTTP" not in said and b"siftd" not in said.lower()
    site.undisturbed()


@pytest.mark.parametrize("sent", [0, 1, 10, 63])
def test_half_a_handshake_is_given_up(site: Site, sent: int) -> None:
    greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    with dial(site.worker.endpoint) as link:
        link.sendall(greeting[:sent])
        site.undisturbed()
        until_closed(link, CLOSES_WITHIN)
    site.undisturbed()


def test_a_frame_larger_than_the_limit_is_cut_before_it_is_read(site: Site) -> None:
    for size in (2 * MIB, 1 << 40, 2**63 - 1):
        with dial(site.worker.endpoint) as link:
            greet(link)
            link.sendall(b"\x02" + size.to_bytes(8, "big"))
            until_closed(link, CLOSES_WITHIN)
    site.undisturbed()


def test_a_message_without_an_end_is_cut_and_counted(site: Site) -> None:
    """A bug once: libzmq gathers all frames of a message, whatever their number, before anybody sees the first."""
    before = site.errors().get("CUT_UNFINISHED_MESSAGE", 0)
    part, sent = frame(b"\0" * (MIB // 2), more=True), 0
    with dial(site.worker.endpoint) as link:
        greet(link)
        try:
            while sent < 40 * MOST_UNFINISHED:
                link.sendall(part)
                sent += len(part)
                if sent % (16 * len(part)) == 0:
                    site.undisturbed()
            cut = False
        except ConnectionError:
            cut = True
    assert cut, f"{sent >> 20} MiB of one message were taken"
    assert sent > MOST_UNFINISHED // 2, "an honest large message is not cut"
    assert site.errors()["CUT_UNFINISHED_MESSAGE"] == before + 1
    assert "a message that did not end" in site.worker.log.read_text()
    site.undisturbed()


def test_many_small_frames_without_an_end_are_cut(site: Site) -> None:
    before = site.errors().get("CUT_UNFINISHED_MESSAGE", 0)
    parts, sent = frame(b"x" * 200, more=True) * 5000, 0
    with dial(site.worker.endpoint) as link:
        greet(link)
        with pytest.raises(ConnectionError):
            while sent < 40 * MOST_UNFINISHED:
                link.sendall(parts)
                sent += len(parts)
    assert site.errors()["CUT_UNFINISHED_MESSAGE"] == before + 1
    assert site.worker.process.poll() is None


def test_a_thousand_idle_connections_disturb_nobody_and_are_cut(site: Site) -> None:
    before = site.errors().get("CUT_SILENT_CONNECTION", 0)
    links: list[socket.socket] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    try:
        for i in range(1000):
            links.append(dial(site.worker.endpoint))
            if i % 2:  # half of them complete the handshake
                greet(links[-1])
            if i % 200 == 0:
                site.undisturbed()
        site.undisturbed()
        for link in links:
            until_closed(link, CLOSES_WITHIN)
        wait_until("a count of them", lambda: site.errors().get("CUT_SILENT_CONNECTION", 0) >= before + 500)
    finally:
        for link in links:
            link.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    site.undisturbed()


def test_connections_that_come_and_go_leave_nothing_behind(site: Site) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{site.worker.process.pid}/fd"))

    before = descriptors()
    for i in range(500):
        with dial(site.worker.endpoint) as link:
            if i % 2:
                greet(link)
                link.sendall(frame(b"garbage") + frame(b"gar", more=True))
    wait_until("the descriptors are closed", lambda: descriptors() <= before + 4)
    site.undisturbed()


def test_a_worker_takes_as_many_descriptors_as_it_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "siftd"
    small.write_text(f'#!/bin/sh\nulimit -S -n 128\nexec "{binary()}" "$@"\n')
    small.chmod(small.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("SIFTD_BIN", str(small))
    with Worker(tmp_path) as worker:
        links = [dial(worker.endpoint) for _ in range(200)]
        try:
            assert worker.status()["ready"] is False, "one more is served"
        finally:
            for link in links:
                link.close()


# ------------------------------------------------------------ the HTTP endpoint
def test_a_large_request_body_is_refused_and_not_kept(site: Site) -> None:
    """A bug once: a body of any size was read into memory, though none is asked for."""
    before = resident(site.worker.process.pid)
    host, port = site.http.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as link:
        link.sendall(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            for _ in range(100):
                link.sendall(bytes(MIB))
            answer = link.recv(65536)
        except ConnectionError:
            answer = b""
    assert answer == b"" or b" 413 " in answer.split(b"\r\n")[0] + b" "
    assert resident(site.worker.process.pid) - before < 32 * MIB
    assert urllib.request.urlopen(site.http + "/healthz", timeout=20).read() == b"ok\n"
    site.undisturbed()


@pytest.mark.parametrize(
    "request_bytes",
    [b"\0" * 100, b"GET " + b"/" * 20_000 + b" HTTP/1.1\r\n\r\n", b"GET /metrics HTTP/9.9\r\n\r\n", b"\r\n" * 1000],
    ids=["zeros", "long_path", "version", "blank_lines"],
)
def test_a_broken_request_is_answered_with_an_error_or_a_close(site: Site, request_bytes: bytes) -> None:
    host, port = site.http.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as link:
        try:
            link.sendall(request_bytes)
            link.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        said = until_closed(link, CLOSES_WITHIN)
    assert said == b"" or re.match(rb"HTTP/1\.1 4\d\d ", said), said[:80]
    assert urllib.request.urlopen(site.http + "/healthz", timeout=20).read() == b"ok\n"


def test_paths_that_are_none_are_404(site: Site) -> None:
    for path in ("/", "/../../etc/passwd", "/metrics/..", "/%00"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(site.http + path, timeout=20)
        assert caught.value.code == 404
