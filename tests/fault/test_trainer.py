# SPDX-License-Identifier: Apache-2.0
"""Rows of the matrix: what happens to trainers. What was trained counts along the checkpoints that were resumed."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from harness import STALL, FaultJob, passage
from process import Process

MakeJob = Callable[..., FaultJob]


def state_of(job: FaultJob) -> tuple[str, ...]:
    return ("--state", str(job.folder / "state"), "--checkpoint-every", "3")


def kill_and_resume(job: FaultJob, fault: str) -> Process:
    """The trainer dies at a fault point and is started again from its last state; its second life."""
    for name in ("w0", "w1"):
        job.worker(name)
    first = job.trainer(*state_of(job), fault=fault)
    job.loaders()
    assert first.wait_end() == -signal.SIGKILL
    return job.trainer(*state_of(job))


def test_kill_between_steps(make_job: MakeJob) -> None:
    job = make_job()
    second = kill_and_resume(job, f"step:{passage(11, 30)}:kill")
    job.finish()
    assert second.events.of("start")[0]["step"] == job.lives["trainer0"][0].events.of("checkpoint")[-1]["step"]


def test_kill_between_step_and_checkpoint(make_job: MakeJob) -> None:
    """A step that no checkpoint holds is made again, with the same rows."""
    job = make_job()
    kill_and_resume(job, f"checkpoint:{passage(4, 10)}:kill")
    job.finish()


def test_kill_while_it_writes_its_state(make_job: MakeJob) -> None:
    """Half a state is on disk: the one before it is whole."""
    job = make_job()
    kill_and_resume(job, f"state:{passage(4, 10)}:kill")
    assert (job.folder / "state.partial").exists()
    job.finish()


def test_kill_before_its_first_checkpoint(make_job: MakeJob) -> None:
    job = make_job()
    second = kill_and_resume(job, "step:2:kill")
    job.finish()
    assert second.events.of("start")[0]["step"] == 0


def test_kill_again_and_again(make_job: MakeJob) -> None:
    job = make_job()
    for name in ("w0", "w1"):
        job.worker(name)
    job.loaders()
    for _ in range(4):
        assert job.trainer(*state_of(job), fault="step:8:kill").wait_end() == -signal.SIGKILL
    job.trainer(*state_of(job))
    job.finish()


def test_resume_with_fewer_workers(make_job: MakeJob) -> None:
    job = make_job()
    for name in ("w0", "w1"):
        job.worker(name)
    first = job.trainer(*state_of(job), fault="step:11:kill")
    job.loaders()
    assert first.wait_end() == -signal.SIGKILL
    job.current("w0").kill()
    job.trainer(*state_of(job), endpoints=[job.endpoint("w1")])
    job.finish()


def test_resume_with_more_workers(make_job: MakeJob) -> None:
    job = make_job()
    job.worker("w0")
    spares = [job.proxy(""), job.proxy("")]
    ways = [job.endpoint("w0"), *(p.endpoint for p in spares)]
    first = job.trainer(*state_of(job), endpoints=ways[:1], fault="step:11:kill")
    job.loaders(endpoints=ways)
    assert first.wait_end() == -signal.SIGKILL
    for name, spare in zip(("w1", "w2"), spares, strict=True):
        job.worker(name)
        spare.retarget(job.endpoint(name))
    job.trainer(*state_of(job), endpoints=ways, gated=13)
    for name in ("w1", "w2"):
        job.current(name).wait_event("update")
        job.wait_for_loaders(name)
    job.open_gate()
    job.finish()
    # The next pass finds three workers with all their credit.
    for name in ("w1", "w2"):
        assert job.current(name).events.of("scored")


def test_kill_with_its_workers(make_job: MakeJob) -> None:
    """A node goes: the trainer and a worker at once."""
    job = make_job()
    for name in ("w0", "w1"):
        job.worker(name)
    first = job.trainer(*state_of(job), gated=10)
    job.loaders()
    first.wait_event("gate")
    first.kill()
    job.current("w0").kill()
    job.restart("w0")
    job.open_gate()
    job.trainer(*state_of(job))
    job.finish()


def test_stalled(make_job: MakeJob) -> None:
    """A long validation: nobody loses patience, nothing is sent again."""
    job = make_job()
    for name in ("w0", "w1"):
        job.worker(name)
    trainer = job.trainer(gated=10)
    loaders = job.loaders()
    trainer.wait_event("gate")
    time.sleep(STALL)  # the fault's length
    assert not any("lost" in e["text"] for p in (trainer, *loaders) for e in p.events.of("log"))
    job.open_gate()
    assert job.finish().duplicates == 0
    again = [e for n in ("w0", "w1") for e in job.current(n).events.of("scoring") if e["attempt"] > 0]
    assert not again, "a lease that waits for the trainer is not sent again"


def test_stopped(make_job: MakeJob) -> None:
    """SIGSTOP, its I/O thread too: the workers end its sessions, keep what it has not acked, and it goes on."""
    job = make_job()
    for name in ("w0", "w1"):
        job.worker(name)
    trainer = job.trainer(gated=10)
    job.loaders()
    trainer.wait_event("gate")
    trainer.signal(signal.SIGSTOP)
    trainer.wait_stopped()
    time.sleep(STALL)  # the fault's length
    trainer.signal(signal.SIGCONT)
    job.open_gate()
    job.finish()
