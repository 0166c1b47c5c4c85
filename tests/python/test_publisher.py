# SPDX-License-Identifier: Apache-2.0
"""Which version goes to which worker, whole or as a DELTA: single rules, and seeded schedules of faults."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from publishing import (
    ARTIFACT,
    CHUNK,
    DELTA,
    FULL,
    RUN,
    FakeWorker,
    Pool,
    run_schedule,
    seal,
    snapshot,
    state,
)
from siftd._weights import snapshot as snapshots
from siftd._weights.publisher import SEAL_AT_ONCE, Publisher
from siftd._weights.snapshot import Snapshot, artifact_snapshot, model_begin
from siftd._wire.codec import wire_pb2
from siftd.v1 import artifact_pb2

SCHEDULES = 150


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "CHUNK_BYTES", CHUNK)


def test_every_worker_gets_full_versions_where_there_are_no_others() -> None:
    pool = Pool(2)
    for w in pool.workers:
        w.connect()
    for version in (1, 2):
        pool.core.offer(snapshot(version), 0.0)
        pool.settle()
    for w in pool.workers:
        assert (w.begins, w.state) == ([(FULL, 1), (FULL, 2)], state(2, 2))


def test_deltas_go_to_workers_with_the_base_and_joiners_get_it_whole() -> None:
    pool = Pool(2)
    first, late = pool.workers
    first.connect()
    pool.core.offer(snapshot(1), 0.0)
    pool.settle()
    pool.core.offer(snapshot(2, base=1), 0.0)
    pool.settle()
    late.connect()
    pool.settle()
    pool.core.offer(snapshot(3, base=1), 0.0)
    pool.settle()
    assert first.begins == [(FULL, 1), (DELTA, 2), (DELTA, 3)]
    assert late.begins == [(FULL, 2), (DELTA, 3)]
    assert first.state == late.state == state(3, 1)


def test_a_delta_has_no_history_and_the_composed_version_has_the_newest() -> None:
    pool = Pool(1)
    pool.core.offer(snapshot(1), 0.0)
    pool.core.offer(snapshot(7, base=1), 0.0)
    pool.workers[0].connect()
    seal(pool.core)
    pool.carry()
    begin = pool.workers[0].inbox[0][0]
    assert (begin.kind, begin.version, begin.step) == (FULL, 7, 70)
    assert list(begin.history) == pytest.approx([0.7])


def test_a_delta_waits_until_the_base_is_in_force() -> None:
    pool = Pool(1)
    (worker,) = pool.workers
    worker.connect()
    pool.core.offer(snapshot(1), 0.0)
    pool.settle()
    pool.core.offer(snapshot(2, base=1), 0.0)
    pool.carry()  # it began
    pool.core.offer(snapshot(3), 0.0)  # unfrozen: a new base
    pool.core.offer(snapshot(4, base=3), 0.0)
    pool.settle()
    assert worker.begins == [(FULL, 1), (DELTA, 2), (FULL, 4)]
    assert worker.state == state(4, 3)


def test_a_transfer_runs_to_its_end_and_the_next_one_is_the_newest() -> None:
    pool = Pool(1)
    (worker,) = pool.workers
    worker.connect()
    pool.core.offer(snapshot(1), 0.0)
    pool.carry()
    for version in (2, 3, 4):
        pool.core.offer(snapshot(version, base=1), 0.0)
        pool.carry()
    pool.settle()
    assert worker.begins == [(FULL, 1), (DELTA, 4)]
    assert worker.state == state(4, 1)


def test_at_most_four_chunks_are_not_acked() -> None:
    pool = Pool(1)
    (worker,) = pool.workers
    worker.connect()
    pool.core.offer(snapshot(1), 0.0)
    pool.carry()
    assert Counter(type(m).__name__ for m, _ in worker.inbox) == {"ModelBegin": 1, "ModelChunk": 4}
    for sent in (4, 5, 6, 7):
        assert len(worker.inbox) == 5 if sent == 4 else 4
        worker.take_one()
        if sent == 4:
            worker.take_one()
        pool.carry()


@pytest.mark.parametrize(("code", "next_kind"), [(wire_pb2.MODEL_CORRUPT, FULL), (wire_pb2.MODEL_NOT_FINITE, DELTA)])
def test_after_a_refused_delta_the_next_version_is_whole_unless_it_was_nan(code: int, next_kind: int) -> None:
    pool = Pool(1)
    (worker,) = pool.workers
    worker.connect()
    pool.core.offer(snapshot(1), 0.0)
    pool.settle()
    worker.refuse_next = code
    pool.core.offer(snapshot(2, base=1), 0.0)
    pool.settle()
    assert worker.state == state(1, 1)
    for version in (3, 4):
        pool.core.offer(snapshot(version, base=1), 0.0)
        pool.settle()
    assert worker.begins == [(FULL, 1), (DELTA, 2), (next_kind, 3), (DELTA, 4)]
    assert worker.state == state(4, 1)
    assert pool.core.refusals == ["worker 0: refused version 2: no"]


def test_a_refused_base_is_sent_again_within_the_next_version() -> None:
    pool = Pool(1)
    (worker,) = pool.workers
    worker.connect()
    worker.refuse_next = wire_pb2.MODEL_NOT_FINITE
    pool.core.offer(snapshot(1), 0.0)
    pool.settle()
    assert pool.core.hopeless
    pool.core.offer(snapshot(2, base=1), 0.0)
    pool.settle()
    assert worker.begins == [(FULL, 1), (FULL, 2)]
    assert worker.state == state(2, 1)
    assert not pool.core.hopeless


def test_a_cut_link_keeps_the_base_and_another_process_or_run_does_not() -> None:
    pool = Pool(3)
    same, restarted, stranger = pool.workers
    for w in pool.workers:
        w.connect()
    pool.core.offer(snapshot(1), 0.0)
    pool.settle()
    restarted.start()
    for i in range(2):
        pool.reconnect(i, 20.0 * (i + 1))
    pool.core.on_link_lost(2, "cut", 100.0)
    pool.core.on_tick(110.0)
    stranger.start()
    stranger.connect(110.0, run=RUN - 1, model_version=57)
    pool.settle()
    pool.core.offer(snapshot(2, base=1), 0.0)
    pool.settle()
    assert same.begins == [(FULL, 1), (DELTA, 2)]
    assert restarted.begins == [(FULL, 1), (FULL, 1), (DELTA, 2)]
    assert stranger.begins == [(FULL, 1), (FULL, 1), (DELTA, 2)]


def test_who_joins_gets_one_although_newer_versions_come_faster_than_checksums() -> None:
    pool = Pool(2)
    first, late = pool.workers
    first.connect()
    pool.core.offer(snapshot(1), 0.0)
    pool.settle()
    pool.core.offer(snapshot(2, base=1), 0.0)
    late.connect()
    asked, pool.core.unsealed = pool.core.unsealed, None
    assert asked is not None
    for version in range(3, 9):
        asked.seal(1)
        pool.core.offer(snapshot(version, base=1), 0.0)
    assert asked.seal()
    pool.core.pump(0.0)
    pool.carry()
    pool.core.offer(snapshot(9, base=1), 0.0)
    pool.settle()
    assert late.begins == [(FULL, 2), (DELTA, 9)]
    assert late.state == first.state == state(9, 1)


def half_sealed(pool: Pool, joiner: FakeWorker) -> Snapshot:
    """A composed version 2 that `joiner` waits for. The other worker has the base, 1."""
    pool.workers[0].connect()
    pool.core.offer(snapshot(1), 0.0)
    pool.settle()
    pool.core.offer(snapshot(2, base=1), 0.0)
    joiner.connect()
    asked, pool.core.unsealed = pool.core.unsealed, None
    assert asked is not None
    assert not asked.seal(1)
    return asked


def test_a_composed_version_on_its_way_is_not_for_workers_that_are_beyond_it() -> None:
    pool = Pool(2)
    first, late = pool.workers
    asked = half_sealed(pool, late)
    for version, code in ((3, 0), (4, wire_pb2.MODEL_CORRUPT), (5, 0)):
        first.refuse_next = code
        pool.core.offer(snapshot(version, base=1), 0.0)
        pool.carry()
        while first.inbox:
            first.take_one()
            pool.carry()
    asked.seal()
    pool.core.pump(0.0)
    pool.settle()
    assert first.begins == [(FULL, 1), (DELTA, 2), (DELTA, 3), (DELTA, 4), (FULL, 5)]
    assert first.state == late.state == state(5, 1)


def test_a_new_base_makes_a_composed_version_on_its_way_useless() -> None:
    pool = Pool(2)
    late = pool.workers[1]
    asked = half_sealed(pool, late)
    pool.core.on_link_lost(1, "cut", 0.0)
    pool.core.offer(snapshot(3), 0.0)
    pool.core.offer(snapshot(4, base=3), 0.0)
    pool.reconnect(1, 20.0)
    asked.seal()
    pool.core.pump(0.0)
    pool.settle()
    assert late.begins == [(FULL, 4)]
    assert late.state == state(4, 3)


def test_joiners_share_one_composed_version() -> None:
    pool = Pool(3)
    pool.core.offer(snapshot(1), 0.0)
    pool.core.offer(snapshot(2, base=1), 0.0)
    asked = []
    for w in pool.workers:
        w.connect()
        asked.append(pool.core.unsealed)
    assert asked[0] is asked[1] is asked[2] is not None
    pool.settle()
    assert [w.state for w in pool.workers] == [state(2, 1)] * 3


def test_the_artifact_is_sealed_when_a_worker_needs_it_and_a_full_version_follows() -> None:
    code = artifact_snapshot(b"archive" * 1000, RUN)
    pool = Pool(2, code)
    has, needs = pool.workers
    needs.artifact = None
    has.connect()
    pool.core.offer(snapshot(1), 0.0)
    pool.core.offer(snapshot(2, base=1), 0.0)
    pool.settle()
    assert not code.sealed
    needs.version = 1  # of another scorer
    needs.connect()
    pool.settle()
    assert needs.artifact == b"archive" * 1000
    assert needs.begins == [(ARTIFACT, 0), (FULL, 2)]
    assert needs.state == state(2, 1)


def test_a_scorer_that_is_python_is_asked_for_by_name() -> None:
    pool = Pool(1)
    pool.workers[0].artifact = None
    pool.core.offer(snapshot(1), 0.0)
    pool.workers[0].connect()
    pool.settle()
    assert pool.workers[0].begins == []
    assert "--python-factory" in pool.core.refusals[0]
    assert pool.core.hopeless


def test_large_versions_are_sealed_in_parts_and_waiting_workers_come_first() -> None:
    publisher = Publisher([], "j", RUN, None)
    core = publisher.core
    core.add_worker(0.0)
    core.on_tick(0.0)
    data = np.zeros(CHUNK * SEAL_AT_ONCE * 3, np.uint8)
    begin = model_begin(FULL, RUN, 1, 0, len(data))
    begin.manifest.add(name="w", dtype=artifact_pb2.DTYPE_UINT8, shape=[len(data)])
    publisher.offer(Snapshot(begin, [data]))
    seen = []
    for _ in range(3):
        publisher._turn(0.0)
        seen.append(core.snapshot is not None)
    assert seen == [False, False, True]
    delta = model_begin(DELTA, RUN, 2, 0, 1)
    delta.manifest.add(name="w", dtype=artifact_pb2.DTYPE_UINT8, shape=[len(data)])
    core.artifact = artifact_snapshot(b"x", RUN)
    worker = FakeWorker(core, 0)
    worker.artifact = None
    worker.connect()
    publisher.offer(snapshot(2))
    publisher._turn(0.0)
    assert core.artifact.sealed
    assert core.snapshot is not None
    assert core.snapshot.begin.version == 1
    publisher._turn(0.0)
    assert core.snapshot.begin.version == 2


def test_only_the_newest_offer_is_sealed() -> None:
    publisher = Publisher([], "j", RUN, None)
    offers = [snapshot(v) for v in (1, 2, 3)]
    for offer in offers:
        publisher.offer(offer)
    publisher._turn(0.0)
    assert publisher.core.snapshot is offers[-1]


def test_whatever_happens_every_worker_holds_exactly_a_published_version() -> None:
    sent: Counter[int] = Counter()
    for seed in range(SCHEDULES):
        try:
            sent += run_schedule(seed)
        except AssertionError as error:
            raise AssertionError(f"schedule {seed}: {error}") from error
    assert sent[DELTA] > SCHEDULES
    assert sent[FULL] > SCHEDULES
