# SPDX-License-Identifier: Apache-2.0
"""Rows of the matrix: the Python clients, whose delivery rules are implemented in Python and in a compiled part.

The drop-in holds the data and trains: it is loader and trainer in one, and verdicts come back to it.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness import FaultJob, passage
from process import ROOT, Process, nothing_left, wait_until
from proxy import DOWN

MakeJob = Callable[..., FaultJob]
IN_PYTHON = {"SIFTD_NATIVE": "0"}


class PythonJob:
    """Workers that take the Python client's scorer over the wire, and Python clients."""

    def __init__(self, make_job: MakeJob, native: bool = True, **spec: Any) -> None:
        self.job = make_job(**{"loaders": 1, "rows": 960} | spec, upload=True)
        self.env = {"PYTHONPATH": str(ROOT / "client" / "python")} | ({} if native else IN_PYTHON)

    def start(
        self, role: str, *flags: str, name: str = "trainer0", endpoints: Sequence[str] | None = None, gated: int = -1
    ) -> Process:
        spec = self.job.spec
        ways = [a for e in endpoints or self.job.endpoints() for a in ("--endpoint", e)]
        command = [sys.executable, str(ROOT / "tests/fault/peers/python_peer.py"), role, *ways]
        command += ["--rows", str(spec.rows), "--batch", str(spec.batch), "--epochs", str(spec.epochs)]
        command += ["--seed", str(spec.seed), "--keep", str(spec.keep), *flags]
        if gated >= 0:
            command += ["--gate", str(self.job.gate(gated))]
        return self.job.start(name, command, env=self.env)

    def dropin(self, *flags: str, endpoints: Sequence[str] | None = None, gated: int = -1) -> Process:
        return self.start("dropin", *flags, endpoints=endpoints, gated=gated)

    def dropin_with_all(self, *workers: Process, endpoints: Sequence[str] | None = None) -> Process:
        """A drop-in that goes on past its first steps once these have weights: else one may do all the work."""
        trainer = self.dropin(endpoints=endpoints, gated=2)
        for worker in workers:
            worker.wait_event("update", timeout=60)
        self.job.open_gate()
        return trainer

    def stream(self, *flags: str, gated: int = -1) -> Process:
        return self.start("trainer", "--loaders", str(self.job.spec.loaders), *flags, gated=gated)

    def loader(self, index: int, endpoints: Sequence[str] | None = None) -> Process:
        flags = ("--index", str(index), "--count", str(self.job.spec.loaders))
        return self.start("loader", *flags, name=f"loader{index}", endpoints=endpoints)


def dropin_kill(on: PythonJob) -> None:
    dead = on.job.worker("w0", fault=f"score:{passage(6, 15)}:kill")
    on.job.worker("w1")
    on.dropin_with_all(dead)
    assert dead.wait_end(60) == -signal.SIGKILL
    assert not on.job.finish().unsifted


def test_dropin_kill_while_scoring(make_job: MakeJob) -> None:
    dropin_kill(PythonJob(make_job))


def test_dropin_kill_while_scoring_not_compiled(make_job: MakeJob) -> None:
    dropin_kill(PythonJob(make_job, native=False))


def test_dropin_kill_while_emitting(make_job: MakeJob) -> None:
    on = PythonJob(make_job)
    dead = on.job.worker("w0", fault=f"emit:{passage(4, 15)}:kill")
    on.job.worker("w1")
    on.dropin_with_all(dead)
    assert dead.wait_end(60) == -signal.SIGKILL
    on.job.finish()


def test_dropin_all_workers_gone_and_back(make_job: MakeJob) -> None:
    on = PythonJob(make_job)
    workers = [on.job.worker("w0"), on.job.worker("w1")]
    trainer = on.dropin(gated=6)
    trainer.wait_event("gate", timeout=60)
    for worker in workers:
        worker.kill()
    for name in ("w0", "w1"):
        on.job.restart(name)
    on.job.open_gate()
    on.job.finish()


def test_dropin_black_hole(make_job: MakeJob) -> None:
    on = PythonJob(make_job)
    holed = on.job.worker("w0", cost_us=50_000)  # so long that batches of it are always under way
    on.job.worker("w1", cost_us=50_000)
    way = on.job.proxy("w0")
    trainer = on.dropin_with_all(holed, endpoints=[way.endpoint, on.job.endpoint("w1")])
    holed.wait_event("scoring", 3, timeout=60)
    way.hole()
    on.job.finish()
    assert "silent for too long" in trainer.wait_text(f"{way.endpoint} lost")["text"]


def test_dropin_hears_nothing(make_job: MakeJob) -> None:
    """Half open: the worker decides, its verdicts don't arrive; the batches are decided elsewhere, the same way."""
    on = PythonJob(make_job, native=False)
    on.job.worker("w0")
    on.job.worker("w1")
    way = on.job.proxy("w0")
    trainer = on.dropin(endpoints=[way.endpoint, on.job.endpoint("w1")], gated=6)
    trainer.wait_event("gate", timeout=60)
    way.hole(DOWN)
    on.job.open_gate()
    on.job.finish()


def test_dropin_hung_worker(make_job: MakeJob) -> None:
    on = PythonJob(make_job)
    hung = on.job.worker("w0", fault=f"score:{passage(6, 15)}:stop")
    on.job.worker("w1")
    on.dropin_with_all(hung)
    hung.wait_stopped(60)
    assert not on.job.finish().unsifted


def test_dropin_poison(make_job: MakeJob) -> None:
    on = PythonJob(make_job, epochs=1)
    flags = ("--poison", "37")
    for name in ("w0", "w1"):
        on.job.worker(name, *flags)
    on.job.supervise(("w0", "w1"), *flags)
    on.dropin()
    assert on.job.finish().unsifted == {(0, 0, 37 // on.job.spec.batch)}


def test_stream_kill_between_ack_and_settled(make_job: MakeJob) -> None:
    on = PythonJob(make_job, loaders=2)
    dead = on.job.worker("w0", fault=f"ack:{passage(2, 8)}:kill")
    on.job.worker("w1")
    on.stream()
    dead.wait_event("update", timeout=60)
    for index in range(2):
        on.loader(index)
    assert dead.wait_end(60) == -signal.SIGKILL
    on.job.finish()


def test_stream_not_compiled_black_hole(make_job: MakeJob) -> None:
    on = PythonJob(make_job, native=False, loaders=2)
    on.job.worker("w0")
    on.job.worker("w1")
    way = on.job.proxy("w0")
    trainer = on.stream(gated=6)
    for index in range(2):
        on.loader(index, endpoints=[way.endpoint, on.job.endpoint("w1")])
    trainer.wait_event("gate", timeout=60)
    way.hole()
    on.job.open_gate()
    on.job.finish()


def stream_at_its_gate(make_job: MakeJob) -> tuple[PythonJob, Process, Process]:
    """Two workers and two loaders; the trainer waits in mid-epoch. Job, trainer, loader 0."""
    on = PythonJob(make_job, loaders=2)
    on.job.worker("w0")
    on.job.worker("w1")
    trainer = on.stream(gated=8)
    first, _ = on.loader(0), on.loader(1)
    trainer.wait_event("gate", timeout=60)
    return on, trainer, first


def test_stream_loader_killed_and_started_again(make_job: MakeJob) -> None:
    on, _, first = stream_at_its_gate(make_job)
    first.kill()
    on.loader(0)
    on.job.open_gate()
    on.job.finish()


def test_dropin_kill_over_libtorch(make_job: MakeJob) -> None:
    """The worker itself, its scorer a TorchScript archive that the drop-in sent."""
    on = PythonJob(make_job)
    dead = on.job.worker("w0", fault=f"score:{passage(6, 15)}:kill", real=True)
    spare = on.job.proxy("")
    on.dropin(endpoints=[on.job.endpoint("w0"), spare.endpoint])
    assert dead.wait_end(60) == -signal.SIGKILL
    on.job.worker("w1", real=True)  # so quick that w0 would find all work done
    spare.retarget(on.job.endpoint("w1"))
    assert not on.job.finish().unsifted


def test_sigint_to_the_dropin(make_job: MakeJob) -> None:
    """Under load: KeyboardInterrupt ends it, and the next one trains everything."""
    on = PythonJob(make_job)
    on.job.worker("w0")
    on.job.worker("w1")
    first = on.dropin(gated=6)
    first.wait_event("gate", timeout=60)
    first.signal(signal.SIGINT)
    assert first.wait_end(10) == -signal.SIGINT
    nothing_left(first)
    on.job.open_gate()
    on.dropin()
    on.job.finish()


def test_sigterm_to_the_dropin_ends_its_own_workers(make_job: MakeJob) -> None:
    on = PythonJob(make_job)
    first = on.dropin("--local", "2", gated=6)
    first.wait_event("gate", timeout=60)
    workers = [Path(f"/proc/{pid}") for pid in first.children()]
    assert len(workers) == 2
    first.signal(signal.SIGTERM)
    assert first.wait_end(10) == -signal.SIGTERM
    wait_until("its workers are gone", lambda: not any(worker.exists() for worker in workers))
    on.job.open_gate()
    on.dropin("--local", "2")
    on.job.finish()


def test_sigint_to_the_stream_and_to_its_loader(make_job: MakeJob) -> None:
    on, trainer, first = stream_at_its_gate(make_job)
    for process in (first, trainer):
        process.signal(signal.SIGINT)
        assert process.wait_end(20) == -signal.SIGINT
        nothing_left(process)
    on.loader(0)
    on.job.open_gate()
    on.stream()
    on.job.finish()


def test_sigint_while_the_stream_closes_ends_it_at_once(make_job: MakeJob) -> None:
    """Its workers are hung, so that it waits to tell the loaders that the run is over."""
    on = PythonJob(make_job, loaders=2)
    workers = [on.job.worker(name, "--liveness-ms", "3600000") for name in ("w0", "w1")]
    trainer = on.stream("--linger", "3600", "--stop-after", "4", gated=3)
    for index in range(2):
        on.loader(index)
    trainer.wait_event("gate", timeout=60)
    for worker in workers:
        worker.signal(signal.SIGSTOP)
        worker.wait_stopped()
    on.job.open_gate()
    trainer.wait_event("closing")
    trainer.signal(signal.SIGINT)
    assert trainer.wait_end(10) == -signal.SIGINT
    nothing_left(trainer)
    on.job.verdict(finished=False)
