# SPDX-License-Identifier: Apache-2.0
"""SIFTD_FAULT itself: a plan that is none is refused by name. That plans are carried out, the rows show."""

from __future__ import annotations

from pathlib import Path

import pytest

from process import Process, program


@pytest.mark.parametrize("plan", ["emit", "emit:0:kill", "emit:x:kill", "emit:1:burn", ":1:kill", "emit:kill"])
def test_a_plan_that_is_none_is_refused(tmp_path: Path, plan: str) -> None:
    process = Process("p", [program("siftd_fault_loader"), "--endpoint", "tcp://127.0.0.1:1"], tmp_path, fault=plan)
    try:
        assert process.wait_end(20) == 2
        assert f"SIFTD_FAULT is '{plan}'; allowed: POINT:PASSAGE:kill or POINT:PASSAGE:stop" in process.log_text()
    finally:
        process.close()
