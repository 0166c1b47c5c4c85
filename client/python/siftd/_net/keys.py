# SPDX-License-Identifier: Apache-2.0
"""Key files of a client (CURVE): which ones it uses, and what they hold. `siftd keygen` makes them.

Only the transport reads the keys themselves, when it connects; everything else passes the files' names on.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from siftd.errors import ConfigError

FILE_MOST = 4096  # bytes


@dataclass(frozen=True)
class KeyFiles:
    """Names of the client's secret key file and of the workers' public one."""

    own: str
    worker: str


class ClientKeys:
    """What the files hold, in Z85. Never shown."""

    def __init__(self, files: KeyFiles) -> None:
        """Raises ConfigError for files that are not there, not sound, or open to others."""
        self.files = files
        text = _read("keys", files.own, secret=True)
        self.public = _key("keys", files.own, text, "public-key")
        self.secret = _key("keys", files.own, text, "secret-key")
        if zmq.curve_public(self.secret) != self.public:
            raise ConfigError("keys", files.own, "a file whose public-key and secret-key are one pair (siftd keygen)")
        text = _read("worker_key", files.worker, secret=False)
        if _value(text, "secret-key"):
            raise ConfigError("worker_key", files.worker, "the workers' public key file, worker.key, alone")
        self.worker = _key("worker_key", files.worker, text, "public-key")

    def __repr__(self) -> str:
        return f"ClientKeys({self.files.own!r})"


def key_files(keys: str | os.PathLike[str] | None, worker_key: str | os.PathLike[str] | None) -> KeyFiles | None:
    """The files to use; None: connections are not encrypted.

    Args:
      keys: secret key file; default: the environment's SIFTD_KEYS.
      worker_key: the workers' public key file; default: SIFTD_WORKER_KEY, or worker.key beside `keys`.

    Raises ConfigError for files that are not there, not sound, or open to others.
    """
    own = os.fspath(keys or os.environ.get("SIFTD_KEYS", ""))
    if not own:
        if worker_key is not None:
            raise ConfigError("worker_key", os.fspath(worker_key), "only with keys, this client's secret key file")
        return None
    if not zmq.has("curve"):
        raise ConfigError("keys", own, "only where pyzmq's libzmq has CURVE")
    worker = os.fspath(worker_key or os.environ.get("SIFTD_WORKER_KEY", "") or Path(own).parent / "worker.key")
    return ClientKeys(KeyFiles(own, worker)).files


def _read(field: str, path: str, secret: bool) -> str:
    """What is checked is what is read: one open file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(field, path, f"a key file ({error.strerror}); make keys by `siftd keygen`") from error
    with os.fdopen(fd, "rb") as file:
        about = os.fstat(fd)
        mode = stat.S_IMODE(about.st_mode)
        if not stat.S_ISREG(about.st_mode):
            raise ConfigError(field, path, "a regular file")
        if about.st_uid not in (0, os.geteuid()):
            raise ConfigError(field, path, f"a file of this user or root (it is of user {about.st_uid})")
        if secret and mode & 0o077:
            raise ConfigError(
                field, path, f"a file that nobody else may read (it has mode {mode:04o}): chmod 600 {path}"
            )
        if mode & 0o022:
            raise ConfigError(
                field, path, f"a file that nobody else may write (it has mode {mode:04o}): chmod 644 {path}"
            )
        text = file.read(FILE_MOST + 1)
    if len(text) > FILE_MOST:
        raise ConfigError(field, path, f"a key file of at most {FILE_MOST} bytes, as `siftd keygen` writes them")
    return text.decode(errors="replace")


def _value(text: str, name: str) -> str:
    """Of the line `name = "value"`; "": there is none."""
    for line in text.splitlines():
        left, equals, right = line.strip().partition("=")
        if equals and left.strip() == name:
            return right.strip().strip('"')
    return ""


def _key(field: str, path: str, text: str, name: str) -> bytes:
    """Never names the key itself: it may be the secret one."""
    key = _value(text, name).encode()
    try:
        sound = len(key) == 40 and len(z85.decode(key)) == 32
    except (ValueError, KeyError, struct.error):
        sound = False
    if not sound:
        raise ConfigError(field, path, f"a file with a {name} of 40 characters of Z85, as `siftd keygen` writes them")
    return key
