# SPDX-License-Identifier: Apache-2.0
"""Event logs of the fault suite's processes: one JSON object per line, times on the machine's monotonic clock."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Event = dict[str, Any]
Key = tuple[int, int, int]  # loader, pass, seq


def key_of(event: Event) -> Key:
    loader, number, seq = event["key"]
    return loader, number, seq


class EventLog:
    """One process's log, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._events: list[Event] = []
        self._at = 0

    def read(self) -> list[Event]:
        """All events so far, oldest first."""
        if self.path.exists():
            with open(self.path, "rb") as file:
                file.seek(self._at)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._at += len(whole)
            self._events += [json.loads(line) for line in whole.splitlines()]
        return self._events

    def of(self, *names: str) -> list[Event]:
        """The events of these names so far."""
        return [e for e in self.read() if e["event"] in names]


def texts(events: Iterable[Event]) -> list[str]:
    return [str(e["text"]) for e in events if "text" in e]
