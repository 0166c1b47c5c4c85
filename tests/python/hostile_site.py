# SPDX-License-Identifier: Apache-2.0
"""A real worker for the tests of hostile fields, with an honest loader that must not notice them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import siftd
from raw_peers import I64, HonestLoader, RawPeer, batch, job_spec, resident
from siftd._weights.sync import WeightsSync
from siftd._wire import codec
from siftd._wire.codec import wire_pb2
from support import ROOT, Rows, Worker, toy_model

MOST_GROWTH = 128 << 20  # bytes of the worker, over all tests here: a few of the largest headers
LAST32, LAST64 = 2**32 - 1, 2**64 - 1
VALID: list[dict[str, Any]] = json.loads((ROOT / "tests" / "conformance" / "vectors" / "valid.json").read_text())
Frames = list[bytes]


@dataclass
class Site:
    """A worker with a job in VERDICTS mode, an honest loader with index 0 of 2, and a monitor."""

    worker: Worker
    run: int
    scorer: siftd.Scorer
    model: torch.nn.Module
    honest: HonestLoader
    monitor: RawPeer
    resident: int = 0
    seq: int = 0  # next batch of loader 1

    def errors(self) -> dict[str, int]:
        return dict(self.monitor.status().errors)

    def loader(self, **fields: Any) -> RawPeer:
        """A session of loader 1, welcomed and with credit."""
        peer = RawPeer(self.worker.endpoint)
        answer = peer.hello(
            wire_pb2.ROLE_LOADER,
            **{"run": self.run, "job_spec": job_spec(), "loader_index": 1, "loader_count": 2, **fields},
        )
        assert isinstance(answer, wire_pb2.Welcome), answer
        while peer.credit.batches == 0:
            peer.next(wire_pb2.Credit)
        return peer

    def batch(self, x: Any = None, rows: int = 4, **more: Any) -> tuple[Any, list[memoryview]]:
        self.seq += 1
        values = np.ones((rows, 8), np.float32) if x is None else x
        return batch(values, np.zeros(rows), self.run, 1, self.seq, **more)

    def undisturbed(self) -> None:
        """The honest loader's session is the same, its batches are decided, and the memory is bounded."""
        for _ in range(2):
            self.honest.exchange()
        assert self.worker.process.poll() is None
        grown = resident(self.worker.process.pid) - self.resident
        assert grown < MOST_GROWTH, f"{grown >> 20} MiB more than at the start"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    torch.set_num_threads(1)
    folder, data, model = tmp_path_factory.mktemp("site"), Rows(16), toy_model()
    scorer = siftd.export_scorer(model, "cross_entropy", (data.x, data.y))
    path = scorer.save(folder / "scorer.pt")
    run = time.time_ns()
    # A long liveness: the raw peers here send no heartbeats between the tests.
    flags = ["--artifact", str(path), "--allow-artifact-upload=false", "--liveness-ms", "600000"]
    flags += ["--max-breaches", "1000000"]  # tests/unit/delivery/worker_doors_test.cc has those who are cut
    with Worker(folder, *flags) as worker:
        honest, monitor = HonestLoader(worker.endpoint, run), RawPeer(worker.endpoint)
        weights = WeightsSync([worker.endpoint], "default", run, scorer, 10**6)
        try:
            weights.start(model, 0, [], 30.0)
        finally:
            assert weights.publisher is not None
            weights.publisher.close()
        monitor.hello(wire_pb2.ROLE_MONITOR)
        place = Site(worker, run, scorer, model, honest, monitor)
        for _ in range(20):
            honest.exchange()
        place.resident = resident(worker.process.pid)
        try:
            yield place
        finally:
            honest.peer.close()
            monitor.close()


def changed(message: Any, **fields: Any) -> Any:
    for name in fields:
        message.ClearField(name)
    message.MergeFrom(type(message)(**fields))
    return message


def of(peer: RawPeer, message: Any, payload: Any = ()) -> Frames:
    message.session.CopyFrom(peer.session)
    return [bytes(f) for f in codec.encode(message, payload)]


def tensor(name: str, dtype: int, shape: list[int], frame: int = 0) -> list[Any]:
    return [
        wire_pb2.TensorDesc(name=name, dtype=dtype, shape=shape, frame=frame),
        wire_pb2.TensorDesc(name="1", dtype=I64, shape=[4], frame=1),
    ]


def publisher(site: Site) -> RawPeer:
    peer = RawPeer(site.worker.endpoint)
    assert isinstance(peer.hello(wire_pb2.ROLE_PUBLISHER, run=site.run), wire_pb2.Welcome)
    return peer
