# SPDX-License-Identifier: Apache-2.0
"""Publishes weight versions to all workers, each at its own pace, newest only.

A version is FULL, or a DELTA over the newest FULL one, the base. A DELTA goes to workers whose version in force is at
least the base; any other worker gets the FULL version that base and DELTA make together. PublisherCore is pure;
Publisher runs it on a thread and sockets of its own, so that weights never hold up the data.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

from siftd._delivery.client_core import ClientCore
from siftd._delivery.session import new_incarnation
from siftd._net.keys import KeyFiles
from siftd._net.transport import IoThread
from siftd._weights.snapshot import Snapshot, compose
from siftd._wire.codec import wire_pb2

WINDOW = 4  # chunks in flight per worker
SEAL_AT_ONCE = 8  # chunks between two looks at the sockets: checksums of a large model must not silence the sessions


@dataclass
class _Transfer:
    """What one worker is being sent."""

    snapshot: Snapshot | None = None
    next_chunk: int = 0
    acked_chunks: int = 0
    committed: bool = False
    applied: int = 0  # version in force
    has_artifact: bool = False
    refused: int = -1  # newest version it refused
    needs_full: bool = False  # whatever its version is: it refused one, or took a new artifact


class PublisherCore(ClientCore):
    """One thread. `snapshot` is the newest version; a transfer that began runs to its end."""

    def __init__(self, job: str, run: int, incarnation: int) -> None:
        super().__init__(incarnation)
        self.job, self.run = job, run
        self.snapshot: Snapshot | None = None
        self.base: Snapshot | None = None
        self.artifact: Snapshot | None = None
        self.artifact_sha256 = ""  # lower-case hexadecimal
        self.unsealed: Snapshot | None = None  # a worker waits for it: the owner seals it, then calls `pump`
        self.refusals: list[str] = []
        self._composed: Snapshot | None = None  # FULL, of the base and a DELTA
        self._transfers: list[_Transfer] = []

    def make_hello(self) -> Any:
        return wire_pb2.Hello(role=wire_pb2.ROLE_PUBLISHER, job=self.job, name="publisher", run=self.run)

    def heartbeat(self) -> Any:
        return wire_pb2.Heartbeat(run=self.run, step=self.step)

    def add_worker(self, now: float, name: str = "") -> None:
        super().add_worker(now, name)
        self._transfers.append(_Transfer())

    def offer(self, snapshot: Snapshot, now: float) -> None:
        """The newest version, sealed; the first one is FULL."""
        self.snapshot = snapshot
        if snapshot.begin.kind == wire_pb2.MODEL_KIND_FULL:
            self.base, self._composed = snapshot, None
        elif self._composed is not None and self._composed.sealed:
            self._composed = None  # the next one to join gets a newer one
        self.pump(now)

    def on_open(self, worker: int, died: bool, now: float) -> None:
        session = self.sessions[worker]
        welcome = session.welcome
        # A worker that is still of the job before knows no better; one that takes none is tried with its own.
        other = welcome.artifact_upload and self.artifact_sha256 not in ("", welcome.artifact_sha256)
        self._transfers[worker] = _Transfer(
            has_artifact=not (welcome.needs_artifact or (other and self.artifact is not None)),
            applied=welcome.model_version if welcome.run == self.run else 0,
        )
        if welcome.needs_artifact and self.artifact is None:
            self._refused(
                worker,
                0,
                "it has no scorer, or another one, and this one is Python, which does not go over the wire; start it "
                "with --backend python --python-factory MODULE:FUNCTION",
            )
        elif welcome.needs_artifact and not welcome.artifact_upload:
            self._refused(
                worker,
                0,
                "it has no scorer, or another one, and takes none over the wire; start it with "
                "--artifact FILE (Scorer.save) or --allow-artifact-upload",
            )
        self._pump(worker, now)

    def on_lost(self, worker: int, now: float) -> None:
        self._transfers[worker] = _Transfer()

    def _refused(self, worker: int, version: int, text: str) -> None:
        self._transfers[worker].refused = version
        self.refusals.append(f"{self.names[worker]}: {text}")
        del self.refusals[:-20]
        self.actions.log.append(self.refusals[-1])

    def on_role_message(self, worker: int, message: Any, payload: list[memoryview], now: float) -> None:
        if not isinstance(message, wire_pb2.ModelAck) or message.run != self.run:
            return
        t = self._transfers[worker]
        if t.snapshot is None or message.version != t.snapshot.begin.version:
            return
        if message.state == wire_pb2.MODEL_STATE_RECEIVING:
            t.acked_chunks = max(t.acked_chunks, min(message.chunks, t.next_chunk))
        else:
            artifact = t.snapshot.begin.kind == wire_pb2.MODEL_KIND_ARTIFACT
            if message.state == wire_pb2.MODEL_STATE_REFUSED:
                self._refused(worker, message.version, f"refused version {message.version}: {message.text}")
                # NaN leaves no doubt about what the worker holds.
                t.needs_full |= message.code != wire_pb2.MODEL_NOT_FINITE
            elif artifact:
                t.has_artifact = t.needs_full = True  # its weights are the archive's
            else:
                t.applied = message.version
                t.needs_full &= t.snapshot.begin.kind != wire_pb2.MODEL_KIND_FULL
            t.snapshot = None
        self._pump(worker, now)

    def pump(self, now: float) -> None:
        """Sends what there is to send."""
        for worker in range(len(self.sessions)):
            self._pump(worker, now)

    def _pump(self, worker: int, now: float) -> None:
        t, session = self._transfers[worker], self.sessions[worker]
        if not session.open:
            return
        if t.snapshot is None:
            snapshot = self._next(t)
            if snapshot is None:
                return
            if not snapshot.sealed:
                self.unsealed = snapshot
                return
            t.snapshot = snapshot
            t.next_chunk, t.acked_chunks, t.committed = 0, 0, False
            begin = wire_pb2.ModelBegin()
            begin.CopyFrom(t.snapshot.begin)
            self.send(worker, begin, (), now)
        begin = t.snapshot.begin
        while t.next_chunk < begin.chunks and t.next_chunk - t.acked_chunks < WINDOW:
            chunk = wire_pb2.ModelChunk(
                run=self.run, version=begin.version, index=t.next_chunk, crc32=t.snapshot.crc32[t.next_chunk]
            )
            self.send(worker, chunk, (t.snapshot.chunk(t.next_chunk),), now)
            t.next_chunk += 1
        if t.next_chunk == begin.chunks and not t.committed:
            t.committed = True
            self.send(worker, wire_pb2.ModelCommit(run=self.run, version=begin.version), (), now)

    def _next(self, t: _Transfer) -> Snapshot | None:
        if not t.has_artifact:
            return self.artifact if t.refused < 0 else None  # code goes only where it is welcome
        s, base, known = self.snapshot, self.base, max(t.applied, t.refused)
        if s is None or base is None or s.begin.version <= known:
            return None
        if s is base or (t.applied >= base.begin.version and not t.needs_full):
            return s
        # One that is being sealed is used, though it may not be the newest any more: else a worker could wait for ever.
        if self._composed is None or self._composed.begin.version <= known:
            self._composed = compose(base, s)
        return self._composed

    def applied(self, version: int) -> int:
        return sum(t.applied >= version for t in self._transfers)

    @property
    def hopeless(self) -> bool:
        """Every worker refused what it was sent, or this publisher."""
        pairs = zip(self._transfers, self.sessions, strict=True)
        return all((t.refused >= 0 and t.applied == 0) or bool(s.failure) for t, s in pairs)


class Publisher:
    """offer, wait, close: any thread; they return at once but for wait."""

    def __init__(
        self, endpoints: Sequence[str], job: str, run: int, artifact: Snapshot | None, keys: KeyFiles | None = None
    ) -> None:
        self.core = PublisherCore(job, run, new_incarnation())
        self.core.artifact = artifact
        self._mail = threading.Lock()
        self._offered: Snapshot | None = None  # guarded by _mail
        self._sealing: Snapshot | None = None
        self._sealed: Callable[[float], None] = self.core.pump  # what follows
        self._applied = threading.Condition()
        self.step = 0
        self._io = IoThread("siftd-publish", endpoints, self.core, self._turn, keys)
        # To wake the I/O thread is a system call, which gives the GIL away; on a busy host the training loop would get
        # it back milliseconds later. To put into this queue is none.
        self._bell: SimpleQueue[bool] = SimpleQueue()  # True: wake it
        self._ringer = threading.Thread(target=self._ring, name="siftd-ring", daemon=True)

    def start(self) -> None:
        self._io.start()
        self._ringer.start()

    def _ring(self) -> None:
        while self._bell.get():
            self._io.wake()

    def offer(self, snapshot: Snapshot) -> None:
        """Replaces the version that is to be sent next."""
        with self._mail:
            self._offered = snapshot
        self._bell.put(True)

    def _turn(self, now: float) -> None:
        self.core.step = self.step
        if self._sealing is None:
            self._begin_to_seal()
        if self._sealing is not None:
            if self._sealing.seal(SEAL_AT_ONCE):
                self._sealing = None
                self._sealed(now)
            self._io.wake()  # for the rest, or the next one
        with self._applied:
            self._applied.notify_all()

    def _begin_to_seal(self) -> None:
        """Workers that wait come first: there is a newer version at every turn where they come fast."""
        if self.core.unsealed is not None:
            self._sealing, self.core.unsealed = self.core.unsealed, None
            self._sealed = self.core.pump
            return
        with self._mail:
            offered, self._offered = self._offered, None
        if offered is not None:
            self._sealing, self._sealed = offered, partial(self.core.offer, offered)

    def wait(self, version: int, timeout: float, workers: int = 1) -> bool:
        """Until at least `workers` workers use `version` or a newer one; False: the deadline passed, or none will."""

        def over() -> bool:
            enough = self.core.applied(version) >= workers
            return enough or self.core.hopeless or bool(self.core.failure) or not self._io.alive

        with self._applied:
            return self._applied.wait_for(over, timeout) and self.core.applied(version) >= workers

    def close(self) -> None:
        self._bell.put(False)
        if self._ringer.ident is not None and self._ringer is not threading.current_thread():
            self._ringer.join(5.0)
        self._io.stop()
