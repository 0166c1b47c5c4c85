# SPDX-License-Identifier: Apache-2.0
"""Pools of worker processes for the benchmarks, on free ports, ended with the `with` block."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from programs import BUILD, program

START_DEADLINE = 120.0  # seconds, for the whole pool


class Pool:
    """Started worker processes."""

    def __init__(self, processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
        self._processes = processes
        self._folder = folder
        self.endpoints: list[str] = []

    @property
    def pids(self) -> list[int]:
        return [p.pid for p in self._processes]

    def log(self, worker: int) -> str:
        return (self._folder / f"w{worker}.log").read_text(errors="replace")

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_DEADLINE
        for i, process in enumerate(self._processes):
            port = self._folder / f"w{i}.port"
            while not port.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"bench: worker {i} did not start: {self.log(i)[-2000:]}")
                time.sleep(0.005)  # the process gives no event before its port file
            self.endpoints.append(port.read_text().strip())


@contextlib.contextmanager
def pool(command: Sequence[str | Path], workers: int, *flags: str, cores: set[int] | None = None) -> Iterator[Pool]:
    """`workers` processes of `command`, all given `flags`, and held to `cores` if given."""
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="siftd-bench-") as name:
        folder = Path(name)
        try:
            for i in range(workers):
                own = ["--port-file", str(folder / f"w{i}.port"), "--name", f"w{i}", "--parent-pid", str(os.getpid())]
                with open(folder / f"w{i}.log", "wb") as log:
                    processes.append(
                        subprocess.Popen(
                            [*map(str, command), *own, *flags],
                            stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL,
                            stderr=log,
                            start_new_session=True,
                        )
                    )
                if cores is not None:
                    os.sched_setaffinity(processes[-1].pid, cores)  # before it makes threads, or asks for the cores
            started = Pool(processes, folder)
            started.wait_ready()
            yield started
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()


def fixed_cost_pool(
    artifact: str | Path, workers: int, *flags: str, us_per_row: float = 0.0, us: float = 0.0
) -> contextlib.AbstractContextManager[Pool]:
    """Real workers whose scorer sleeps `us` per forward and `us_per_row` per row and takes no CPU.

    Their scores are pseudo-random, by sample id; they take any weights. `artifact`: the scorer archive that their
    inputs, columns and digest are those of. `flags`: as of `siftd worker`.
    """
    cost = ("--cost-us-per-row", f"{us_per_row:g}", "--cost-us", f"{us:g}")
    command = [program("siftd_fixed_cost_worker"), "--artifact", artifact, "--threads", "1", *cost]
    return pool(command, workers, *flags)


def siftd_pool(
    artifact: str | Path, workers: int, *flags: str, device: str = "cpu", cores: set[int] | None = None
) -> contextlib.AbstractContextManager[Pool]:
    """`siftd worker` processes over `artifact`."""
    command = [BUILD / "worker" / "siftd", "worker", "--artifact", artifact, "--device", device]
    return pool(command, workers, *flags, cores=cores)
