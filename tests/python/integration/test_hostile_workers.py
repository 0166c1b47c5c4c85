# SPDX-License-Identifier: Apache-2.0
"""Clients against a worker that says anything: they drop it and go on, or raise a typed error; they never hang,
crash or train a row twice."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

import siftd
from hostile_worker import HostileWorker, verdict
from siftd._wire import codec
from siftd._wire.codec import wire_pb2
from siftd.errors import SiftdError, SiftdTimeoutError, WorkerError
from support import ROOT, Rows, toy_model, wait_until

ROWS, BATCH = 96, 16
LAST64 = 2**64 - 1
Answer = Callable[[Any, Sequence[Any]], list[Any]]


@pytest.fixture(scope="module")
def scorer() -> siftd.Scorer:
    data = Rows(16)
    return siftd.export_scorer(toy_model(), "cross_entropy", (data.x, data.y))


def dropin(worker: HostileWorker | str, scorer: siftd.Scorer, **options: Any) -> siftd.SiftingDataLoader:
    endpoint = worker if isinstance(worker, str) else worker.endpoint
    settings: dict[str, Any] = {"start_timeout": 10.0, "timeout": 30.0, "starve_timeout": 1.0, "seed": 7, **options}
    return siftd.SiftingDataLoader(
        DataLoader(Rows(ROWS), BATCH), model=toy_model(), workers=[endpoint], scorer=scorer,
        policy=siftd.Uniform(0.5), **settings,
    )  # fmt: skip


def ids_of(loader: siftd.SiftingDataLoader) -> list[int]:
    ids: list[int] = []
    for _ in loader:
        assert loader.last_batch_info is not None
        ids += loader.last_batch_info.ids.tolist()
    return sorted(ids)


def other_key(m: Any, **changes: int) -> Any:
    answer = verdict(m)
    for name, value in changes.items():
        setattr(answer.key, name, value)
    return answer


# What a worker answers to Candidates. None of it is a decision of the batch that was sent: all rows go out, once each.
NO_DECISIONS: dict[str, Answer] = {
    "nothing": lambda m, p: [],
    "unknown_seq": lambda m, p: [other_key(m, seq=LAST64 - 1)],
    "seq_without_a_next_one": lambda m, p: [other_key(m, seq=LAST64)],
    "unknown_pass": lambda m, p: [other_key(m, **{"pass": LAST64})],
    "another_loaders_key": lambda m, p: [other_key(m, loader=65535)],
    "another_run": lambda m, p: [wire_pb2.Verdict(run=LAST64, decision=verdict(m).decision)],
    "more_rows_than_sent": lambda m, p: [verdict(m, range(100), rows=100)],
    "fewer_rows_than_sent": lambda m, p: [verdict(m, [0], rows=1)],
    "no_rows": lambda m, p: [verdict(m, [], rows=0)],
    "a_million_rows": lambda m, p: [verdict(m, [2**20 - 1], rows=2**20)],
    "kept_beyond_rows": lambda m, p: [verdict(m, [BATCH])],
    "kept_twice": lambda m, p: [verdict(m, [3, 3])],
    "scores_short": lambda m, p: [verdict(m, score=[1.0])],
    "garbage": lambda m, p: [[os.urandom(64), os.urandom(64)]],
    "one_empty_frame": lambda m, p: [[b""]],
    "a_thousand_frames": lambda m, p: [[b"x"] * 1000],
    "header_of_17_mib": lambda m, p: [[b"SFTD\x01\x06\x00\x00", bytes(17 << 20)]],
    "truncated": lambda m, p: [[f[:-1] if i == 1 else f for i, f in enumerate(codec.encode(verdict(m)))]],
    "candidates_back": lambda m, p: [(m, p)],
    "settled": lambda m, p: [settled(m)],
    "settled_and_returned": lambda m, p: [settled(m), wire_pb2.Return(run=m.run, keys=keys(m), reason=1)],
    "position_of_a_later_run": lambda m, p: [wire_pb2.Position(run=2**62, world=1)],
    "goodbye": lambda m, p: [wire_pb2.Goodbye(reason=wire_pb2.GOODBYE_LEAVING)],
    "done": lambda m, p: [wire_pb2.Goodbye(reason=wire_pb2.GOODBYE_DONE, run=LAST64)],
    "drain": lambda m, p: [wire_pb2.Drain(reason="r" * 4096)],
    "malformed_says_the_worker": lambda m, p: [wire_pb2.Error(code=wire_pb2.MALFORMED, text="t" * 4096, fatal=True)],
    "hello_required": lambda m, p: [wire_pb2.Error(code=wire_pb2.HELLO_REQUIRED, fatal=True)],
}  # fmt: skip


def keys(m: Any) -> Any:
    return wire_pb2.Keys(**{"loader": [m.key.loader], "pass": [getattr(m.key, "pass")], "seq": [m.key.seq]})


def settled(m: Any) -> Any:
    return wire_pb2.Settled(run=m.run, keys=keys(m), kept=[0], rows=[1], score=[0.5])


@pytest.mark.usefixtures("either_client")
@pytest.mark.parametrize("name", NO_DECISIONS)
def test_what_is_no_decision_leaves_every_row_to_train_once(name: str, scorer: siftd.Scorer) -> None:
    with HostileWorker(NO_DECISIONS[name]) as worker, dropin(worker, scorer) as loader:
        assert ids_of(loader) == list(range(ROWS))
        stats = loader.stats()
        assert stats.unsifted == ROWS
        assert stats.breaker_opened >= 1
        assert worker.heard["Candidates"] > 0


@pytest.mark.usefixtures("either_client")
def test_a_verdict_said_twice_counts_once(scorer: siftd.Scorer) -> None:
    def twice(m: Any, _: Any) -> list[Any]:
        return [verdict(m, range(0, BATCH, 2)), verdict(m, range(1, BATCH, 2)), verdict(m)]

    with HostileWorker(twice) as worker, dropin(worker, scorer, starve_timeout=20.0) as loader:
        assert ids_of(loader) == list(range(0, ROWS, 2))
        wait_until("all verdicts", lambda: loader.stats().duplicates == 2 * ROWS // BATCH)


@pytest.mark.usefixtures("either_client")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e38])
def test_numbers_of_a_verdict_that_make_no_sense_are_handed_on(scorer: siftd.Scorer, value: float) -> None:
    def answer(m: Any, _: Any) -> list[Any]:
        fields = {name: [value] * BATCH for name in ("score", "keep_probability", "percentile", "weight")}
        return [verdict(m, None, model_version=LAST64, model_step=LAST64, score_seconds=value, **fields)]

    with HostileWorker(answer) as worker, dropin(worker, scorer, starve_timeout=20.0) as loader:
        seen = []
        for _ in loader:
            info = loader.last_batch_info
            assert info is not None
            seen += info.ids.tolist()
            np.testing.assert_array_equal(info.scores, np.full(len(info.ids), value, np.float32))
            assert (info.model_version == 2**63 - 1).all()
            assert (info.staleness == 0).all()
        assert sorted(seen) == list(range(ROWS))


WELCOMES: dict[str, dict[str, Any]] = {
    "no_heartbeat": {"heartbeat_ms": 0, "liveness_ms": 0},
    "heartbeat_in_49_days": {"heartbeat_ms": 2**32 - 1, "liveness_ms": 2**32 - 1},
    "no_limits": {"max_frame_bytes": 0, "max_batch_bytes": 0, "max_rows": 0},
    "numbers": {"model_version": LAST64, "worker_incarnation": LAST64, "protocol": 2**32 - 1},
}


@pytest.mark.usefixtures("either_client")
@pytest.mark.parametrize("name", WELCOMES)
def test_a_welcome_that_makes_no_sense_does_not_stop_the_loop(name: str, scorer: siftd.Scorer) -> None:
    sound = HostileWorker(lambda m, p: [verdict(m)], welcome=WELCOMES[name])
    with sound as worker, dropin(worker, scorer, starve_timeout=3.0) as loader:
        assert ids_of(loader) == list(range(ROWS))


@pytest.mark.usefixtures("either_client")
def test_credit_that_is_huge_or_goes_back_is_no_error(scorer: siftd.Scorer) -> None:
    def answer(m: Any, _: Any) -> list[Any]:
        return [wire_pb2.Credit(batches=LAST64, bytes=LAST64), wire_pb2.Credit(), verdict(m)]

    with HostileWorker(answer) as worker, dropin(worker, scorer, starve_timeout=20.0) as loader:
        assert ids_of(loader) == list(range(ROWS))
        assert loader.stats().unsifted == 0


def refuse(code: int, **more: Any) -> Callable[[Any], list[Any]]:
    return lambda hello: [wire_pb2.Error(session=hello.session, code=code, text="go away", fatal=True, **more)]


GREETINGS: dict[str, Callable[[Any], list[Any]]] = {
    "superseded_by_the_largest_number": refuse(wire_pb2.SUPERSEDED, current=LAST64),
    "job_mismatch": refuse(wire_pb2.JOB_MISMATCH),
    "run_obsolete": refuse(wire_pb2.RUN_OBSOLETE, current=LAST64),
    "nothing": lambda hello: [],
    "garbage": lambda hello: [[os.urandom(64)]],
    "another_session": lambda hello: [wire_pb2.Welcome(session=wire_pb2.Session(incarnation=1, counter=1))],
    "heartbeats_only": lambda hello: [wire_pb2.Heartbeat()] * 3,
}


@pytest.mark.usefixtures("either_client")
@pytest.mark.parametrize("name", GREETINGS)
def test_a_worker_that_never_welcomes_is_a_typed_error_by_the_deadline(name: str, scorer: siftd.Scorer) -> None:
    with (
        HostileWorker(greeting=GREETINGS[name]) as worker,
        dropin(worker, scorer, start_timeout=3.0, timeout=5.0) as loader,
        pytest.raises((WorkerError, SiftdTimeoutError)) as caught,
    ):
        next(iter(loader))
    if name in ("superseded_by_the_largest_number", "job_mismatch", "run_obsolete"):
        assert "go away" in str(caught.value)
    else:
        assert worker.endpoint in str(caught.value), "the peer is named"


@contextmanager
def talker(data: bytes) -> Iterator[str]:
    """A TCP server that says `data` to everybody, whatever they say."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        links: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    link, _ = server.accept()
                except OSError:
                    return
                links.append(link)
                link.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for link in links:
                link.close()


@pytest.mark.usefixtures("either_client")
@pytest.mark.parametrize(
    "data", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"SSH-2.0-x\r\n", b"\xff" * 300], ids=["silent", "http", "ssh", "ones"]
)
def test_a_server_of_another_kind_is_a_typed_error_by_the_deadline(data: bytes, scorer: siftd.Scorer) -> None:
    with (
        talker(data) as endpoint,
        dropin(endpoint, scorer, start_timeout=3.0) as loader,
        pytest.raises((SiftdTimeoutError, WorkerError), match=endpoint),
    ):
        next(iter(loader))


# ------------------------------------------------------------ stream
def selected(m: Any, number: int = 0, rows: int = 4, dtype: type = np.float32, **more: Any) -> tuple[Any, Any]:
    """Kept rows of key (0, 0, number) for the run of trainer `m`."""
    descs, payload = codec.pack({"0": np.ones((rows, 8), dtype), "1": np.zeros(rows, np.int64)})
    decision = wire_pb2.Decision(outcome=wire_pb2.OUTCOME_UNSIFTED, rows=rows, kept=range(rows))
    message = wire_pb2.Selected(
        run=m.run, decision=decision, sample_id=range(number * rows, (number + 1) * rows), tensor=descs
    )
    message.key.seq = number
    for name, value in more.items():
        setattr(message.key, name, value)
    return message, payload


def end(m: Any, batches: int, loader: int = 0, number: int = 0) -> Any:
    message = wire_pb2.EpochEnd(run=m.run, loader=loader, batches=batches, final=True)
    setattr(message, "pass", number)
    return message


@contextmanager
def stream(worker: HostileWorker, scorer: siftd.Scorer, **options: Any) -> Iterator[siftd.StreamLoader]:
    settings: dict[str, Any] = {"timeout": 4.0, "start_timeout": 10.0, "linger": 0.2, "window": 8, **options}
    loader = siftd.StreamLoader(
        [worker.endpoint], 4, model=toy_model(), scorer=scorer, policy=siftd.Uniform(0.5), **settings
    )
    try:
        yield loader
    finally:
        loader.close()


def rows_until_the_end(loader: siftd.StreamLoader) -> list[int]:
    ids: list[int] = []
    for _ in loader:
        assert loader.last_batch_info is not None
        ids += loader.last_batch_info.ids.tolist()
    return ids


# What a worker says to a trainer around four batches of four rows: each is a sound stream in the end.
SOUND: dict[str, list[Callable[[Any], Any]]] = {
    "selected_twice": [lambda m: selected(m), lambda m: selected(m), lambda m: selected(m, 1), lambda m: selected(m)],
    "end_before_its_rows": [lambda m: end(m, 2), lambda m: selected(m, 1), lambda m: selected(m)],
    "end_twice": [lambda m: selected(m), lambda m: end(m, 2), lambda m: end(m, 2), lambda m: selected(m, 1)],
    "end_of_another_run": [lambda m: end(wire_pb2.Hello(run=1), 0), lambda m: selected(m), lambda m: selected(m, 1)],
    "positions": [
        lambda m: wire_pb2.PositionRequest(run=m.run, loader=65535), lambda m: selected(m), lambda m: selected(m, 1),
    ],
    "a_verdict": [
        lambda m: verdict(wire_pb2.Candidates(run=m.run, sample_id=[1])),
        lambda m: selected(m), lambda m: selected(m, 1),
    ],
    "welcome_twice": [
        lambda m: wire_pb2.Welcome(worker_incarnation=7, heartbeat_ms=200, liveness_ms=5000, max_batch_bytes=1 << 20),
        lambda m: selected(m), lambda m: selected(m, 1),
    ],
}  # fmt: skip


@pytest.mark.usefixtures("either_client")
@pytest.mark.parametrize("name", SOUND)
def test_a_stream_hands_out_each_row_once_whatever_is_said_around_it(name: str, scorer: siftd.Scorer) -> None:
    said = [*SOUND[name], lambda m: end(m, 2)]
    with HostileWorker(to_trainer=said) as worker, stream(worker, scorer) as loader:
        assert sorted(rows_until_the_end(loader)) == list(range(8))
        wait_until("an ack", lambda: worker.heard["Ack"])


@pytest.mark.usefixtures("either_client")
@pytest.mark.parametrize("key", [{"seq": 2**40}, {"seq": LAST64 - 1}, {"pass": LAST64}, {"loader": 65535}], ids=str)
def test_a_stream_takes_a_key_far_off_as_any_other(key: dict[str, int], scorer: siftd.Scorer) -> None:
    """A bug once: it cost the Python trainer a table of all keys below it."""
    said = [lambda m: selected(m, 0, 4, **key), lambda m: wire_pb2.PositionRequest(run=m.run, loader=0)]
    with HostileWorker(to_trainer=said) as worker, stream(worker, scorer) as loader:
        assert len(next(iter(loader))[1]) == 4
        wait_until("the ack and the position", lambda: worker.heard["Ack"] and worker.heard["Position"])


UNSOUND: dict[str, list[Callable[[Any], Any]]] = {
    "another_dtype": [lambda m: selected(m), lambda m: selected(m, 1, dtype=np.float64)],
    "no_loaders_key": [lambda m: selected(m, loader=2**32 - 1)],
    "end_of_no_loader": [lambda m: end(m, 0, loader=2**32 - 1), lambda m: wire_pb2.PositionRequest(run=m.run)],
    "garbage": [lambda m: [os.urandom(80), os.urandom(80)]],
    "rows_do_not_fit": [lambda m: (selected(m)[0], selected(m, rows=3)[1])],
    "nothing": [],
    "superseded": [lambda m: wire_pb2.Error(code=wire_pb2.SUPERSEDED, text="go away", current=LAST64, fatal=True)],
}


@pytest.mark.usefixtures("either_client")
@pytest.mark.parametrize("name", UNSOUND)
def test_a_stream_that_makes_no_sense_is_a_typed_error_by_the_deadline(name: str, scorer: siftd.Scorer) -> None:
    with (
        HostileWorker(to_trainer=UNSOUND[name]) as worker,
        stream(worker, scorer) as loader,
        pytest.raises(SiftdError),
    ):
        rows_until_the_end(loader)
    assert worker.hellos["ROLE_TRAINER"] >= 1


@pytest.mark.usefixtures("either_client")
def test_a_stream_drops_a_worker_that_sends_more_than_it_was_granted(scorer: siftd.Scorer) -> None:
    """A bug once: the Python trainer took in whatever came."""
    seqs, sessions = itertools.count(), []

    def flood(m: Any) -> Any:
        if m.session not in sessions[:1]:
            sessions.append(m.session)
        return selected(m, next(seqs)) if m.session == sessions[0] else wire_pb2.Heartbeat()

    with HostileWorker(to_trainer=[flood] * 400) as worker, stream(worker, scorer) as loader:
        rows = 0
        with pytest.raises(SiftdTimeoutError):
            for _, y in loader:
                rows += len(y)
        assert rows < 400 * 4 / 2, "most of it was not asked for"
        assert worker.hellos["ROLE_TRAINER"] >= 2


# ------------------------------------------------------------ the C++ clients
def example(name: str) -> str:
    path = Path(os.environ.get("SIFTD_BUILD_DIR", ROOT / "build")) / "client" / "examples" / name
    assert path.exists(), f"{path} is not there: run ./dev build"
    return str(path)


def refused_at_last(*before: Any) -> Callable[[Any], list[Any]]:
    """These to the first Hellos, one each, then a refusal for good."""
    left = list(before)

    def greeting(hello: Any) -> list[Any]:
        if left:
            return [left.pop(0)]
        return refuse(wire_pb2.JOB_MISMATCH)(hello)

    return greeting


TO_CPP: dict[str, list[Any]] = {
    "garbage": [[b"\0" * 100], [b""], [os.urandom(8), os.urandom(3000)]],
    "a_thousand_frames": [[b"x"] * 1000],
    "header_of_17_mib": [[b"SFTD\x01\x02\x00\x00", bytes(17 << 20)]],
    "not_a_welcome": [wire_pb2.Error(code=wire_pb2.HELLO_REQUIRED, fatal=True)],
}


@pytest.mark.parametrize("name", TO_CPP)
@pytest.mark.parametrize("program", ["siftd_cpp_loader", "siftd_cpp_trainer"])
def test_a_cpp_client_gives_up_with_a_reason(program: str, name: str, scorer: siftd.Scorer, tmp_path: Path) -> None:
    csv = tmp_path / "rows.csv"
    csv.write_text("".join(f"{','.join('0' * 8)},{i % 5}\n" for i in range(64)))
    flags = {
        "siftd_cpp_loader": ["--csv", str(csv), "--epochs", "1"],
        "siftd_cpp_trainer": ["--scorer", str(scorer.save(tmp_path / "scorer.pt"))],
    }
    with HostileWorker(greeting=refused_at_last(*TO_CPP[name])) as worker:
        command = [example(program), "--endpoint", worker.endpoint, *flags[program]]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert ended.returncode == 1, (ended.returncode, ended.stderr)
        assert "go away" in ended.stderr
        assert sum(worker.hellos.values()) > len(TO_CPP[name]), "it came again after each of them"
