# SPDX-License-Identifier: Apache-2.0
"""A process of the fault suite: its event log, its end to the millisecond, what the system says about it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from events import Event, EventLog, texts

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("SIFTD_BUILD_DIR", ROOT / "build"))


SIFTD = str(BUILD / "worker" / "siftd")


def program(name: str) -> str:
    path = BUILD / "tests" / "fault" / name
    assert path.exists(), f"{path} is not there: run ./dev build"
    return str(path)


def wait_until(what: str, condition: Callable[[], Any], timeout: float = 30.0) -> Any:
    """The condition's first true value; fails by name at the deadline."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.005)  # between two looks at a state


class Process:
    """Started when it is made; `fault`: SIFTD_FAULT of its environment; `files`: its limit of open files."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        *,
        fault: str | None = None,
        files: int | None = None,
        env: Mapping[str, str] | None = None,
        writes_events: bool = True,
    ) -> None:
        self.name = name
        self.events = EventLog(folder / f"{name}.events")
        self.log = folder / f"{name}.log"
        self.ended: float | None = None  # monotonic clock
        environment = {k: v for k, v in os.environ.items() if k != "SIFTD_FAULT"} | dict(env or {})
        if fault is not None:
            environment["SIFTD_FAULT"] = fault
        with open(self.log, "wb") as log:
            self.popen = subprocess.Popen(
                [*command, "--name", name, *(("--events", str(self.events.path)) if writes_events else ())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment,
                start_new_session=True,
                cwd=ROOT,
            )
        if files is not None:
            resource.prlimit(self.popen.pid, resource.RLIMIT_NOFILE, (files, files))
        self._watch = threading.Thread(target=self._wait, daemon=True)
        self._watch.start()

    def _wait(self) -> None:
        self.popen.wait()
        self.ended = time.monotonic()

    @property
    def pid(self) -> int:
        return self.popen.pid

    def alive(self) -> bool:
        return self.ended is None

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.signal(signal.SIGKILL)
        self.wait_end(10)

    def wait_end(self, timeout: float = 30.0) -> int:
        """The exit code; -9: killed."""
        self._watch.join(timeout)
        assert self.ended is not None, f"{self.name} is still there after {timeout} s: {self.last_words()}"
        return int(self.popen.returncode)

    def wait_stopped(self, timeout: float = 30.0) -> None:
        """Until every thread of it is stopped (SIGSTOP)."""
        wait_until(f"{self.name} stopped", lambda: self._field("State").startswith("T") or not self.alive(), timeout)
        assert self.alive(), f"{self.name} ended: {self.last_words()}"

    def wait_event(self, name: str, count: int = 1, timeout: float = 30.0) -> Event:
        """The `count`th event of this name."""

        def there() -> Event | None:
            found = self.events.of(name)
            if len(found) >= count:
                return found[count - 1]
            assert self.alive() or len(self.events.of(name)) >= count, f"{self.name} ended: {self.last_words()}"
            return None

        found: Event = wait_until(f"event {count} '{name}' of {self.name}", there, timeout)
        return found

    def wait_text(self, part: str, count: int = 1, timeout: float = 30.0) -> Event:
        """The `count`th log or error event whose text has `part`."""

        def there() -> Event | None:
            found = [e for e in self.events.of("log", "error") if part in e["text"]]
            return found[count - 1] if len(found) >= count else None

        found: Event = wait_until(f"'{part}' of {self.name}", there, timeout)
        return found

    def error(self) -> str:
        """Its error event's text."""
        found = texts(self.events.of("error"))
        assert found, f"{self.name} told no error: {self.last_words()}"
        return found[-1]

    def resident(self) -> int:
        """Bytes."""
        return int(self._field("VmRSS").split()[0]) * 1024

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def children(self) -> list[int]:
        """Child processes, whatever their session."""
        lists = Path(f"/proc/{self.pid}/task").glob("*/children")
        return [int(pid) for of_thread in lists for pid in of_thread.read_text().split()]

    def session_pids(self) -> list[int]:
        """Processes of its session that are there: itself and what it started."""
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and os.getsid(int(entry)) == self.pid:
                    found.append(int(entry))
            except OSError:
                continue
        return found

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def last_words(self) -> str:
        events = "\n".join(str(e)[:300] for e in self.events.read()[-12:])
        return f"{self.name}: exit {self.popen.returncode}\n{events}\n{self.log_text()[-1500:]}"

    def close(self) -> None:
        if self.alive():
            self.signal(signal.SIGKILL)
        self._watch.join(10)

    def _field(self, name: str) -> str:
        try:
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith(name + ":"):
                    return line.split(":", 1)[1].strip()
        except OSError:
            pass
        return ""


def nothing_left(process: Process) -> None:
    """No process of its session is there."""
    wait_until(f"nothing of {process.name}", lambda: not process.session_pids(), 5)
