# SPDX-License-Identifier: Apache-2.0
"""Other processes of the benchmarks: a loader that feeds a stream, a neighbour that runs forwards.

As a program, those of the step benchmark: `processes.py feed KIND ROWS ENDPOINT...`, `... neighbour KIND ROWS DEVICE`.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def on_cores(cores: Set[int], command: list[str]) -> list[str]:
    """The command, bound to these cores where taskset is there to do it."""
    taskset = shutil.which("taskset")
    return command if taskset is None else [taskset, "-c", ",".join(map(str, sorted(cores))), *command]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _program(cores: Set[int], *command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(on_cores(cores, [sys.executable, *command]), stdout=subprocess.PIPE)


@contextmanager
def feed(kind: str, rows: int, endpoints: Sequence[str], cores: Set[int]) -> Iterator[None]:
    """A CandidateLoader of the step benchmark's batches."""
    process = _program(cores, str(Path(__file__).resolve()), "feed", kind, str(rows), *endpoints)
    try:
        yield
    finally:
        _end(process)


class Neighbour:
    """A Python program that calls `run_forwards`, on other cores; stopped but between `go` and `stop`."""

    def __init__(self, cores: Set[int], *command: str) -> None:
        self._process = _program(cores, *command)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            _end(self._process)
            raise RuntimeError(f"bench: the neighbour did not start; its last words are above: {' '.join(command)}")
        self.stop()

    def go(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        _end(self._process)


def step_neighbour(kind: str, rows: int, device: str, cores: Set[int]) -> Neighbour:
    """Of the step benchmark's model."""
    return Neighbour(cores, str(Path(__file__).resolve()), "neighbour", kind, str(rows), device)


def run_forwards(model: Any, batches: Iterable[tuple[Any, Any]], device: str) -> None:
    """Forwards on one thread, each waited for; says so after the first."""
    import torch
    from devices import settle

    on = torch.device(device)
    torch.set_num_threads(1)
    model.to(on).eval()
    with torch.inference_mode():
        for i, (x, _) in enumerate(batches):
            model(x.to(on))
            settle(on)
            if i == 0:
                print("ready", flush=True)


def _main() -> None:
    import torch
    from step_models import Batches, make_model

    what, kind, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    batches = Batches(kind, rows)
    if what == "feed":
        import siftd

        siftd.CandidateLoader(sys.argv[4:], batches, epochs=1).run()
        return
    run_forwards(make_model(kind), batches, sys.argv[4])


if __name__ == "__main__":
    _main()
