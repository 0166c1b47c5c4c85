# SPDX-License-Identifier: Apache-2.0
"""Rows of the matrix: what happens to loaders."""

from __future__ import annotations

import re
from collections.abc import Callable

from harness import FaultJob

MakeJob = Callable[..., FaultJob]


def test_killed_and_started_again(make_job: MakeJob) -> None:
    """The new process skips what is decided, and offers the rest of the same batches."""
    job = make_job()
    job.worker("w0")
    job.worker("w1")
    trainer = job.trainer(gated=8)
    first, _ = job.loaders()
    trainer.wait_event("gate")
    first.kill()
    second = job.loader(0)
    begun = second.wait_event("pass")
    assert begun["wanted"] < begun["batches"], "nothing was skipped"
    job.open_gate()
    job.finish()


def test_killed_in_its_last_pass(make_job: MakeJob) -> None:
    job = make_job()
    job.worker("w0")
    job.worker("w1")
    trainer = job.trainer(gated=24)
    first, _ = job.loaders()
    trainer.wait_event("gate")
    first.wait_event("pass", 2)
    first.kill()
    second = job.loader(0)
    assert second.wait_event("pass")["pass"] == 1, "a pass that is over is not offered again"
    job.open_gate()
    job.finish()


def test_two_live_loaders_with_one_index(make_job: MakeJob) -> None:
    """The later process takes the seat; the earlier one is told so, and ends."""
    job = make_job(loaders=1)
    job.worker("w0")
    job.worker("w1")
    job.trainer(gated=4)
    earlier = job.loader(0, name="loader0-first")
    earlier.wait_event("offer", 5)
    later = job.loader(0)
    later.wait_event("offer")
    assert earlier.wait_end() == 1
    assert re.search(r"loader 0 '.*' was replaced by a later process with the same index", earlier.error())
    assert "give each loader its own index" in earlier.error()
    job.open_gate()
    job.finish()


def test_absent_at_the_end_of_a_pass(make_job: MakeJob) -> None:
    """Both sides end at their deadline, and name whom they waited for, for what, and what to do."""
    job = make_job()
    job.worker("w0")
    job.worker("w1")
    trainer = job.trainer("--timeout-ms", "4000")
    present = job.loader(0, "--timeout-ms", "1500")
    assert present.wait_end() == 1
    assert re.search(
        r"loader 0 made no progress for 1 s; it waits for the trainer to ack the end of pass 0", present.error()
    )
    assert "when every loader has ended its pass" in present.error()
    assert trainer.wait_end() == 1
    assert re.search(r"no batch for 4 s; rank 0 waits for rows from 2 workers: loader 1 has not ended", trainer.error())
    assert "are the loaders running" in trainer.error()
    job.verdict(finished=False)


def test_absent_from_the_start_and_then_there(make_job: MakeJob) -> None:
    job = make_job()
    job.worker("w0")
    job.worker("w1")
    job.trainer()
    present = job.loader(0)
    present.wait_event("end_pass")
    job.loader(1)
    job.finish()
