# SPDX-License-Identifier: Apache-2.0
"""CPU time of this process's threads, by what they do, and which cores a thread may use (Linux)."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path

_PER_THREAD_SCHED = 6  # of a CPU clock's id (linux/posix-timers.h)


def cpu_seconds() -> dict[str, float]:
    """By thread name (Python's, or the system's for others); threads of equal names are added up."""
    names = {t.native_id: t.name for t in threading.enumerate()}
    out: Counter[str] = Counter()
    for task in os.listdir("/proc/self/task"):
        tid = int(task)
        try:
            name = names.get(tid) or Path(f"/proc/self/task/{tid}/comm").read_text().strip()
            out[name] += time.clock_gettime(~tid << 3 | _PER_THREAD_SCHED)
        except OSError:
            continue  # it ended
    return dict(out)


def cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def split_cores() -> tuple[set[int], set[int]]:
    """Cores of the trainer's thread, and of its neighbours; the same where there is only one."""
    usable = cores()
    return {usable[0]}, set(usable[1:2] or usable)
