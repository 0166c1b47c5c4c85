# SPDX-License-Identifier: Apache-2.0
"""One hostile field at a time against a real worker: what it answers, what it counts, and that an honest peer beside it
goes on, in bounded memory."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

import siftd
from raw_peers import F32, F64, I64, HonestLoader, RawPeer, batch, job_spec, messages_of, resident
from siftd._weights.snapshotter import Snapshotter
from siftd._weights.sync import WeightsSync
from siftd._wire import codec
from siftd._wire.codec import LIMITS, policy_pb2, wire_pb2
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


# ------------------------------------------------------------ bytes of a message
@dataclass(frozen=True)
class Malformed:
    """Makes frames out of good Candidates; `text`: what the Error says."""

    text: str
    make: Callable[[Frames], Frames]


def header(change: Callable[[bytes], bytes]) -> Callable[[Frames], Frames]:
    return lambda f: [f[0], change(f[1]), *f[2:]]


def preamble(at: int, value: int) -> Callable[[Frames], Frames]:
    return lambda f: [f[0][:at] + bytes([value]) + f[0][at + 1 :], *f[1:]]


MALFORMED = {
    "frame_count_35": Malformed("frames are more than 34", lambda f: f + [b""] * 31),
    "frame_count_500": Malformed("frames are more than 34", lambda f: f + [b"x"] * 500),
    "frame_missing": Malformed("payload frames is 1", lambda f: f[:-1]),
    "frame_extra": Malformed("payload frames is 3", lambda f: [*f, b"x"]),
    "preamble_short": Malformed("preamble's bytes is 7", lambda f: [f[0][:7], *f[1:]]),
    "preamble_long": Malformed("preamble's bytes is 9000", lambda f: [b"x" * 9000, *f[1:]]),
    "magic": Malformed("magic is", preamble(0, 0)),
    "major": Malformed("major is 9", preamble(4, 9)),
    "flags": Malformed("flags is 1", preamble(6, 1)),
    "type_zero": Malformed("type is 0", preamble(5, 0)),
    "type_unknown": Malformed("type is 255", preamble(5, 255)),
    "header_empty": Malformed("sample_id's length is 0", header(lambda _: b"")),
    "header_garbage": Malformed("no Candidates message", header(lambda h: b"\xff" * len(h))),
    "header_truncated": Malformed("no Candidates message", header(lambda h: h[:-1])),
    "header_of_17_mib": Malformed("header's bytes is 17825792", header(lambda _: bytes(17 << 20))),
    "header_of_countless_fields": Malformed("header's fields is 100001", header(lambda h: h + b"\x58\x01" * 200_000)),
    "header_deeply_nested": Malformed("no Candidates message", header(lambda h: h + nested(200))),
    "payload_short": Malformed("tensor[0]'s frame is 127 bytes long", lambda f: [f[0], f[1], f[2][:-1], f[3]]),
    "payload_long": Malformed("tensor[0]'s frame is 129 bytes long", lambda f: [f[0], f[1], f[2] + b"x", f[3]]),
}


def nested(depth: int) -> bytes:
    """An unknown group in a group in a group."""
    return b"\xf3\x07" * depth + b"\xf4\x07" * depth


@pytest.mark.parametrize("name", MALFORMED)
def test_bytes_that_are_no_message_are_told_what_is_wrong_and_counted(site: Site, name: str) -> None:
    case, before = MALFORMED[name], site.errors().get("MALFORMED", 0)
    with site.loader() as peer:
        (error,) = peer.answers(case.make(of(peer, *site.batch())))
        assert isinstance(error, wire_pb2.Error)
        assert (error.code, case.text in error.text) == (wire_pb2.MALFORMED, True), error.text
        assert "allowed" in error.text
        assert not error.fatal
        assert site.errors()["MALFORMED"] == before + 2, "one more for the barrier, a single frame"
        # The session is kept.
        peer.send(*site.batch())
        assert peer.next(wire_pb2.Verdict).key.seq == site.seq
    site.undisturbed()


def tensor(name: str, dtype: int, shape: list[int], frame: int = 0) -> list[Any]:
    return [
        wire_pb2.TensorDesc(name=name, dtype=dtype, shape=shape, frame=frame),
        wire_pb2.TensorDesc(name="1", dtype=I64, shape=[4], frame=1),
    ]


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "rank_17": ({"tensor": tensor("0", F32, [4] + [1] * 16)}, "tensor[0].shape's length is 17"),
    "rank_50000": ({"tensor": tensor("0", F32, [1] * 50_000)}, "tensor[0].shape's length is 50000"),
    "shape_negative": ({"tensor": tensor("0", F32, [4, -8])}, "tensor[0].shape is [4, -8]"),
    "shape_lowest": ({"tensor": tensor("0", F32, [-(2**63)])}, "tensor[0].shape is"),
    "shape_overflows": ({"tensor": tensor("0", F32, [4, 2**62])}, "tensor[0].shape is"),
    "shape_overflows_to_what_fits": ({"tensor": tensor("0", F32, [4, 2**62 + 8])}, "tensor[0].shape is"),
    "shape_overflows_beside_zero": ({"tensor": tensor("0", F32, [0, 2**62, 8])}, "tensor[0].shape is"),
    "shape_huge": ({"tensor": tensor("0", F32, [4, 2**50])}, "tensor[0]'s frame is 128 bytes long"),
    "rows_of_the_tensor": ({"tensor": tensor("0", F32, [8, 4])}, "tensor[0].shape[0] is 8"),
    "scalar": ({"tensor": tensor("0", F32, [])}, "tensor[0]'s frame is 128 bytes long"),
    "rows_of_the_batch": ({"sample_id": range(3)}, "tensor[0].shape[0] is 4"),
    "rows_none": ({"sample_id": []}, "sample_id's length is 0"),
    "rows_a_million_and_one": ({"sample_id": range(2**20 + 1)}, "sample_id's length is 1048577"),
    "occurrence_short": ({"occurrence": [1]}, "occurrence's length is 1"),
    "prior_score_long": ({"prior_score": [0.5] * 5}, "prior_score's length is 5"),
    "name_257_bytes": ({"tensor": tensor("n" * 257, F32, [4, 8])}, "tensor[0].name is 257 bytes long"),
    "name_twice": ({"tensor": tensor("1", F32, [4, 8])}, "tensor[1].name is '1' again"),
    "dtype_zero": ({"tensor": tensor("0", 0, [4, 8])}, "tensor[0].dtype is 0"),
    "dtype_unknown": ({"tensor": tensor("0", 77, [4, 8])}, "tensor[0].dtype is 77"),
    "dtype_of_another_size": ({"tensor": tensor("0", F64, [4, 8])}, "what its shape says, 256"),
    "frame_out_of_range": ({"tensor": tensor("0", F32, [4, 8], LAST32)}, f"tensor[0].frame is {LAST32}"),
    "frame_twice": ({"tensor": tensor("0", F32, [4, 8], 1)}, "tensor[0]'s frame is 32 bytes long"),
    "key_of_another_loader": ({"key": wire_pb2.Key(loader=0)}, "key.loader is 0; this session's index is 1"),
    "key_without_a_next_one": ({"key": wire_pb2.Key(loader=1, seq=LAST64)}, f"key.seq is {LAST64}"),
    "key_of_no_loader": ({"key": wire_pb2.Key(loader=LAST32)}, f"key.loader is {LAST32}; allowed: below 65536"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_candidates_is_refused_by_its_name_and_value(site: Site, name: str) -> None:
    fields, text = FIELDS[name]
    before = site.errors().get("MALFORMED", 0)
    with site.loader() as peer:
        message, payload = site.batch()
        (error,) = peer.answers(of(peer, changed(message, **fields), payload))
        assert (error.code, text in error.text) == (wire_pb2.MALFORMED, True), error.text
        assert site.errors()["MALFORMED"] == before + 2, "one more for the barrier"
    site.undisturbed()


def test_text_that_is_no_utf8_is_refused(site: Site) -> None:
    with RawPeer(site.worker.endpoint) as peer:
        good = of(peer, wire_pb2.Hello(role=wire_pb2.ROLE_MONITOR, protocol_min=1, protocol_max=1))
        (error,) = peer.answers([good[0], good[1] + b"\x32\x02\xc3\x28"])  # name = c3 28
        assert (error.code, "no Hello message" in error.text) == (wire_pb2.MALFORMED, True)
        assert isinstance(peer.hello(wire_pb2.ROLE_MONITOR, name="ok"), wire_pb2.Welcome)
    site.undisturbed()


# ------------------------------------------------------------ numbers that are well formed
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38])
def test_rows_that_are_not_finite_are_dropped_and_counted_and_their_neighbours_are_not(
    site: Site, value: float
) -> None:
    x = np.ones((4, 8), np.float32)
    x[2] = value
    before = site.monitor.status().non_finite_rows
    with site.loader() as peer:
        peer.send(*site.batch(x))
        decision = peer.next(wire_pb2.Verdict).decision
        finite = np.isfinite(decision.score)
        assert finite[[0, 1, 3]].all()
        assert 2 not in decision.kept or finite[2]
        assert site.monitor.status().non_finite_rows - before == int((~finite).sum())
        assert not finite[2] or value == 3.4e38
    site.undisturbed()


def test_prior_scores_that_are_infinite_are_dropped_and_counted(site: Site) -> None:
    before = site.monitor.status().non_finite_rows
    with site.loader() as peer:
        peer.send(*site.batch(prior_score=[np.inf, -np.inf, 0.5, np.nan]))
        decision = peer.next(wire_pb2.Verdict).decision
        assert not {0, 1} & set(decision.kept)
        assert site.monitor.status().non_finite_rows == before + 2
    site.undisturbed()


GIANT: dict[str, dict[str, Any]] = {
    "seq": {"key": {"seq": LAST64 - 1}},
    "pass": {"key": {"pass": LAST64}},
    "epoch": {"epoch": LAST32},
    "attempt": {"attempt": LAST32},
    "sample_id": {"sample_id": [LAST64, LAST64, 0, LAST64 - 1]},
    "occurrence": {"occurrence": [LAST32] * 4},
    "trainer_step": {"trainer_step": LAST64},
}


@pytest.mark.parametrize("name", GIANT)
def test_giant_ids_are_numbers_like_others(site: Site, name: str) -> None:
    fields = dict(GIANT[name])
    key = {"loader": 1, "seq": 0, **fields.pop("key", {})}
    with site.loader() as peer:
        message, payload = site.batch()
        key["seq"] = key["seq"] or site.seq
        changed(message, key=wire_pb2.Key(**key), **fields)
        peer.send(message, payload)
        verdict = peer.next(wire_pb2.Verdict)
        assert verdict.key == message.key
        assert verdict.decision.rows == 4
    site.undisturbed()


def test_seq_may_jump_and_go_back(site: Site) -> None:
    with site.loader() as peer:
        seqs = [10**6, 3 * 10**5, 10**15, 299_999]
        for seq in seqs:
            message, payload = site.batch()
            message.key.seq = seq
            peer.send(message, payload)
        assert sorted(peer.next(wire_pb2.Verdict).key.seq for _ in seqs) == sorted(seqs)
    site.undisturbed()


def test_the_same_key_twice_is_decided_once(site: Site) -> None:
    before = site.monitor.status().duplicates
    with site.loader() as peer:
        message, payload = site.batch(np.ones((2048, 8), np.float32), rows=2048)
        for _ in range(3):
            peer.send(message, payload)
        peer.send(*site.batch())  # decided after the others
        verdicts = 0
        while peer.next(wire_pb2.Verdict).key.seq == message.key.seq:
            verdicts += 1
        duplicates = site.monitor.status().duplicates - before
        assert verdicts + duplicates == 3, "each one was held already, or came after the decision"
    site.undisturbed()


# ------------------------------------------------------------ what a role may say
def test_a_batch_without_credit_ends_the_session(site: Site) -> None:
    before = site.errors().get("CREDIT_EXCEEDED", 0)
    with site.loader() as peer:
        for _ in range(50):  # of which the worker takes 8, and more as it decides
            message, payload = site.batch(np.ones((512, 8), np.float32), rows=512)
            peer.send(message, payload)
        error = peer.next(wire_pb2.Error)
        assert (error.code, error.fatal) == (wire_pb2.CREDIT_EXCEEDED, True)
        assert site.errors()["CREDIT_EXCEEDED"] == before + 1
        with site.loader() as again:
            again.send(*site.batch())
            again.next(wire_pb2.Verdict)
    site.undisturbed()


def trainer(site: Site) -> RawPeer:
    peer = RawPeer(site.worker.endpoint)
    answer = peer.hello(wire_pb2.ROLE_TRAINER, run=site.run, rank=0, world=1, job_spec=job_spec())
    assert isinstance(answer, wire_pb2.Welcome), answer
    return peer


KEYS = wire_pb2.Keys(**{"loader": [1, 65535], "pass": [0, LAST64], "seq": [LAST64, 0]})
SILENT: dict[str, Any] = {
    "credit_goes_back": [wire_pb2.Credit(batches=5, bytes=100), wire_pb2.Credit(batches=1, bytes=0)],
    "credit_is_huge": [wire_pb2.Credit(batches=LAST64, bytes=LAST64), wire_pb2.Credit()],
    "ack_of_unknown_keys": [wire_pb2.Ack(keys=KEYS, kept=[LAST32, 0])],
    "ack_of_no_keys": [wire_pb2.Ack()],
    "epoch_ack_of_no_end": [wire_pb2.EpochAck(**{"loader": 1, "pass": LAST64})],
    "position_not_asked_for": [wire_pb2.Position(loader=1, world=1)],
    "heartbeat_of_a_giant_step": [wire_pb2.Heartbeat(step=LAST64, decided=LAST64, oldest_lease_ms=LAST64)],
    "goodbye_of_a_giant_run": [wire_pb2.Goodbye(reason=wire_pb2.GOODBYE_LEAVING, run=LAST64)],
}


@pytest.mark.parametrize("name", SILENT)
def test_what_changes_nothing_is_silent(site: Site, name: str) -> None:
    before = site.errors()
    with trainer(site) as peer:
        said = []
        for message in SILENT[name]:
            if hasattr(message, "run") and name != "goodbye_of_a_giant_run":
                message.run = site.run
            said.append(of(peer, message))
        assert peer.answers(*said) == []
    after = site.errors()
    assert {k: v for k, v in after.items() if v != before.get(k, 0)} == {"MALFORMED": before.get("MALFORMED", 0) + 1}
    site.undisturbed()


MAY_SAY = {
    wire_pb2.ROLE_LOADER: {"Candidates", "EpochEnd"},
    wire_pb2.ROLE_TRAINER: {"Credit", "Ack", "EpochAck", "Position"},
    wire_pb2.ROLE_PUBLISHER: {"ModelBegin", "ModelChunk", "ModelCommit"},
    wire_pb2.ROLE_MONITOR: {"Status"},
}
EVERYBODY = {"Hello", "Heartbeat", "Goodbye", "Error"}


@pytest.mark.parametrize("role", MAY_SAY, ids=lambda role: wire_pb2.Role.Name(role).removeprefix("ROLE_").lower())
def test_a_message_of_another_role_is_not_allowed(site: Site, role: int) -> None:
    seats = {
        wire_pb2.ROLE_LOADER: lambda: site.loader(),
        wire_pb2.ROLE_TRAINER: lambda: trainer(site),
        wire_pb2.ROLE_PUBLISHER: lambda: publisher(site),
        wire_pb2.ROLE_MONITOR: lambda: monitor(site),
    }
    before, refused = site.errors().get("NOT_ALLOWED", 0), 0
    with seats[role]() as peer:
        for cls in codec.TYPES:
            name = cls.DESCRIPTOR.name
            if name in MAY_SAY[role] | EVERYBODY:
                continue
            frames = next(messages_of(name, VALID))
            message, payload = codec.decode(frames)
            (error,) = peer.answers(of(peer, message, payload))
            assert (error.code, error.fatal) == (wire_pb2.NOT_ALLOWED, False), name
            refused += 1
    assert refused == len(codec.TYPES) - len(MAY_SAY[role] | EVERYBODY)
    assert site.errors()["NOT_ALLOWED"] == before + refused
    site.undisturbed()


def monitor(site: Site) -> RawPeer:
    peer = RawPeer(site.worker.endpoint)
    assert isinstance(peer.hello(wire_pb2.ROLE_MONITOR), wire_pb2.Welcome)
    return peer


def test_who_never_said_hello_is_told_to_and_an_error_is_not_answered(site: Site) -> None:
    before = site.errors().get("HELLO_REQUIRED", 0)
    with RawPeer(site.worker.endpoint) as peer:
        (error,) = peer.answers(of(peer, *site.batch()))
        assert (error.code, error.fatal) == (wire_pb2.HELLO_REQUIRED, True)
        assert peer.answers(of(peer, wire_pb2.Error(code=wire_pb2.INTERNAL, text="x" * 4096))) == []
    with site.loader() as old:
        peer_session = wire_pb2.Session(incarnation=old.session.incarnation, counter=9)
        old.send(*site.batch(), session=peer_session)
        assert old.next(wire_pb2.Error).code == wire_pb2.HELLO_REQUIRED
    assert site.errors()["HELLO_REQUIRED"] == before + 2
    site.undisturbed()


# ------------------------------------------------------------ Hello
def loss_cdf(**fields: Any) -> Any:
    return policy_pb2.Policy(loss_cdf=policy_pb2.LossCdfPolicy(**fields))


def with_policy(policy: Any) -> dict[str, Any]:
    return {"job_spec": wire_pb2.JobSpec(mode=wire_pb2.MODE_VERDICTS, policy=policy)}


MALFORMED_CODE, MISMATCH = wire_pb2.MALFORMED, wire_pb2.JOB_MISMATCH
HELLOS: dict[str, tuple[dict[str, Any], int, str]] = {
    "role_zero": ({"role": 0}, MALFORMED_CODE, "role is 0"),
    "role_unknown": ({"role": 9}, MALFORMED_CODE, "role is 9"),
    "job_129_bytes": ({"job": "j" * 129}, MALFORMED_CODE, "job is 129 bytes long"),
    "name_257_bytes": ({"name": "n" * 257}, MALFORMED_CODE, "name is 257 bytes long"),
    "counter_zero": ({"session": wire_pb2.Session(incarnation=5)}, MALFORMED_CODE, "session.counter is 0"),
    "incarnation_giant": (
        {"session": wire_pb2.Session(incarnation=LAST64, counter=1)}, MALFORMED_CODE, "session.incarnation is",
    ),
    "incarnation_of_the_past": (
        {"session": wire_pb2.Session(incarnation=1, counter=LAST64), "loader_index": 0},
        wire_pb2.SUPERSEDED, "was replaced",
    ),
    "run_giant": ({"run": LAST64}, MALFORMED_CODE, f"run is {LAST64}"),
    "run_of_the_past": ({"run": 1}, wire_pb2.RUN_OBSOLETE, "run 1 was replaced"),
    "world_giant": ({"role": wire_pb2.ROLE_TRAINER, "world": LAST32}, MALFORMED_CODE, f"world is {LAST32}"),
    "rank_beyond_world": (
        {"role": wire_pb2.ROLE_TRAINER, "world": 1, "rank": LAST32}, MALFORMED_CODE, f"rank is {LAST32}",
    ),
    "loader_index_beyond_count": ({"loader_index": 2}, MALFORMED_CODE, "loader_index is 2"),
    "loader_count_giant": ({"loader_count": LAST32}, MALFORMED_CODE, f"loader_count is {LAST32}"),
    "loader_count_of_another_job": ({"loader_count": 3}, MISMATCH, "loader_count is 3"),
    "protocol_of_the_future": ({"protocol_min": 2, "protocol_max": LAST32}, wire_pb2.PROTOCOL_VERSION, "protocol is"),
    "job_of_others": ({"job": "another"}, MISMATCH, "job is 'another'"),
    "batch_bytes_giant": ({"max_batch_bytes": LAST64}, wire_pb2.TOO_LARGE, f"max_batch_bytes is {LAST64}"),
    "signature_of_33": (
        {"signature": [{"name": str(i), "dtype": F32, "shape": [-1]} for i in range(33)]},
        MALFORMED_CODE, "signature's length is 33",
    ),
    "signature_size": (
        {"signature": [{"name": "x", "dtype": F32, "shape": [-2]}]}, MALFORMED_CODE, "signature[0].shape",
    ),
    "decided_descends": (
        {"decided": wire_pb2.Decided(**{"loader": [0], "pass": [0], "begin": [9], "end": [1]})},
        MALFORMED_CODE, "decided[0] is",
    ),
    "job_spec_of_another_seed": ({"job_spec": job_spec(total_steps=9)}, MISMATCH, "JobSpec differs"),
    "policy_history_of_no_rows": (
        with_policy(loss_cdf(beta=1.0, loss_history_length=0)), MISMATCH, "loss_cdf.loss_history_length is 0",
    ),
    "policy_history_giant": (
        with_policy(loss_cdf(beta=1.0, loss_history_length=LAST32)), MISMATCH, "loss_cdf.loss_history_length is",
    ),
    "policy_beta_not_a_number": (with_policy(loss_cdf(beta=float("nan"))), MISMATCH, "loss_cdf.beta is nan"),
    "policy_top_k_negative": (
        with_policy(policy_pb2.Policy(top_k=policy_pb2.TopKPolicy(keep=-1))), MISMATCH, "top_k.keep is -1",
    ),
    "policy_non_finite_unknown": (
        with_policy(policy_pb2.Policy(non_finite=7)), MALFORMED_CODE, "policy.non_finite is 7",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HELLOS)
def test_a_hello_is_refused_by_the_field_at_fault(site: Site, name: str) -> None:
    fields, code, text = HELLOS[name]
    counter = wire_pb2.ErrorCode.Name(code)
    before = site.errors().get(counter, 0)
    base: dict[str, Any] = {
        "role": wire_pb2.ROLE_LOADER, "protocol_min": 1, "protocol_max": 1, "run": site.run, "job_spec": job_spec(),
        "loader_index": 1, "loader_count": 2,
    }  # fmt: skip
    with RawPeer(site.worker.endpoint) as peer:
        fields = {"session": peer.session, **base, **fields}
        (error,) = peer.answers([bytes(f) for f in codec.encode(wire_pb2.Hello(**fields))])
        assert isinstance(error, wire_pb2.Error)
        assert (wire_pb2.ErrorCode.Name(error.code), text in error.text) == (counter, True), error.text
    assert site.errors()[counter] == before + (2 if code == wire_pb2.MALFORMED else 1)
    site.undisturbed()


def test_a_hello_of_the_largest_size_leaves_no_memory_behind(site: Site) -> None:
    """A bug once: what a peer had decided was kept for as long as its session."""
    intervals = LIMITS.intervals
    columns = {"loader": [0] * intervals, "pass": [0] * intervals}
    columns |= {"begin": range(0, 2 * intervals, 2), "end": range(1, 2 * intervals + 1, 2)}
    before = resident(site.worker.process.pid)
    peers = []
    try:
        for _ in range(12):
            peers.append(RawPeer(site.worker.endpoint))
            answer = peers[-1].hello(wire_pb2.ROLE_MONITOR, decided=wire_pb2.Decided(**columns))
            assert isinstance(answer, wire_pb2.Welcome)
        grown = resident(site.worker.process.pid) - before
        assert grown < 12 * 32 * intervals / 2, f"{grown >> 20} MiB for {len(peers)} peers"
    finally:
        for peer in peers:
            peer.close()
    site.undisturbed()


# ------------------------------------------------------------ weights
def publisher(site: Site) -> RawPeer:
    peer = RawPeer(site.worker.endpoint)
    assert isinstance(peer.hello(wire_pb2.ROLE_PUBLISHER, run=site.run), wire_pb2.Welcome)
    return peer


@dataclass
class Version:
    """A whole version of the toy model's weights, to be spoilt."""

    begin: Any
    chunk: Any
    payload: bytes
    commit: Any = field(default_factory=wire_pb2.ModelCommit)

    @staticmethod
    def of(site: Site, number: int, spoil: Callable[[torch.nn.Module], None] = lambda _: None) -> Version:
        model = toy_model()
        spoil(model)
        snapshot = Snapshotter(site.scorer.state).take(model, site.run, number, number)
        snapshot.seal()
        data = bytes(snapshot.chunk(0))
        chunk = wire_pb2.ModelChunk(run=site.run, version=number, crc32=codec.crc32(data))
        return Version(snapshot.begin, chunk, data, wire_pb2.ModelCommit(run=site.run, version=number))


def infinite(model: torch.nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters())[0, 0] = torch.inf


def whole_begin(total: int, chunk: int = 1 << 26, **more: Any) -> dict[str, Any]:
    """A manifest of one tensor of `total` bytes."""
    manifest = [wire_pb2.TensorDesc(name="w", dtype=2, shape=[total])]
    return {"manifest": manifest, "total_bytes": total, "chunk_bytes": chunk, "chunks": -(-total // chunk), **more}


BEGINS: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"kind": 9}, "kind is 9"),
    "chunk_bytes_small": ({"chunk_bytes": 1}, "chunk_bytes is 1"),
    "chunk_bytes_giant": ({"chunk_bytes": LAST32}, f"chunk_bytes is {LAST32}"),
    "total_bytes_zero": ({"total_bytes": 0}, "total_bytes is 0"),
    "total_bytes_giant": ({"total_bytes": LAST64}, "chunks is 1"),
    "chunks": ({"chunks": 2}, "chunks is 2"),
    "digest_short": ({"sha256": b"x"}, "sha256's length is 1"),
    "version_zero": ({"version": 0}, "version is 0"),
    "manifest_sum": ({"manifest": []}, "total_bytes is"),
    "manifest_negative": (whole_begin(1 << 20, manifest=tensor("w", F32, [-4])), "manifest[0].shape is [-4]"),
    "manifest_name_twice": (
        whole_begin(2, manifest=[wire_pb2.TensorDesc(name="w", dtype=2, shape=[1])] * 2, chunks=1), "manifest[1].name",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BEGINS)
def test_a_field_of_a_models_begin_is_refused_by_its_name(site: Site, name: str) -> None:
    fields, text = BEGINS[name]
    with publisher(site) as peer:
        (error,) = peer.answers(of(peer, changed(Version.of(site, 2).begin, **fields)))
        assert (error.code, text in error.text) == (wire_pb2.MALFORMED, True), error.text
    site.undisturbed()


def refusal(peer: RawPeer, version: Version) -> Any:
    """Sends the version; the worker's first refusal."""
    for message, payload in ((version.begin, ()), (version.chunk, (version.payload,)), (version.commit, ())):
        peer.send(message, payload)
    while True:
        answer = peer.next((wire_pb2.ModelAck, wire_pb2.Error))
        if isinstance(answer, wire_pb2.Error):
            return answer
        if answer.version == version.commit.version and answer.state != wire_pb2.MODEL_STATE_RECEIVING:
            return answer


def damage(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


SPOILT: dict[str, tuple[Callable[[Site], Version], str, str]] = {
    "crc": (lambda s: replaced(Version.of(s, 50), payload=damage), "MODEL_CORRUPT", "CRC-32 of chunk 0"),
    "digest": (lambda s: replaced(Version.of(s, 51), digest=damage), "MODEL_CORRUPT", "SHA-256"),
    "chunk_index": (lambda s: replaced(Version.of(s, 52), index=7), "MODEL_CORRUPT", "chunk index is 7"),
    "chunk_short": (lambda s: replaced(Version.of(s, 53), payload=lambda d: d[:-1]), "MODEL_CORRUPT", "has"),
    "not_finite": (lambda s: Version.of(s, 54, infinite), "MODEL_NOT_FINITE", ""),
    "old_version": (lambda s: Version.of(s, 1), "MODEL_MISMATCH", "version is 1"),
    "shape": (lambda s: replaced(Version.of(s, 55), shape=True), "MODEL_MISMATCH", "0.weight"),
    "larger_than_is_taken": (lambda s: replaced(Version.of(s, 56), giant=True), "TOO_LARGE", "total_bytes is"),
    "code": (lambda s: replaced(Version.of(s, 57), artifact=True), "ARTIFACT_REFUSED", "takes no artifact"),
}  # fmt: skip


def replaced(
    v: Version,
    payload: Callable[[bytes], bytes] | None = None,
    digest: Callable[[bytes], bytes] | None = None,
    index: int = 0,
    shape: bool = False,
    giant: bool = False,
    artifact: bool = False,
) -> Version:
    v.payload = v.payload if payload is None else payload(v.payload)
    v.begin.sha256 = v.begin.sha256 if digest is None else digest(v.begin.sha256)
    v.chunk.index = index
    if shape:
        first = v.begin.manifest[0]
        first.shape[:] = first.shape[::-1]
    if giant:
        changed(v.begin, **whole_begin(1 << 56))
    if artifact:
        v.begin.kind, v.begin.version, v.chunk.version, v.commit.version = wire_pb2.MODEL_KIND_ARTIFACT, 0, 0, 0
        v.begin.ClearField("manifest")
    return v


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_version_is_refused_and_the_one_in_force_stays(site: Site, name: str) -> None:
    make, code, text = SPOILT[name]
    before = site.monitor.status()
    with publisher(site) as peer:
        ack = refusal(peer, make(site))
        assert isinstance(ack, wire_pb2.ModelAck), ack
        assert (wire_pb2.ErrorCode.Name(ack.code), text in ack.text) == (code, True), ack.text
    after = site.monitor.status()
    assert after.model_version == before.model_version == 1
    # What was on its way behind the refused part is refused, too.
    assert before.model_refused < after.model_refused <= before.model_refused + 3
    assert before.errors[code] < after.errors[code]
    site.undisturbed()


def test_chunks_without_a_begin_are_dropped(site: Site) -> None:
    before = site.errors()
    version = Version.of(site, 60)
    with publisher(site) as peer:
        assert peer.answers(*[of(peer, version.chunk, (version.payload,))] * 50, of(peer, version.commit)) == []
    assert site.errors() == {**before, "MALFORMED": before.get("MALFORMED", 0) + 1}
    site.undisturbed()


# ------------------------------------------------------------ what is written down
def test_a_name_cannot_write_a_line_of_the_log(site: Site) -> None:
    """A bug once: a peer that calls itself by a line of the log wrote one."""
    forged = "12:00:00.000 E [w] the disk is gone"
    with site.loader(name=f"me\n{forged}\x1b[2J\x00"):
        pass
    lines = site.worker.log.read_text().splitlines()
    assert any("'me" in line for line in lines)
    assert not [line for line in lines if line.startswith(forged)]
    assert "\x1b[2J" not in site.worker.log.read_text()


def test_ends_of_countless_passes_end_the_session(site: Site) -> None:
    before = site.errors().get("CREDIT_EXCEEDED", 0)
    with site.loader() as peer:
        for number in range(5000):
            end = wire_pb2.EpochEnd(run=site.run, loader=1, batches=LAST64, epoch=LAST32)
            setattr(end, "pass", number)
            peer.send(end)
        error = peer.next(wire_pb2.Error)
        assert (error.code, error.fatal) == (wire_pb2.CREDIT_EXCEEDED, True)
        assert "not acked" in error.text
    assert site.errors()["CREDIT_EXCEEDED"] == before + 1
    site.undisturbed()


def test_a_flood_of_garbage_takes_no_memory(site: Site) -> None:
    before = resident(site.worker.process.pid)
    with RawPeer(site.worker.endpoint) as peer:
        for _ in range(10_000):
            peer.frames([b"SFTD" + struct.pack("<I", 1), b""])
        errors = [peer.next(wire_pb2.Error) for _ in range(100)]
        assert {e.code for e in errors} <= {wire_pb2.MALFORMED}
    assert resident(site.worker.process.pid) - before < 32 << 20
    site.undisturbed()
