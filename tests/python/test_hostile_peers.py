# SPDX-License-Identifier: Apache-2.0
"""What a worker may not do to the Python cores, by numbers that no honest one says: hang, fill memory, crash."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

import siftd
from siftd._delivery.kept_counts import BLOCK, KeptCounts
from siftd._delivery.session import ClientSession, State
from siftd._delivery.trainer_core import TrainerCore, TrainerOptions
from siftd._net.transport import Actions
from siftd._wire.codec import LIMITS, wire_pb2
from test_delivery import lease, loader_core, open_session, tell

RUN = 5
LAST = 2**64 - 1


def trainer_core() -> TrainerCore:
    options = TrainerOptions(job="", name="", run=RUN, rank=0, world=1, job_spec=wire_pb2.JobSpec(mode=1), batch_size=4)
    core = TrainerCore(options, 1)
    core.add_worker(0.0)
    open_session(core, 0)
    core.actions = Actions()
    return core


def selected(seq: int, kept: int = 1, **more: Any) -> Any:
    decision = wire_pb2.Decision(outcome=wire_pb2.OUTCOME_DECIDED, rows=4, kept=range(kept))
    message = wire_pb2.Selected(run=RUN, decision=decision, sample_id=range(kept), **more)
    message.key.seq = seq
    return message


def acks(core: TrainerCore) -> list[tuple[int, int]]:
    actions, core.actions = core.actions, Actions()
    return [
        pair
        for _, m, _ in actions.sends
        if isinstance(m, wire_pb2.Ack)
        for pair in zip(m.keys.seq, m.kept, strict=True)
    ]


@pytest.mark.parametrize("seq", [2**31, 2**40, LAST - 1])
def test_a_seq_far_off_costs_the_trainer_no_more_than_the_next_one(seq: int) -> None:
    """A bug once: a table with a place for each number below it was made."""
    core = trainer_core()
    tracemalloc.start()
    try:
        tell(core, 0, selected(seq, kept=3))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert acks(core) == [(seq, 3)]
    tell(core, 0, selected(seq, kept=2))
    assert acks(core) == [(seq, 3)], "a duplicate is acked with the count of the first"
    tell(core, 0, selected(0))
    assert acks(core) == [(0, 1)]
    decided = core.decided_set(0)
    assert list(decided.end) == [1, seq + 1]


def test_kept_counts_hold_what_was_set_in_each_block() -> None:
    counts = KeptCounts()
    keys = [(loader, pass_, seq) for loader in (0, 3) for pass_ in (0, 9) for seq in (0, 1, BLOCK - 1, BLOCK, LAST)]
    for kept, key in enumerate(keys, start=1):
        assert counts.get(key) == 0
        counts.set(key, kept)
    assert [counts.get(key) for key in keys] == list(range(1, len(keys) + 1))


@pytest.mark.parametrize("current", [LAST, LIMITS.incarnation])
def test_a_seat_that_nobody_can_go_above_is_given_up(current: int) -> None:
    """A bug once: the number after it does not fit into a message."""
    session = ClientSession(1, 0.0)
    session.poll(0.0, lambda: None, lambda: None)
    session.on_error(wire_pb2.Error(code=wire_pb2.SUPERSEDED, text="taken", current=current, fatal=True), 0.0)
    assert session.state is State.FAILED
    assert "taken" in session.failure
    assert session.incarnation == 1


def test_a_welcome_without_sense_is_taken_within_bounds() -> None:
    core = loader_core()
    tell(core, 0, wire_pb2.Error(code=wire_pb2.HELLO_REQUIRED, fatal=True))
    core.on_tick(10.0)
    welcome = wire_pb2.Welcome(worker_incarnation=7, heartbeat_ms=0, liveness_ms=2**32 - 1)
    tell(core, 0, welcome, 10.0)
    core.actions = Actions()
    core.on_tick(10.001)
    assert core.actions.sends == [], "a heartbeat at every turn"
    core.on_tick(10.0 + 601)
    assert not core.sessions[0].open, "silent for ten minutes"


def test_a_second_welcome_changes_nothing() -> None:
    core = loader_core()
    tell(core, 0, wire_pb2.Credit(batches=3, bytes=1000))
    free = core.free_credit
    tell(core, 0, wire_pb2.Welcome(worker_incarnation=8, heartbeat_ms=1000, liveness_ms=5000))
    assert core.free_credit == free == 3
    assert core.sessions[0].worker_incarnation == 7


def test_huge_credit_is_no_reason_to_send_what_is_not_there() -> None:
    core = loader_core()
    tell(core, 0, wire_pb2.Credit(batches=LAST, bytes=LAST))
    assert core.free_credit == LAST
    assert core.outstanding == 0
    tell(core, 0, wire_pb2.Credit(batches=1, bytes=1))
    assert core.free_credit == LAST, "credit never goes back"


def test_a_position_with_a_huge_interval_is_taken_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug once: each number in it was looked at."""
    taken: list[Any] = []

    def begin(_: Any, state: Any, skip: Any) -> Any:
        taken.append([seq for seq in (0, 2**62, LAST - 1) if skip(seq)])
        raise StopIteration

    loader = siftd.CandidateLoader(["tcp://127.0.0.1:1"], [[0]], epochs=1)
    try:
        monkeypatch.setattr(type(loader._source), "begin", begin)
        columns = {"loader": [0], "pass": [0], "begin": [1], "end": [LAST]}
        with pytest.raises(StopIteration):
            loader._run_from(wire_pb2.Position(run=9, decided=wire_pb2.Decided(**columns), world=1))
    finally:
        loader.close()
    assert taken == [[2**62, LAST - 1]]


@pytest.mark.parametrize("rows", [0, 2, 2**20])
def test_a_verdict_on_other_rows_than_were_sent_ends_the_session_and_the_batch_goes_out_again(rows: int) -> None:
    """A bug once: a decision of more rows than the batch has ended the client's thread."""
    core = loader_core()
    tell(core, 0, wire_pb2.Credit(batches=2, bytes=1000))
    core.offer(lease(0), 0.0)
    core.actions = Actions()
    decision = wire_pb2.Decision(outcome=wire_pb2.OUTCOME_UNSIFTED, rows=rows, kept=range(rows))
    tell(core, 0, wire_pb2.Verdict(run=5, decision=decision))
    assert core.verdicts == []
    assert not core.sessions[0].open
    assert f"decided {rows} rows of batch (0, 0), which has 1" in core.actions.log[-1]
    assert [b.key for b in core.pending] == [(0, 0)]
    assert core.pending[0].attempt == 1, "taken back once"


def test_rows_without_credit_end_the_session() -> None:
    """A bug once: whatever a worker sent was taken in."""
    core = trainer_core()
    for seq in range(50):
        tell(core, 0, selected(seq, kept=4))
    assert not core.sessions[0].open
    assert len(core.accepted) <= 3, "the window, and no more"
    assert any("without credit" in line for line in core.actions.log)
