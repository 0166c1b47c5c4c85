# SPDX-License-Identifier: Apache-2.0
"""One hostile field of a candidate batch at a time against a real worker: what it answers, what it counts, and that an
honest peer beside it goes on, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from hostile_site import LAST32, LAST64, Frames, Site, changed, of, tensor
from raw_peers import F32, F64, RawPeer
from siftd._wire.codec import wire_pb2


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
