# SPDX-License-Identifier: Apache-2.0
"""How threads of ours share a trainer's cores."""

from __future__ import annotations

import contextlib
import os


def step_aside() -> None:
    """From now on the calling thread, when it wakes up, waits for its core instead of taking it from the thread that
    trains there (SCHED_BATCH); an idle core takes it over. Where the system has no such thing, nothing changes."""
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
