# SPDX-License-Identifier: Apache-2.0
"""Rows of the matrix: what happens to workers."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from harness import FaultJob, passage
from process import wait_until

MakeJob = Callable[..., FaultJob]


def kill_at(job: FaultJob, point: str, usual: int) -> None:
    """Of two workers one dies at a fault point; the other does its work."""
    dead = job.worker("w0", fault=f"{point}:{passage(usual, 10)}:kill")
    job.worker("w1")
    job.trainer()
    job.loaders()
    assert dead.wait_end() == -signal.SIGKILL
    assert f"fault point {point}" in dead.log_text()
    job.finish()
    job.check_resent(dead, job.endpoint("w0"))


def test_kill_while_receiving(make_job: MakeJob) -> None:
    kill_at(make_job(), "receive", 5)


def test_kill_while_scoring(make_job: MakeJob) -> None:
    kill_at(make_job(), "score", 5)


def test_kill_while_emitting(make_job: MakeJob) -> None:
    kill_at(make_job(), "emit", 3)


def test_kill_while_awaiting_acks(make_job: MakeJob) -> None:
    kill_at(make_job(), "await_ack", 3)


def test_kill_between_ack_and_settled(make_job: MakeJob) -> None:
    """The trainer has the rows, the loader does not know: it sends them again, and they are dropped."""
    job = make_job()
    kill_at(job, "ack", 2)
    assert job.verdict().duplicates > 0


def test_hung_not_dead(make_job: MakeJob) -> None:
    job = make_job()
    hung = job.worker("w0", fault=f"score:{passage(5, 8)}:stop")
    job.worker("w1")
    trainer = job.trainer(gated=8)
    loaders = job.loaders()
    hung.wait_stopped()
    known = [p for p in loaders if any("is 'w0'" in e["text"] for e in p.events.of("log"))]
    assert known, "whoever sent it batches was welcomed"
    for loader in known:
        assert "silent for too long" in loader.wait_text(f"{job.endpoint('w0')} lost")["text"]
    trainer.wait_text(f"{job.endpoint('w0')} lost")
    hung.signal(signal.SIGCONT)  # what it decided meanwhile comes late
    wait_until("its late rows", lambda: len(hung.events.of("scored")) >= 6)
    job.open_gate()
    job.finish()


def test_restart_on_the_same_port(make_job: MakeJob) -> None:
    job = make_job()
    first = job.worker("w0")
    job.worker("w1")
    job.trainer(gated=6)
    loaders = job.loaders()
    first.wait_event("scored", 4)
    first.kill()
    second = job.restart("w0")
    second.wait_event("update")
    job.open_gate()
    second.wait_event("scored")
    job.finish()
    assert any("had died with" in e["text"] for p in loaders for e in p.events.of("log"))


def test_restart_on_a_new_port(make_job: MakeJob) -> None:
    job = make_job(rows=1280)
    first = job.worker("w0")
    job.worker("w1")
    spare = job.proxy("")  # an address of the list where nobody is yet
    ways = [*job.endpoints(), spare.endpoint]
    job.trainer(endpoints=ways, gated=6)
    loaders = job.loaders(endpoints=ways)
    first.wait_event("scored", 4)
    first.kill()
    second = job.restart("w0", same_port=False)
    spare.retarget(job.endpoint("w0"))
    second.wait_event("update")
    for loader in loaders:
        loader.wait_text("is 'w0.1'")
    job.open_gate()
    second.wait_event("scored")
    job.finish()


def test_join_in_mid_epoch(make_job: MakeJob) -> None:
    job = make_job()
    job.worker("w0")
    spare = job.proxy("")
    ways = [job.endpoint("w0"), spare.endpoint]
    trainer = job.trainer(endpoints=ways, gated=5)
    job.loaders(endpoints=ways)
    trainer.wait_event("gate")
    joiner = job.worker("w1")
    spare.retarget(job.endpoint("w1"))
    joiner.wait_event("update")
    job.open_gate()
    joiner.wait_event("scored")
    job.finish()


def test_leave_in_mid_epoch(make_job: MakeJob) -> None:
    """An orderly end is no death: nothing becomes suspect."""
    job = make_job()
    leaver = job.worker("w0")
    job.worker("w1")
    job.trainer(gated=6)
    loaders = job.loaders()
    leaver.wait_event("scored", 4)
    leaver.signal(signal.SIGTERM)
    wait_until("it drains", lambda: "draining: SIGTERM" in leaver.log_text())
    job.allow(30)
    assert leaver.wait_end() == 0
    job.restart("w0").wait_event("update")
    job.open_gate()
    job.finish()
    told = [e["text"] for p in loaders for e in p.events.of("log")]
    assert any("drains: SIGTERM" in text for text in told)
    assert not any("had died" in text for text in told)


def test_all_workers_gone_and_back(make_job: MakeJob) -> None:
    job = make_job()
    workers = [job.worker("w0"), job.worker("w1")]
    trainer = job.trainer(gated=6)
    loaders = job.loaders()
    trainer.wait_event("gate")
    for peer in loaders:
        for name in ("w0", "w1"):
            peer.wait_text(f"is '{name}'")
    for worker in workers:
        worker.kill()
    for peer in (trainer, *loaders):
        for name in ("w0", "w1"):
            peer.wait_text(f"{job.endpoint(name)} lost")
    for name in ("w0", "w1"):
        job.restart(name)
    job.open_gate()
    job.finish()


def test_rolling_restart_of_the_pool(make_job: MakeJob) -> None:
    job = make_job(epochs=6)
    names = ["w0", "w1", "w2"]
    for name in names:
        job.worker(name)
    trainer = job.trainer(gated=8)
    job.loaders()
    for turn, name in enumerate(names):
        trainer.wait_event("gate", turn + 1)
        job.current(name).signal(signal.SIGTERM)
        job.allow(38 + 30 * turn)  # it trains while the worker drains
        assert job.current(name).wait_end() == 0
        job.restart(name).wait_event("update")
    job.open_gate()
    job.finish()
    assert all(len(job.lives[name]) == 2 for name in names)


def ranks_make_equal_steps(job: FaultJob) -> None:
    dead = job.worker("w0", fault=f"score:{passage(6, 12)}:kill")
    job.worker("w1")
    run = str(time.time_ns())
    for rank in range(job.spec.world):
        job.trainer("--run", run, rank=rank)
    job.loaders()
    assert dead.wait_end() == -signal.SIGKILL
    job.restart("w0")
    job.finish()


def test_two_ranks_make_equal_steps(make_job: MakeJob) -> None:
    ranks_make_equal_steps(make_job(world=2, steps_per_epoch=12))


def test_four_ranks_make_equal_steps(make_job: MakeJob) -> None:
    """Loaders feed ranks in turn; one rank has two of them."""
    ranks_make_equal_steps(make_job(world=4, loaders=5, rows=1280, steps_per_epoch=8))


def test_a_worker_that_flaps(make_job: MakeJob) -> None:
    """Hung and back, over and over: each time its sessions end, and what it decided before comes late."""
    job = make_job()
    flapping = job.worker("w0")
    job.worker("w1")
    trainer = job.trainer(gated=4)
    loaders = job.loaders()
    for loader in loaders:
        loader.wait_text("is 'w0'")
    for turn in range(3):
        trainer.wait_event("gate", turn + 1)
        flapping.signal(signal.SIGSTOP)
        for loader in loaders:
            loader.wait_text(f"{job.endpoint('w0')} lost", turn + 1)
        flapping.signal(signal.SIGCONT)
        for loader in loaders:
            loader.wait_text("is 'w0'", turn + 2)
        job.allow(8 + 4 * turn)
    job.open_gate()
    job.finish()
