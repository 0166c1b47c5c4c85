# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all Python tests: one LibTorch thread, the built binary, a worker, a pool of two."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from siftd._delivery.native_loader import available
from support import Worker, binary


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def the_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local workers of the tests are the binary that was built."""
    with contextlib.suppress(AssertionError):  # pure tests run without it; the others fail by its name
        monkeypatch.setenv("SIFTD_BIN", binary())


@pytest.fixture(params=["compiled", "in Python"])
def either_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of the two implementations of the client's background the test runs."""
    if request.param == "compiled":
        assert available(), "siftd._native is not built, or SIFTD_NATIVE=0 is set: run ./dev build"
    else:
        monkeypatch.setenv("SIFTD_NATIVE", "0")
    return str(request.param)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with Worker(tmp_path) as w:
        yield w


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[list[Worker]]:
    with Worker(tmp_path, name="w0") as a, Worker(tmp_path, name="w1") as b:
        yield [a, b]
