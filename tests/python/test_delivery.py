# SPDX-License-Identifier: Apache-2.0
"""The delivery rules of the Python cores: seeded schedules of faults, and single rules."""

from __future__ import annotations

from typing import Any

import pytest

from siftd._delivery.loader_core import Lease, LoaderCore, LoaderOptions
from siftd._delivery.session import ClientSession
from siftd._delivery.trainer_core import TrainerCore, TrainerOptions
from siftd._net.transport import Actions
from siftd._wire.codec import wire_pb2
from simulation import Simulation

SCHEDULES = 500


def test_without_faults_every_key_is_decided_once() -> None:
    Simulation(0).run_to_the_end(faulty_steps=0)


@pytest.mark.parametrize("part", range(4))
def test_cuts_deaths_and_restarts_lose_and_repeat_nothing(part: int) -> None:
    for seed in range(part * SCHEDULES, (part + 1) * SCHEDULES):
        try:
            Simulation(seed, workers=1 + seed % 3).run_to_the_end(faulty_steps=400)
        except AssertionError as error:
            raise AssertionError(f"schedule {seed}: {error}") from error


def sent(core: Any, kind: type) -> list[Any]:
    """Messages of this type that the core left to be sent, with their worker."""
    actions, core.actions = core.actions, Actions()
    return [(w, m) for w, m, _ in actions.sends if isinstance(m, kind)]


def open_session(core: Any, worker: int, incarnation: int = 7, now: float = 0.0) -> None:
    core.on_tick(now)
    welcome = wire_pb2.Welcome(worker_incarnation=incarnation, heartbeat_ms=1000, liveness_ms=5000)
    welcome.session.CopyFrom(core.sessions[worker].id())
    core.on_message(worker, welcome, [], now)


def tell(core: Any, worker: int, message: Any, now: float = 0.0) -> None:
    message.session.CopyFrom(core.sessions[worker].id())
    core.on_message(worker, message, [], now)


def loader_core(workers: int = 1, **options: Any) -> LoaderCore:
    core = LoaderCore(LoaderOptions(mode=wire_pb2.MODE_VERDICTS, run=5, **options), 1)
    for worker in range(workers):
        core.add_worker(0.0)
        open_session(core, worker)
    return core


def test_when_every_worker_refuses_the_handshake_nothing_more_will_happen() -> None:
    core = LoaderCore(LoaderOptions(mode=wire_pb2.MODE_VERDICTS, run=5), 1)
    for name in ("tcp://a:1", "tcp://b:1"):
        core.add_worker(0.0, name)
    core.on_refused(0, "no such key", True, 0.0)
    assert core.failure == "", "the other one may still take it"
    core.on_refused(1, "cut in the handshake", False, 0.0)
    assert core.failure == "", "that may be chance"
    assert core.refusals_text() == "tcp://a:1: no such key. tcp://b:1: cut in the handshake. "
    core.on_refused(1, "no such key", True, 0.0)
    assert core.failure == "tcp://b:1: no such key"


def test_who_was_welcomed_once_waits_through_refusals() -> None:
    core = loader_core()
    core.on_link_lost(0, "cut", 0.0)
    core.on_refused(0, "no such key", True, 0.0)
    assert core.failure == ""
    open_session(core, 0, now=10.0)
    assert core.refusals_text() == ""


def test_a_key_that_may_not_be_a_loader_is_a_failure_and_one_that_may_not_now_is_not() -> None:
    core = LoaderCore(LoaderOptions(mode=wire_pb2.MODE_VERDICTS, run=5), 1)
    core.add_worker(0.0)
    core.on_tick(0.0)
    tell(core, 0, wire_pb2.Error(code=wire_pb2.NOT_ALLOWED, text="too often"))
    assert core.failure == ""
    core.on_tick(1.0)
    tell(core, 0, wire_pb2.Error(code=wire_pb2.NOT_ALLOWED, text="role is loader", fatal=True), 1.0)
    assert core.failure == "role is loader"


def lease(seq: int, nbytes: int = 10) -> Lease:
    return Lease((0, seq), 0, [seq], [], (), nbytes=nbytes)


def test_credit_counts_batches_and_bytes_and_one_batch_may_overdraw_the_bytes() -> None:
    core = loader_core()
    for seq in range(3):
        core.offer(lease(seq, nbytes=80), 0.0)
    assert sent(core, wire_pb2.Candidates) == []
    tell(core, 0, wire_pb2.Credit(batches=3, bytes=100))
    assert [m.key.seq for _, m in sent(core, wire_pb2.Candidates)] == [0, 1]  # 80 < 100, then 160
    tell(core, 0, wire_pb2.Credit(batches=2, bytes=90))  # a late one takes nothing back
    tell(core, 0, wire_pb2.Credit(batches=3, bytes=200))
    assert [m.key.seq for _, m in sent(core, wire_pb2.Candidates)] == [2]


def test_leases_of_a_lost_session_go_out_again_oldest_first_with_the_next_attempt() -> None:
    core = loader_core(workers=2)
    tell(core, 0, wire_pb2.Credit(batches=3, bytes=1000))
    for seq in range(3):
        core.offer(lease(seq), 0.0)
    core.actions = Actions()
    core.on_link_lost(0, "cut", 0.0)
    tell(core, 1, wire_pb2.Credit(batches=5, bytes=1000))
    again = sent(core, wire_pb2.Candidates)
    assert [(w, m.key.seq, m.attempt, m.suspect) for w, m in again] == [(1, s, 1, False) for s in range(3)]


def die(core: LoaderCore, worker: int, incarnation: int, now: float) -> None:
    """The worker's process is another one from now on."""
    core.on_link_lost(worker, "gone", now)
    core.actions = Actions()
    open_session(core, worker, incarnation, now + 10)
    tell(core, worker, wire_pb2.Credit(batches=8, bytes=1000), now + 10)


def test_suspects_go_out_alone_and_are_passed_on_unscored_after_two_deaths() -> None:
    core = loader_core()
    tell(core, 0, wire_pb2.Credit(batches=8, bytes=1000))
    for seq in range(2):
        core.offer(lease(seq), 0.0)
    die(core, 0, incarnation=8, now=0.0)
    assert [(m.key.seq, m.suspect) for _, m in sent(core, wire_pb2.Candidates)] == [(0, True)], "one at a time"
    die(core, 0, incarnation=9, now=20.0)
    die(core, 0, incarnation=10, now=40.0)
    out = [(m.key.seq, m.unscored) for _, m in sent(core, wire_pb2.Candidates)]
    assert out == [(0, True)]
    verdict = wire_pb2.Verdict(run=5, decision=wire_pb2.Decision(rows=1))
    verdict.key.seq = 0
    tell(core, 0, verdict, 60.0)
    assert [(m.key.seq, m.unscored) for _, m in sent(core, wire_pb2.Candidates)] == [(1, False)]


def test_a_suspect_that_is_given_back_is_tried_again_later_and_not_blamed() -> None:
    core = loader_core()
    tell(core, 0, wire_pb2.Credit(batches=8, bytes=1000))
    core.offer(lease(0), 0.0)
    now = 0.0
    for incarnation in range(8, 12):
        die(core, 0, incarnation, now)
        now += 10
        assert [(m.suspect, m.unscored) for _, m in sent(core, wire_pb2.Candidates)] == [(True, False)]
        for _ in range(2):
            busy = wire_pb2.Return(run=5, reason=wire_pb2.RETURN_LANE_HUNG)
            getattr(busy.keys, "pass").append(0)
            busy.keys.seq.append(0)
            busy.keys.loader.append(0)
            tell(core, 0, busy, now)
            assert sent(core, wire_pb2.Candidates) == [], "not at once"
            core.on_tick(now + 0.02)
            assert sent(core, wire_pb2.Candidates) == []
            now += 0.06
            core.on_tick(now)
            assert len(sent(core, wire_pb2.Candidates)) == 1
        tell(core, 0, busy, now)


def test_a_worker_that_drained_has_not_died() -> None:
    core = loader_core()
    tell(core, 0, wire_pb2.Credit(batches=1, bytes=1000))
    core.offer(lease(0), 0.0)
    tell(core, 0, wire_pb2.Drain())
    die(core, 0, incarnation=8, now=0.0)
    assert [m.suspect for _, m in sent(core, wire_pb2.Candidates)] == [False]


def test_only_the_first_verdict_settles() -> None:
    core = loader_core()
    tell(core, 0, wire_pb2.Credit(batches=1, bytes=1000))
    core.offer(lease(0), 0.0)
    for _ in range(2):
        tell(core, 0, wire_pb2.Verdict(run=5, decision=wire_pb2.Decision(rows=1)))
    assert len(core.verdicts) == 1
    assert core.duplicates == 1
    tell(core, 0, wire_pb2.Verdict(run=4))
    assert core.duplicates == 1, "of another run"


def test_the_runs_end_is_told_by_each_worker_after_what_it_settled() -> None:
    """A bug once: the loader left with the first worker's Goodbye; what the others settled was not counted."""
    core = LoaderCore(LoaderOptions(mode=wire_pb2.MODE_SAMPLES), 1)
    for worker in range(2):
        core.add_worker(0.0)
        open_session(core, worker)
        tell(core, worker, wire_pb2.Position(run=5, world=1))
    core.position = None
    for worker in range(2):
        tell(core, worker, wire_pb2.Credit(batches=1, bytes=100))
    for seq in range(2):
        core.offer(lease(seq), 0.0)
    assert {lease.worker for lease in core.leases.values()} == {0, 1}
    for worker in range(2):
        seqs = [k[1] for k, at in core.leases.items() if at.worker == worker]
        settled = wire_pb2.Settled(run=5, kept=[3])
        settled.keys.loader.append(0)
        getattr(settled.keys, "pass").append(0)
        settled.keys.seq.extend(seqs)
        tell(core, worker, settled)
        tell(core, worker, wire_pb2.Goodbye(reason=wire_pb2.GOODBYE_DONE, run=5))
        assert core.done
        assert core.told == (worker == 1)


def test_the_end_of_an_older_job_is_not_its_own() -> None:
    core = LoaderCore(LoaderOptions(mode=wire_pb2.MODE_SAMPLES), 1)
    core.add_worker(0.0)
    open_session(core, 0)
    done = wire_pb2.Goodbye(reason=wire_pb2.GOODBYE_DONE, run=8)
    tell(core, 0, done)
    assert not core.done
    tell(core, 0, wire_pb2.Position(run=9, world=1))
    assert not core.done
    tell(core, 0, wire_pb2.Goodbye(reason=wire_pb2.GOODBYE_DONE, run=9))
    assert core.done


def trainer_core(workers: int = 1, **options: Any) -> TrainerCore:
    spec = wire_pb2.JobSpec()
    core = TrainerCore(
        TrainerOptions(job="j", name="t", run=9, rank=0, world=1, job_spec=spec, batch_size=4, **options), 1
    )
    for worker in range(workers):
        core.add_worker(0.0)
        open_session(core, worker)
    return core


def selected(seq: int, kept: int, loader: int = 0) -> Any:
    m = wire_pb2.Selected(run=9)
    m.key.loader, m.key.seq = loader, seq
    m.decision.rows, m.decision.outcome = 8, wire_pb2.OUTCOME_DECIDED
    m.decision.kept.extend(range(kept))
    return m


def test_a_second_delivery_is_dropped_whole_and_acked_with_the_first_count() -> None:
    core = trainer_core(workers=2)
    core.actions = Actions()
    tell(core, 0, selected(0, kept=3))
    tell(core, 1, selected(0, kept=5))
    assert [(w, list(m.kept)) for w, m in sent(core, wire_pb2.Ack)] == [(0, [3]), (1, [3])]
    assert len(core.accepted) == 1
    assert core.duplicates == 1


def test_the_trainer_grants_its_window_less_what_is_buffered() -> None:
    core = trainer_core(window=2)
    assert [m.batches for _, m in sent(core, wire_pb2.Credit)] == [2]
    tell(core, 0, selected(0, kept=3))  # 3 rows < batch_size: one more, at least
    assert [m.batches for _, m in sent(core, wire_pb2.Credit)] == []
    tell(core, 0, selected(1, kept=0))
    assert [m.batches for _, m in sent(core, wire_pb2.Credit)] == [3], "an empty batch costs credit and gives it back"
    tell(core, 0, selected(2, kept=3))
    assert [m.batches for _, m in sent(core, wire_pb2.Credit)] == []
    core.consumed([(0, 0, 0)], 3, 0.0)
    assert [m.batches for _, m in sent(core, wire_pb2.Credit)] == [4]


def test_acks_and_credit_of_one_turn_go_together_and_never_into_another_session() -> None:
    core = trainer_core(workers=2, window=2)
    core.actions = Actions()
    for seq in range(3):
        tell(core, 0, selected(seq, kept=0))
    tell(core, 1, selected(3, kept=0))
    actions, core.actions = core.actions, Actions()
    acks = [(w, list(m.keys.seq), list(m.kept)) for w, m, _ in actions.sends if isinstance(m, wire_pb2.Ack)]
    credit = [(w, m.batches) for w, m, _ in actions.sends if isinstance(m, wire_pb2.Credit)]
    assert acks == [(0, [0, 1, 2], [0, 0, 0]), (1, [3], [0])]
    assert credit == [(0, 5), (1, 3)]

    tell(core, 0, selected(4, kept=0))
    old = core.sessions[0].id()
    core.on_link_lost(0, "a test", 0.0)
    open_session(core, 0, now=10.0)
    tell(core, 0, selected(5, kept=0), 10.0)
    by_session = [(m.session == old, list(m.keys.seq)) for w, m in sent(core, wire_pb2.Ack) if w == 0]
    assert by_session == [(True, [4]), (False, [5])]


def test_credit_goes_to_all_when_rows_run_short_and_else_to_whom_it_concerns() -> None:
    core = trainer_core(workers=3, window=1)
    core.actions = Actions()
    for worker in range(3):
        tell(core, worker, selected(worker, kept=4))
    assert sent(core, wire_pb2.Credit) == [], "rows make a batch, and each session's window is buffered"
    core.consumed([(0, 0, 1)], 8, 0.0)
    assert [(w, m.batches) for w, m in sent(core, wire_pb2.Credit)] == [(1, 2)]
    core.consumed([], 3, 0.0)  # fewer than a batch
    assert sorted((w, m.batches) for w, m in sent(core, wire_pb2.Credit)) == [(0, 2), (2, 2)]
    core.consumed([], 3, 0.0)
    assert sent(core, wire_pb2.Credit) == []


def test_world_1_acks_an_epoch_when_all_loaders_ended_it_and_all_is_decided() -> None:
    core = trainer_core(loaders=2)
    for index in (0, 1):
        end = wire_pb2.EpochEnd(run=9, loader=index, batches=1)
        tell(core, 0, end)
    assert sent(core, wire_pb2.EpochAck) == []
    tell(core, 0, selected(0, kept=1, loader=0))
    assert sent(core, wire_pb2.EpochAck) == []
    tell(core, 0, selected(0, kept=1, loader=1))
    assert sorted(m.loader for _, m in sent(core, wire_pb2.EpochAck)) == [0, 1]


def test_who_leaves_says_so_once_and_then_nothing() -> None:
    core = trainer_core()
    core.actions = Actions()
    core.leave(0.0)
    core.on_tick(100.0)
    tell(core, 0, wire_pb2.PositionRequest(run=9, loader=0))  # on its way while the Goodbye was sent
    assert [(m.reason, m.run) for _, m in sent(core, wire_pb2.Goodbye)] == [(wire_pb2.GOODBYE_LEAVING, 9)]
    assert core.actions.sends == []


def test_a_session_that_was_never_welcomed_takes_the_next_incarnation() -> None:
    session = ClientSession(10, 0.0)
    session.poll(0.0, lambda: None, lambda: None)
    session.on_error(wire_pb2.Error(code=wire_pb2.SUPERSEDED, current=40, fatal=True), 0.0)
    assert (session.incarnation, session.failure) == (41, "")


def test_a_welcomed_session_that_is_superseded_ends_with_an_error_that_says_so() -> None:
    session = ClientSession(10, 0.0)
    session.poll(0.0, lambda: None, lambda: None)
    session.on_welcome(wire_pb2.Welcome(worker_incarnation=1, heartbeat_ms=1, liveness_ms=5), 0.0)
    session.on_error(wire_pb2.Error(code=wire_pb2.SUPERSEDED, text="host b has this index", fatal=True), 0.0)
    assert "host b" in session.failure


def test_attempts_to_connect_wait_longer_each_time() -> None:
    session = ClientSession(1, 0.0)
    hellos: list[float] = []
    now = 0.0
    while len(hellos) < 8 and now < 300:
        session.poll(now, lambda: None, lambda at=now: hellos.append(at))  # type: ignore[misc]
        now += 0.01
    gaps = [b - a for a, b in zip(hellos, hellos[1:], strict=False)]
    assert all(b >= a - 0.02 for a, b in zip(gaps, gaps[1:], strict=False))
    assert gaps[-1] <= 5 + 5 + 0.1
