# SPDX-License-Identifier: Apache-2.0
"""LoaderCore and IoThread over the compiled client (siftd._native): the same rules, run without the interpreter lock.

Python is asked for a candidate and told a verdict; sessions, credit, leases and bytes are the compiled client's. Only a
drop-in (mode VERDICTS) runs on it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from siftd._delivery.loader_core import Key, Lease, LoaderCore, LoaderOptions, Verdicted
from siftd._delivery.score_cache import ScoreCache
from siftd._delivery.trainer_core import TrainerCore, TrainerOptions
from siftd._net.keys import KeyFiles
from siftd._net.threads import step_aside
from siftd._net.transport import QUIET_MOST, resolve
from siftd._wire import codec
from siftd._wire.tensor import named_buffers

try:
    from siftd import _native
except ImportError:  # not built, or for another Python
    _native = None  # type: ignore[assignment]

log = logging.getLogger("siftd")
WAIT_MOST = 0.1  # seconds between two looks of the background thread


def available() -> bool:
    """SIFTD_NATIVE=0 in the environment: the client in Python is wanted."""
    return _native is not None and os.environ.get("SIFTD_NATIVE") != "0"


def native() -> Any:
    """The module. REQUIRES: available()"""
    return _native


def key_arguments(keys: KeyFiles | None) -> dict[str, str]:
    """For the links' constructors, which read the files themselves."""
    return {} if keys is None else {"keys": keys.own, "worker_key": keys.worker}


def hello_frames(options: LoaderOptions, incarnation: int, endpoints: Sequence[str]) -> list[bytes]:
    """What the loader says of itself, for the compiled client. Raises ConfigError for an endpoint that is none."""
    return _frames(LoaderCore(options, incarnation).make_hello(), incarnation, endpoints)


def trainer_hello(
    options: TrainerOptions,
    incarnation: int,
    endpoints: Sequence[str],
    next_pass: dict[int, int],
    decided: dict[int, dict[int, list[list[int]]]],
) -> list[bytes]:
    """The same of a trainer rank. `decided`: keys of open passes, by loader and pass."""
    core = TrainerCore(options, incarnation)
    core.restore(next_pass, decided, 0)
    return _frames(core.make_hello(), incarnation, endpoints)


def _frames(hello: Any, incarnation: int, endpoints: Sequence[str]) -> list[bytes]:
    for name in endpoints:
        resolve(name)
    hello.protocol_min = hello.protocol_max = 1
    hello.session.incarnation, hello.session.counter = incarnation, 1
    return [bytes(f) for f in codec.encode(hello, ())]


class NativeLoaderCore:
    """Stands where LoaderCore does. One thread, the NativeIo's, makes all calls but those that only read."""

    def __init__(
        self, options: LoaderOptions, incarnation: int, endpoints: Sequence[str], keys: KeyFiles | None = None
    ) -> None:
        """Raises ConfigError for an endpoint that is none."""
        frames = hello_frames(options, incarnation, endpoints)
        self.link = native().LoaderLink(list(endpoints), frames, **key_arguments(keys))
        self.step = 0
        self.leases: dict[Key, Lease] = {}  # offered and not settled
        self.verdicts: list[Verdicted] = []  # for the owner to take
        self.late_seconds: list[float] = []  # ages of verdicts on leases that were closed; for the owner to take
        self._late = 0
        self._told_step = 0
        self._scores = ScoreCache(options.rescore_every, options.data_size)

    def offer(self, lease: Lease, now: float) -> None:
        """Takes a batch on as a lease; it is sent as soon as a worker has credit."""
        lease.prior = self._scores.visit(lease.sample_ids)
        lease.sent_at = now
        self.leases[lease.key] = lease
        tensors = named_buffers(lease.tensors, lease.payload)
        try:
            self.link.offer(
                *lease.key, lease.epoch, np.asarray(lease.sample_ids, np.uint64), lease.occurrence, tensors, lease.prior
            )
        except RuntimeError:
            if not self.link.failure:  # what all workers refused stays undecided, and the owner says so
                raise

    @property
    def has_room(self) -> bool:
        return bool(self.link.has_room())

    @property
    def outstanding(self) -> int:
        return len(self.leases)

    def undecided(self) -> list[Lease]:
        return list(self.leases.values())

    def oldest(self) -> Lease | None:
        """The undecided lease with the lowest key."""
        key = min(self.leases, default=None)
        return None if key is None else self.leases[key]

    def close_lease(self, lease: Lease) -> None:
        """The batch was handed out unsifted; a verdict on it is only timed."""
        del self.leases[lease.key]
        self.link.close_lease(*lease.key)

    def may_have_sent(self, lease: Lease) -> bool:
        """Its tensors may still be read."""
        return True

    def cancel(self) -> int:
        """Gives up all leases; their number."""
        count = len(self.leases)
        for number in {key[0] for key in self.leases}:
            self.link.cancel_pass(number)
        self.leases.clear()
        return count

    def take(self) -> None:
        """Verdicts that came, to `verdicts`."""
        if self.step != self._told_step:
            self._told_step = self.step
            self.link.set_step(self.step)
        verdicts, late, lines = self.link.take()
        for number, seq, decision, seconds in verdicts:
            lease = self.leases.pop((number, seq), None)
            if lease is not None:
                self._scores.take(lease.sample_ids, lease.prior, decision.score)
                self.verdicts.append(Verdicted(lease, decision, seconds, 0))
        self.late_seconds += late
        self._late += len(late)
        for line in lines:
            log.info("%s", line)

    @property
    def duplicates(self) -> int:
        return int(self.link.late_verdicts) - self._late

    @property
    def connected(self) -> int:
        return int(self.link.connected)

    @property
    def workers(self) -> int:
        return int(self.link.workers)

    @property
    def failure(self) -> str:
        return str(self.link.failure)


class NativeIo:
    """Stands where IoThread does: a thread that takes verdicts and runs `turn`. start, wake, stop: any thread."""

    def __init__(self, name: str, core: NativeLoaderCore, turn: Callable[[float], bool | None]) -> None:
        self._core, self._turn = core, turn
        self._stopping = False
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._core.link.start()
        self._thread.start()

    def wake(self) -> None:
        self._core.link.wake()

    def stop(self, timeout: float = 5.0) -> None:
        """Says Goodbye, ends the threads and closes the sockets."""
        self._stopping = True
        self._core.link.wake()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        self._core.link.stop()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        link, core = self._core.link, self._core
        quiet: bool | None = False
        step_aside()
        try:
            while not self._stopping:
                link.wait(QUIET_MOST if quiet else WAIT_MOST, bool(quiet))
                core.take()
                quiet = self._turn(time.monotonic())
        except BaseException as error:
            self.error = error
            log.exception("siftd's I/O thread ended by an error")
