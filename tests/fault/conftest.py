# SPDX-License-Identifier: Apache-2.0
"""The fixture of every row: makes jobs, ends their processes, and tells what they said last if the row failed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import FaultJob


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call":
        item.stash[_FAILED] = report.failed


_FAILED = pytest.StashKey[bool]()


@pytest.fixture
def make_job(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., FaultJob]]:
    jobs: list[FaultJob] = []

    def make(**spec: Any) -> FaultJob:
        folder = tmp_path / f"job{len(jobs)}"
        folder.mkdir()
        jobs.append(FaultJob(folder, **spec))
        return jobs[-1]

    yield make
    for job in jobs:
        if request.node.stash.get(_FAILED, False):
            print(job.last_words(), file=sys.stderr)
        if job.figures:
            print("figures:", job.figures)
        job.close()
