# SPDX-License-Identifier: Apache-2.0
"""A PublisherCore with modelled workers, in one process: single steps, and seeded schedules of faults."""

from __future__ import annotations

import hashlib
import random
import zlib
from collections import Counter, deque
from typing import Any

import numpy as np

from siftd._net.transport import Actions
from siftd._weights.publisher import PublisherCore
from siftd._weights.snapshot import Snapshot, model_begin
from siftd._wire.codec import wire_pb2
from siftd.v1 import artifact_pb2

FULL, DELTA, ARTIFACT = wire_pb2.MODEL_KIND_FULL, wire_pb2.MODEL_KIND_DELTA, wire_pb2.MODEL_KIND_ARTIFACT
RUN = 5
SIZES = {"head": 1500, "trunk": 5000, "mean": 10}
CHUNK = 1024


def state(version: int, base: int) -> dict[str, bytes]:
    """What a worker must hold: the trunk is as old as the base."""
    return {n: bytes([base if n == "trunk" else version] * size) for n, size in SIZES.items()}


def snapshot(version: int, base: int | None = None) -> Snapshot:
    """FULL, or the DELTA over `base`. Sealed."""
    entries = state(version, version if base is None else base)
    if base is not None:
        del entries["trunk"]
    data = np.frombuffer(b"".join(entries.values()), np.uint8)
    begin = model_begin(FULL if base is None else DELTA, RUN, version, version * 10, len(data))
    for name, raw in entries.items():
        begin.manifest.add(name=name, dtype=artifact_pb2.DTYPE_UINT8, shape=[len(raw)])
    made = Snapshot(begin, [data], [version / 10])
    made.seal()
    return made


def seal(core: PublisherCore) -> None:
    """The owner's part."""
    while core.unsealed is not None:
        asked, core.unsealed = core.unsealed, None
        asked.seal()
        core.pump(0.0)


class FakeWorker:
    """What a worker does with weights, by the protocol; it answers when it is asked to."""

    def __init__(self, core: PublisherCore, index: int) -> None:
        self.core, self.index = core, index
        self.restarts = 0
        self.inbox: deque[tuple[Any, Any]] = deque()
        self.refuse_next = 0  # with this ErrorCode
        self.artifact: bytes | None = b"its own"
        self.begins: list[tuple[int, int]] = []  # (kind, version)
        self.start()

    def start(self) -> None:
        """A process without weights."""
        self.restarts += 1
        self.version = 0
        self.state: dict[str, bytes] = {}
        self.begin: Any = None
        self.data = b""

    def connect(self, now: float = 0.0, **welcome: Any) -> None:
        self.inbox.clear()
        self.begin = None
        session = self.core.sessions[self.index]
        message = wire_pb2.Welcome(worker_incarnation=self.restarts, heartbeat_ms=10**6, liveness_ms=10**7)
        message.run, message.model_version, message.needs_artifact = RUN, self.version, self.artifact is None
        message.artifact_upload = True
        message.MergeFrom(wire_pb2.Welcome(**welcome))
        message.session.CopyFrom(session.id())
        self.core.on_message(self.index, message, [], now)

    def tell(self, **ack: Any) -> None:
        message = wire_pb2.ModelAck(run=RUN, **ack)
        session = self.core.sessions[self.index]
        message.session.CopyFrom(session.id())
        self.core.on_message(self.index, message, [], session.heard)

    def take_one(self) -> None:
        message, payload = self.inbox.popleft()
        if isinstance(message, wire_pb2.ModelBegin):
            self.begins.append((message.kind, message.version))
            self.begin, self.data = message, b""
            assert message.kind == ARTIFACT or message.version > self.version
            assert message.kind != DELTA or self.state
        elif self.begin is None:
            return  # behind a refused one
        elif isinstance(message, wire_pb2.ModelChunk):
            raw = bytes(payload[0])
            assert message.crc32 == zlib.crc32(raw)
            assert message.index * CHUNK == len(self.data)
            self.data += raw
            self.tell(version=message.version, state=wire_pb2.MODEL_STATE_RECEIVING, chunks=message.index + 1)
        elif isinstance(message, wire_pb2.ModelCommit):
            self.apply()

    def refuse(self, code: int) -> None:
        version, self.begin = self.begin.version, None
        self.tell(version=version, state=wire_pb2.MODEL_STATE_REFUSED, code=code, text="no")

    def apply(self) -> None:
        begin = self.begin
        assert hashlib.sha256(self.data).digest() == begin.sha256
        assert len(self.data) == begin.total_bytes
        if self.refuse_next:
            code, self.refuse_next = self.refuse_next, 0
            self.refuse(code)
            return
        self.begin = None
        if begin.kind == ARTIFACT:
            self.artifact = self.data
        else:
            at = 0
            new = {}
            for desc in begin.manifest:
                new[desc.name] = self.data[at : at + desc.shape[0]]
                at += desc.shape[0]
            assert begin.kind == DELTA or set(new) == set(SIZES)
            self.state |= new
            self.version = begin.version
        self.tell(version=begin.version, state=wire_pb2.MODEL_STATE_APPLIED)


class Pool:
    """A core and its workers, with links that hold messages until they are taken."""

    def __init__(self, count: int, artifact: Snapshot | None = None) -> None:
        self.core = PublisherCore("j", RUN, 1)
        self.core.artifact = artifact
        for _ in range(count):
            self.core.add_worker(0.0)
        self.core.on_tick(0.0)
        self.core.actions = Actions()
        self.workers = [FakeWorker(self.core, i) for i in range(count)]

    def carry(self) -> None:
        actions, self.core.actions = self.core.actions, Actions()
        for index, message, payload in actions.sends:
            if message.session == self.core.sessions[index].id():
                self.workers[index].inbox.append((message, payload))

    def settle(self) -> None:
        """Everything is sent, taken and answered."""
        seal(self.core)
        self.carry()
        while any(w.inbox for w in self.workers):
            for worker in self.workers:
                if worker.inbox:
                    worker.take_one()
            seal(self.core)
            self.carry()

    def reconnect(self, index: int, now: float) -> None:
        """A new session."""
        self.core.on_link_lost(index, "cut", now)
        at = now + 10
        self.core.on_tick(at)
        while not self.core.sessions[index].greeting:  # it waits a while after each loss
            at += 1
            self.core.on_tick(at)
        self.core.actions = Actions(sends=[s for s in self.core.actions.sends if s[0] != index])
        self.workers[index].connect(at)


def run_schedule(seed: int) -> Counter[int]:
    """Publishes and joins, cuts, restarts and refusals in random order. Kinds that were sent."""
    rng = random.Random(seed)
    pool = Pool(1 + seed % 4)
    core = pool.core
    version = base = 0
    now = 0.0
    sealing: Snapshot | None = None
    bases: dict[int, int] = {}  # by version

    def publish() -> None:
        nonlocal version, base
        version += 1
        if base == 0 or rng.random() < 0.15:
            base = version
        bases[version] = base
        core.offer(snapshot(version, None if base == version else base), now)

    for _ in range(300):
        now += 20.0
        for session in core.sessions:
            session.heard = now  # nobody is silent here
        draw, worker = rng.random(), rng.choice(pool.workers)
        if draw < 0.1 and version < 250:
            publish()
        elif draw < 0.13:
            if rng.random() < 0.5:
                worker.start()
            pool.reconnect(worker.index, now)
        elif draw < 0.16:
            worker.refuse_next = rng.choice([wire_pb2.MODEL_CORRUPT, wire_pb2.MODEL_NOT_FINITE])
        elif worker.inbox:
            worker.take_one()
        if sealing is None:
            sealing, core.unsealed = core.unsealed, None
        if sealing is not None and sealing.seal(rng.randrange(4)):
            sealing = None
            core.pump(now)
        pool.carry()
        for w in pool.workers:
            assert w.version == 0 or w.state == state(w.version, bases[w.version]), f"worker {w.index}, {w.version}"
    for w in pool.workers:
        w.refuse_next = 0
        pool.reconnect(w.index, now)
    if sealing is not None:
        sealing.seal()
        core.pump(now)
    publish()
    pool.settle()
    for w in pool.workers:
        assert (w.version, w.state) == (version, state(version, base))
    return Counter(kind for w in pool.workers for kind, _ in w.begins)
