# SPDX-License-Identifier: Apache-2.0
"""Key files for the tests, made by `siftd keygen`, and workers that use them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from support import Worker, binary


def keygen(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([binary(), "keygen", *arguments], capture_output=True, text=True, timeout=60)


class Keys:
    """A folder of keys: the worker's, a monitor's that this class itself uses, and those of clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        made = keygen("worker", str(folder))
        assert made.returncode == 0, made.stderr
        self.monitor = self.client("test-monitor", "monitor")

    def client(self, name: str, *roles: str) -> str:
        """The secret key file of a new client."""
        flags = [a for role in roles for a in ("--role", role)]
        made = keygen("client", str(self.folder), "--name", name, *flags)
        assert made.returncode == 0, made.stderr
        return str(self.folder / f"{name}.key_secret")

    def public(self, name: str, role: str) -> Path:
        return self.folder / "clients" / role / f"{name}.key"

    @property
    def flags(self) -> list[str]:
        """For a worker."""
        return ["--key-file", str(self.folder / "worker.key_secret"), "--client-keys", str(self.folder / "clients")]


class LockedWorker(Worker):
    """A worker with keys."""

    def __init__(self, tmp: Path, keys: Keys, *flags: str, name: str = "w") -> None:
        self._keys = keys
        super().__init__(tmp, *keys.flags, *flags, name=name)

    def status(self) -> dict[str, Any]:
        out = subprocess.run(
            [binary(), "status", "--json", "--keys", self._keys.monitor, self.endpoint],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        status: dict[str, Any] = json.loads(out.stdout)[0]["status"]
        return status
