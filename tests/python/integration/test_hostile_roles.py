# SPDX-License-Identifier: Apache-2.0
"""The same of sessions: what a role may say, Hello, names, floods."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from hostile_site import LAST32, LAST64, VALID, Site, of, publisher
from raw_peers import F32, RawPeer, job_spec, messages_of, resident
from siftd._wire import codec
from siftd._wire.codec import LIMITS, policy_pb2, wire_pb2


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
