# SPDX-License-Identifier: Apache-2.0
"""Rows of the matrix: ends under load. Nothing of a process stays, and it ends within its grace time."""

from __future__ import annotations

import signal
from collections.abc import Callable

from harness import FaultJob
from process import nothing_left, wait_until

MakeJob = Callable[..., FaultJob]
DRAIN = 5.0  # seconds, --drain-ms of the harness


def test_sigterm_to_each_worker(make_job: MakeJob) -> None:
    job = make_job(epochs=6)
    for name in ("w0", "w1"):
        job.worker(name)
    trainer = job.trainer(gated=10)
    job.loaders()
    for turn, name in enumerate(("w0", "w1")):
        trainer.wait_event("gate", turn + 1)
        worker = job.current(name)
        worker.signal(signal.SIGTERM)
        job.allow(40 + 30 * turn)
        assert worker.wait_end(2 * DRAIN) == 0
        nothing_left(worker)
        assert "ending with" not in worker.log_text(), "all that it held was acked"
        job.restart(name).wait_event("update")
    job.open_gate()
    job.finish()


def test_sigterm_to_a_worker_that_cannot_drain(make_job: MakeJob) -> None:
    """The trainer takes nothing: the worker ends at its grace time, says what it held, and nothing of that is lost."""
    job = make_job(rows=1280)
    for name in ("w0", "w1"):
        job.worker(name, "--drain-ms", "800")
    trainer = job.trainer(gated=0)
    job.loaders()
    trainer.wait_event("gate")
    worker = job.current("w0")
    wait_until("it holds more than the trainer takes", lambda: len(worker.events.of("scored")) >= 14)
    worker.signal(signal.SIGTERM)
    assert worker.wait_end() == 0
    assert "batches that were not acked; their loaders send them to other workers" in worker.log_text()
    nothing_left(worker)
    job.open_gate()
    job.finish()


def test_a_second_signal_ends_a_worker_at_once(make_job: MakeJob) -> None:
    job = make_job(rows=1280)
    for name in ("w0", "w1"):
        job.worker(name, "--drain-ms", "3600000")
    trainer = job.trainer(gated=0)
    job.loaders()
    trainer.wait_event("gate")
    worker = job.current("w0")
    wait_until("it holds more than the trainer takes", lambda: len(worker.events.of("scored")) >= 14)
    worker.signal(signal.SIGINT)
    wait_until("it drains", lambda: "draining: SIGINT" in worker.log_text())
    worker.signal(signal.SIGINT)
    assert worker.wait_end(10) == 128 + signal.SIGINT
    nothing_left(worker)
    job.open_gate()
    job.finish()


def test_sigterm_during_a_long_forward(make_job: MakeJob) -> None:
    """What is being scored goes back; the forward is not waited for."""
    job = make_job(rows=320)
    stuck = job.worker("w0", cost_us=3_600_000_000)
    job.trainer()
    loaders = job.loaders()
    stuck.wait_event("scoring")
    stuck.signal(signal.SIGTERM)
    assert stuck.wait_end(2 * DRAIN) == 0
    nothing_left(stuck)
    assert any("drains: SIGTERM" in e["text"] for p in loaders for e in p.events.of("log"))
    job.restart("w0")
    job.finish()


def test_sigterm_to_the_trainer(make_job: MakeJob) -> None:
    """A trainer that leaves without Finish: the loaders keep their leases and wait for the next run."""
    job = make_job()
    for name in ("w0", "w1"):
        job.worker(name)
    state = ("--state", str(job.folder / "state"))
    first = job.trainer(*state, gated=10)
    job.loaders()
    first.wait_event("gate")
    first.signal(signal.SIGTERM)
    assert first.wait_end(10) == -signal.SIGTERM
    nothing_left(first)
    job.open_gate()
    job.trainer(*state)
    job.finish()


def test_sigterm_to_a_loader(make_job: MakeJob) -> None:
    job = make_job()
    for name in ("w0", "w1"):
        job.worker(name)
    trainer = job.trainer(gated=8)
    first, _ = job.loaders()
    trainer.wait_event("gate")
    first.signal(signal.SIGTERM)
    assert first.wait_end(10) == -signal.SIGTERM
    nothing_left(first)
    job.loader(0)
    job.open_gate()
    job.finish()
