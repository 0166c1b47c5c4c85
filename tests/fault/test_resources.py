# SPDX-License-Identifier: Apache-2.0
"""Rows of the matrix: what runs out. Memory is held against the figures that the configuration allows."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from harness import STALL, FaultJob
from process import wait_until

MakeJob = Callable[..., FaultJob]
MIB = 1 << 20


def test_full_disk_for_logs(make_job: MakeJob) -> None:
    """/dev/full: each write of the log fails with ENOSPC. The worker says so on stderr and goes on."""
    job = make_job()
    workers = [job.worker(name, "--log-file", "/dev/full", "--log-level", "debug") for name in ("w0", "w1")]
    job.trainer()
    job.loaders()
    job.finish()
    for worker in workers:
        assert "No space left on device" in worker.log_text()
        worker.signal(signal.SIGTERM)
        assert worker.wait_end() == 0


def test_full_disk_for_the_endpoint_file(make_job: MakeJob) -> None:
    """A worker that can't announce itself ends, and names the file."""
    job = make_job()
    nowhere = Path("/proc/siftd.port")  # a folder that takes no file
    worker = job.start_unreachable("w0", "--port-file", str(nowhere))
    assert worker.wait_end() == 1
    assert f"cannot write port_file '{nowhere}'" in worker.log_text()


def test_file_descriptor_limit(make_job: MakeJob) -> None:
    """Strangers take every descriptor that the worker may open: its own peers go on, and so do new ones afterwards."""
    job = make_job()
    worker = job.worker("w0", files=48)
    trainer = job.trainer("--state", str(job.folder / "state"), gated=6)
    job.loaders()
    trainer.wait_event("gate")
    host, port = job.endpoint("w0").removeprefix("tcp://").rsplit(":", 1)
    with contextlib.ExitStack() as strangers:
        for _ in range(64):
            strangers.enter_context(socket.create_connection((host, int(port)), timeout=10))
        wait_until("no descriptor is free", lambda: worker.open_files() >= 47)
        scored = len(worker.events.of("scored"))
        job.allow(16)
        worker.wait_event("scored", scored + 4)
        trainer.wait_event("gate", 2)
    trainer.kill()
    job.open_gate()
    job.trainer("--state", str(job.folder / "state"))
    job.finish()
    assert worker.alive()


def test_memory_of_a_stalled_job(make_job: MakeJob) -> None:
    """The trainer stalls, the loaders have more than all buffers hold: resident memory <= base + 1.2 x budget."""
    budget, batch = 24 * MIB, 1 * MIB
    job = make_job(rows=16 * 120, epochs=1, floats=batch // 16 // 4)
    workers = [job.worker(n, "--budget-bytes", str(budget), "--max-batch-bytes", str(batch)) for n in ("w0", "w1")]
    trainer = job.trainer(gated=0)
    for worker in workers:
        worker.wait_event("update")
    base = [w.resident() for w in workers]
    trainer_base = trainer.resident()
    loaders = job.loaders()
    loader_base = [trainer_base] * 2  # a client that holds nothing
    trainer.wait_event("gate")
    until = time.monotonic() + STALL  # the fault's length
    most = [0] * 5
    while time.monotonic() < until:
        most = [max(m, p.resident()) for m, p in zip(most, (*workers, trainer, *loaders), strict=True)]
        time.sleep(0.05)  # between two looks
    job.open_gate()
    job.finish()
    for i, name in enumerate(("worker_0", "worker_1")):
        job.figures[f"{name}_mib"] = round((most[i] - base[i]) / MIB, 1)
        assert most[i] <= base[i] + 1.2 * budget, job.figures
    # Rows: batch_size - 1 + workers x window x largest batch, and two assembled batches.
    trainer_budget = batch * (1 + len(workers) * 2 + 2)
    job.figures["trainer_mib"] = round((most[2] - trainer_base) / MIB, 1)
    assert most[2] <= trainer_base + 1.2 * trainer_budget, job.figures
    # Leases: window x workers, two that wait for credit, and the one being offered.
    loader_budget = batch * (8 * len(workers) + 3)
    for i in range(2):
        job.figures[f"loader_{i}_mib"] = round((most[3 + i] - loader_base[i]) / MIB, 1)
        assert most[3 + i] <= loader_base[i] + 1.2 * loader_budget, job.figures
