# SPDX-License-Identifier: Apache-2.0
"""Local worker processes: found, started, watched and ended with this process, even when it is killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import torch

from siftd.errors import ConfigError, WorkerError
from siftd.export import Scorer
from siftd.python_scorer import SCORER_FILE, PythonScorer

START_DEADLINE = 60.0  # seconds to load LibTorch and the scorer


def find_binary() -> str:
    """SIFTD_BIN, else beside the package, else beside the interpreter, else PATH."""
    named = os.environ.get("SIFTD_BIN")
    if named:
        if not os.access(named, os.X_OK):
            raise WorkerError(f"SIFTD_BIN is {named!r}, which is no program. Build it with ./dev build")
        return named
    for folder in (
        Path(__file__).parent.parent / "_bin",
        Path(sysconfig.get_path("scripts")),
        Path(sys.prefix) / "bin",
    ):
        if os.access(folder / "siftd", os.X_OK):
            return str(folder / "siftd")
    found = shutil.which("siftd")
    if found is None:
        raise WorkerError(
            "no siftd program was found beside the package or on PATH. Build it with ./dev build and set SIFTD_BIN, or "
            "give workers=[...] with the endpoints of running workers"
        )
    return found


def plan(count: int | str, model_device: torch.device, ranks: int = 1) -> list[tuple[str, int]]:
    """(device, threads) of each worker to start. "auto": spare accelerators, else spare cores.

    `ranks`: of the training on this host, which have the first devices where there are several.
    """
    cores = len(os.sched_getaffinity(0))
    if count == "auto":
        if model_device.type == "cuda":
            taken = {model_device.index or 0} if ranks == 1 else set(range(ranks))
            others = [i for i in range(torch.cuda.device_count()) if i not in taken]
            if others:
                return [(f"cuda:{i}", 1) for i in others]
        return [("cpu", max(1, min(8, cores // 2)))]
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 256:
        raise ConfigError("workers", count, '"auto", a number from 1 to 256, or a list of endpoints')
    return [("cpu", max(1, cores // (count + 1)))] * count


class LocalWorkers:
    """Workers of this host on private sockets. All calls on one thread, but `alive`."""

    def __init__(
        self, scorer: Scorer | PythonScorer, plans: list[tuple[str, int]], extra: tuple[str, ...] = ()
    ) -> None:
        self._binary = find_binary()
        self._dir = tempfile.mkdtemp(prefix="siftd-")  # mode 0700
        self._processes: list[subprocess.Popen[bytes]] = []
        flags, environment = _backend(scorer, Path(self._dir))
        for i, (device, threads) in enumerate(plans):
            self._start(i, device, threads, (*flags, *extra), environment)
        # Also when the loader is forgotten, or the interpreter ends.
        self._finalizer = weakref.finalize(self, _end, self._processes, self._dir)

    def _start(self, i: int, device: str, threads: int, flags: tuple[str, ...], environment: dict[str, str]) -> None:
        base = f"{self._dir}/w{i}"
        command = [
            self._binary, "worker", "--endpoint", f"ipc://{base}.sock", "--port-file", f"{base}.port",
            "--device", device, "--threads", str(threads), "--name", f"local-{i}",
            "--parent-pid", str(os.getpid()), "--log-file", f"{base}.log", *flags,
        ]  # fmt: skip
        with open(f"{base}.err", "wb") as err:
            # No pipe of ours is inherited, so nobody waits for a worker by accident; its own session: Ctrl-C in the
            # terminal is for the trainer, which ends it.
            self._processes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=err,
                    env=environment,
                    close_fds=True,
                    start_new_session=True,
                )
            )

    def wait_ready(self, timeout: float = START_DEADLINE) -> list[str]:
        """The endpoints, once every worker listens. Raises WorkerError with the end of its log."""
        deadline = time.monotonic() + timeout
        endpoints = []
        for i, process in enumerate(self._processes):
            port = Path(f"{self._dir}/w{i}.port")
            while not port.exists():
                code = process.poll()
                if code is not None or time.monotonic() > deadline:
                    what = f"ended with code {code}" if code is not None else f"was not ready within {timeout:g} s"
                    tail = self._log_tail(i)
                    self.close()
                    raise WorkerError(f"local worker {i} {what}. Its last words:\n{tail}")
                time.sleep(0.01)  # a process is polled: it gives no event before its port file
            endpoints.append(port.read_text().strip())
        return endpoints

    def _log_tail(self, i: int) -> str:
        text = ""
        for suffix in ("err", "log"):
            path = Path(f"{self._dir}/w{i}.{suffix}")
            if path.exists():
                text += path.read_text(errors="replace")
        return text[-2000:] or "(none)"

    @property
    def pids(self) -> list[int]:
        return [p.pid for p in self._processes]

    @property
    def alive(self) -> int:
        return sum(p.poll() is None for p in self._processes)

    def close(self) -> None:
        self._finalizer() if hasattr(self, "_finalizer") else _end(self._processes, self._dir)


def _backend(scorer: Scorer | PythonScorer, folder: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """Flags and environment of workers that run `scorer`; what they read is written to `folder`."""
    environment = dict(os.environ)
    if not isinstance(scorer, PythonScorer):
        artifact = folder / "scorer.pt"
        artifact.write_bytes(scorer.archive)
        return ("--artifact", str(artifact)), environment
    # Their children import what can be imported here, scripts' neighbours included.
    environment["PYTHONPATH"] = os.pathsep.join(p or os.getcwd() for p in sys.path)
    if scorer.pickled:
        file = folder / "scorer.pkl"
        file.write_bytes(scorer.pickled)
        environment[SCORER_FILE] = str(file)
    return ("--backend", "python", "--python-factory", scorer.factory, "--python", sys.executable), environment


def _end(processes: list[subprocess.Popen[bytes]], folder: str) -> None:
    _each(processes, lambda p: p.terminate())
    deadline = time.monotonic() + 3
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _each(processes: list[subprocess.Popen[bytes]], act: Callable[[subprocess.Popen[bytes]], None]) -> None:
    for process in processes:
        if process.poll() is None:
            act(process)
