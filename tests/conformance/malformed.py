# SPDX-License-Identifier: Apache-2.0
"""Messages that every implementation must refuse, by name, with the field that is at fault."""

from __future__ import annotations

from typing import Any

from build import F32, I64, U8, candidates_small, decided, decision, desc, hello_loader, keys, model_begin
from siftd._wire import codec
from siftd._wire.codec import artifact_pb2 as a
from siftd._wire.codec import wire_pb2 as w
from valid import messages

Case = tuple[list[bytes], str]


def framed(number: int, header: bytes, *payload: bytes) -> list[bytes]:
    return [b"SFTD" + bytes([1, number, 0, 0]), header, *payload]


def of(message: Any, *payload: bytes) -> list[bytes]:
    return framed(codec.TYPES[type(message)], message.SerializeToString(), *payload)


def changed(message: Any, *payload: bytes, **fields: Any) -> list[bytes]:
    """Frames of `message` with some fields replaced."""
    copy = type(message)()
    copy.CopyFrom(message)
    for name in fields:
        copy.ClearField(name)
    copy.MergeFrom(type(message)(**fields))
    return of(copy, *payload)


def framing() -> dict[str, Case]:
    header = hello_loader().SerializeToString()
    good = framed(w.HELLO, header)
    long = framed(w.HELLO, header, *[b""] * 33)
    return {
        "no_frames": ([], "frames"),
        "no_header": (good[:1], "frames"),
        "too_many_frames": (long, "frames"),
        "preamble_short": ([b"SFTD\x01\x01\x00", header], "preamble's bytes"),
        "preamble_long": ([b"SFTD\x01\x01\x00\x00\x00", header], "preamble's bytes"),
        "magic": ([b"SIFT\x01\x01\x00\x00", header], "magic"),
        "major": ([b"SFTD\x02\x01\x00\x00", header], "major"),
        "flags": ([b"SFTD\x01\x01\x01\x00", header], "flags"),
        "type_zero": (framed(0, b""), "type"),
        "type_unknown": (framed(24, b""), "type"),
        "header_garbage": (framed(w.HELLO, b"\xff\xff\xff"), "header"),
        "header_truncated": (framed(w.HELLO, header[:-1]), "header"),
        "text_not_utf8": (framed(w.DRAIN, b"\x12\x02\xc3\x28"), "header"),
        "payload_where_none_belongs": (framed(w.HELLO, header, b"x"), "payload frames"),
    }


def hello() -> dict[str, Case]:
    loader = hello_loader()
    trainer = messages()["hello_trainer"][0]
    spec = a.TensorSpec(name="x", dtype=F32, shape=[-1])
    bad_size = a.TensorSpec(name="x", dtype=F32, shape=[-2])
    bad_type = a.TensorSpec(name="x", dtype=11, shape=[-1])
    no_mode = w.JobSpec(seed=1)
    uneven = w.Decided(**{"loader": [0, 0], "pass": [0], "begin": [0], "end": [1]})
    return {
        "hello_role_zero": (changed(loader, role=0), "role"),
        "hello_role_unknown": (changed(loader, role=5), "role"),
        "hello_session_missing": (changed(loader, session=w.Session()), "session.counter"),
        "hello_job_long": (changed(loader, job="j" * 129), "job"),
        "hello_name_long": (changed(loader, name="n" * 257), "name"),
        "hello_loader_index": (changed(loader, loader_index=1), "loader_index"),
        "hello_loader_count": (changed(loader, loader_count=65537), "loader_count"),
        "hello_rank": (changed(trainer, rank=2), "rank"),
        "hello_world": (changed(trainer, world=65537), "world"),
        "hello_run": (changed(trainer, run=2**62 + 1), "run"),
        "hello_incarnation": (
            changed(trainer, session=w.Session(incarnation=2**62 + 1, counter=1)),
            "session.incarnation",
        ),
        "hello_mode": (changed(trainer, job_spec=no_mode), "job_spec.mode"),
        "hello_signature_twice": (changed(loader, signature=[spec, spec]), "signature[1].name"),
        "hello_signature_size": (changed(loader, signature=[bad_size]), "signature[0].shape"),
        "hello_signature_dtype": (changed(loader, signature=[bad_type]), "signature[0].dtype"),
        "decided_uneven": (changed(trainer, decided=uneven), "decided's arrays"),
        "decided_empty_interval": (
            changed(trainer, decided=decided((0, 0, 5, 5))),
            "decided[0]",
        ),
        "decided_overlap": (
            changed(trainer, decided=decided((0, 0, 0, 5), (0, 0, 4, 9))),
            "decided[1]",
        ),
        "decided_loader": (
            changed(trainer, decided=decided((0, 0, 0, 5), (65536, 0, 0, 5))),
            "decided.loader[1]",
        ),
        "decided_descends": (
            changed(trainer, decided=decided((1, 0, 0, 5), (0, 0, 0, 5))),
            "decided[1]",
        ),
    }


def candidates() -> dict[str, Case]:
    m, (x, y) = candidates_small()

    def with_x(name: str, dtype: int, shape: list[int], frame: int = 0) -> list[bytes]:
        tensors = [desc(name, dtype, shape, frame), desc("y", I64, [2], 1)]
        return changed(m, x, y, tensor=tensors)

    many = [desc(f"t{i}", U8, [2], i) for i in range(33)]
    return {
        "candidates_no_rows": (changed(m, x, y, sample_id=[]), "sample_id's length"),
        "candidates_occurrence": (changed(m, x, y, occurrence=[1]), "occurrence's length"),
        "candidates_prior": (changed(m, x, y, prior_score=[1.0] * 3), "prior_score's length"),
        "candidates_loader": (changed(m, x, y, key=w.Key(loader=65536)), "key.loader"),
        "candidates_seq": (changed(m, x, y, key=w.Key(seq=2**64 - 1)), "key.seq"),
        "tensor_too_many": (changed(m, *[b"ab"] * 32, tensor=many), "tensor's length"),
        "tensor_frame_missing": (of(m, x), "payload frames"),
        "tensor_frame_extra": (of(m, x, y, b"z"), "payload frames"),
        "tensor_frame_out_of_range": (with_x("x", F32, [2, 2], 2), "tensor[0].frame"),
        "tensor_frame_twice": (with_x("x", F32, [2, 2], 1), "tensor[1].frame"),
        "tensor_dtype_zero": (with_x("x", 0, [2, 2]), "tensor[0].dtype"),
        "tensor_dtype_unknown": (with_x("x", 11, [2, 2]), "tensor[0].dtype"),
        "tensor_size_negative": (with_x("x", F32, [2, -1]), "tensor[0].shape"),
        "tensor_size_overflows": (with_x("x", F32, [2, 2**62, 2]), "tensor[0].shape"),
        "tensor_overflows_beside_zero": (with_x("x", F32, [0, 2**62, 8]), "tensor[0].shape"),
        "tensor_rank": (with_x("x", F32, [1] * 17), "tensor[0].shape's length"),
        "tensor_bytes_short": (changed(m, x[:-1], y), "tensor[0]'s frame"),
        "tensor_bytes_long": (changed(m, x + b"0", y), "tensor[0]'s frame"),
        "tensor_scalar": (
            changed(m, x[:4], y, tensor=[desc("x", F32, [], 0), desc("y", I64, [2], 1)]),
            "tensor[0].shape[0]",
        ),
        "tensor_rows": (with_x("x", F32, [4, 1]), "tensor[0].shape[0]"),
        "tensor_name_long": (with_x("x" * 257, F32, [2, 2]), "tensor[0].name"),
        "tensor_name_twice": (with_x("y", F32, [2, 2]), "tensor[1].name"),
    }


def decisions() -> dict[str, Case]:
    verdict = messages()["verdict"][0]
    selected, payload = messages()["selected"]

    def bad(**fields: Any) -> list[bytes]:
        d = w.Decision()
        d.CopyFrom(decision())
        for name in fields:
            d.ClearField(name)
        d.MergeFrom(w.Decision(**fields))
        return changed(verdict, decision=d)

    none: dict[str, Any] = {"kept": [], "weight": []}
    return {
        "decision_missing": (changed(verdict, decision=w.Decision()), "decision.outcome"),
        "decision_outcome": (bad(outcome=4), "decision.outcome"),
        "decision_code": (bad(outcome=w.OUTCOME_REJECTED, code=23, **none), "decision.code"),
        "decision_text_long": (bad(text="t" * 4097), "decision.text"),
        "decision_column_long": (bad(column="c" * 257), "decision.column"),
        "decision_rows": (bad(rows=2**20 + 1), "decision.rows"),
        "decision_kept_descends": (bad(kept=[3, 1]), "decision.kept[1]"),
        "decision_kept_twice": (bad(kept=[1, 1]), "decision.kept[1]"),
        "decision_kept_out_of_range": (bad(kept=[1, 4]), "decision.kept[1]"),
        "decision_rejected_keeps": (bad(outcome=w.OUTCOME_REJECTED), "decision.kept's length"),
        "decision_unsifted_drops": (bad(outcome=w.OUTCOME_UNSIFTED), "decision.kept's length"),
        "decision_score": (bad(score=[1.0]), "decision.score's length"),
        "decision_keep_probability": (
            bad(keep_probability=[1.0]),
            "decision.keep_probability's length",
        ),
        "decision_percentile": (bad(percentile=[1.0]), "decision.percentile's length"),
        "decision_weight": (bad(weight=[1.0]), "decision.weight's length"),
        "selected_sample_id": (changed(selected, *payload, sample_id=[6]), "sample_id's length"),
        "selected_loader": (changed(selected, *payload, key=w.Key(loader=65536)), "key.loader"),
        "verdict_loader": (changed(verdict, key=w.Key(loader=2**32 - 1)), "key.loader"),
        "selected_seq": (changed(selected, *payload, key=w.Key(seq=2**64 - 1)), "key.seq"),
        "selected_rows": (
            changed(selected, b"ab", tensor=[desc("x", U8, [1, 2], 0)]),
            "tensor[0].shape[0]",
        ),
    }


def delivery() -> dict[str, Case]:
    m = {name: message for name, (message, _) in messages().items()}
    uneven = w.Keys(**{"loader": [0, 1], "pass": [0, 0], "seq": [0]})
    return {
        "ack_keys": (changed(m["ack"], keys=uneven), "keys' arrays"),
        "ack_kept": (changed(m["ack"], kept=[1]), "kept's length"),
        "ack_loader": (changed(m["ack"], keys=keys((1, 2, 3), (65536, 2, 3))), "keys.loader[1]"),
        "settled_loader": (changed(m["settled"], keys=keys((65536, 2, 3))), "keys.loader[0]"),
        "return_loader": (changed(m["return"], keys=keys((65536, 2, 3))), "keys.loader[0]"),
        "epoch_end_loader": (changed(m["epoch_end"], loader=65536), "loader"),
        "epoch_ack_loader": (changed(m["epoch_ack"], loader=2**32 - 1), "loader"),
        "position_request_loader": (changed(m["position_request"], loader=65536), "loader"),
        "position_loader": (changed(m["position"], loader=65536), "loader"),
        "position_world": (changed(m["position"], world=65537), "world"),
        "error_loader": (changed(m["error"], key=w.Key(loader=65536)), "key.loader"),
        "settled_kept": (changed(m["settled"], kept=[]), "kept's length"),
        "settled_rows": (changed(m["settled_scores"], rows=[3]), "rows' length"),
        "settled_score": (changed(m["settled_scores"], score=[0.5]), "score's length"),
        "settled_score_alone": (changed(m["settled"], score=[0.5]), "score's length"),
        "return_reason": (changed(m["return"], reason=0), "reason"),
        "return_keys": (changed(m["return"], keys=uneven), "keys' arrays"),
        "position_decided": (
            changed(m["position"], decided=decided((1, 0, 2, 1))),
            "decided[0]",
        ),
        "goodbye_reason": (changed(m["goodbye"], reason=3), "reason"),
        "drain_reason_long": (changed(m["drain"], reason="r" * 4097), "reason"),
        "error_code": (changed(m["error"], code=23), "code"),
        "error_text_long": (changed(m["error"], text="t" * 4097), "text"),
        "welcome_name_long": (changed(m["welcome"], worker_name="w" * 257), "worker_name"),
    }


def model() -> dict[str, Case]:
    begin = model_begin()
    ack = messages()["model_ack"][0]
    chunk, (data,) = messages()["model_chunk"]
    twice = [desc("w", F32, [16, 32], 0), desc("w", F32, [16, 32], 0)]
    negative = [desc("w", F32, [-1], 0)]
    return {
        "model_kind": (changed(begin, kind=4), "kind"),
        "model_chunk_bytes_small": (changed(begin, chunk_bytes=1023), "chunk_bytes"),
        "model_chunk_bytes_large": (changed(begin, chunk_bytes=2**26 + 1), "chunk_bytes"),
        "model_empty": (changed(begin, total_bytes=0, chunks=0), "total_bytes"),
        "model_chunks": (changed(begin, chunks=1), "chunks"),
        "model_chunks_overflow": (changed(begin, total_bytes=2**64 - 1, chunks=0), "chunks"),
        "model_sha256": (changed(begin, sha256=b"short"), "sha256's length"),
        "model_version_zero": (changed(begin, version=0), "version"),
        "model_sum": (changed(begin, total_bytes=4130), "total_bytes"),
        "model_name_twice": (
            changed(begin, manifest=twice, total_bytes=4096, chunks=1),
            "manifest[1].name",
        ),
        "model_size_negative": (changed(begin, manifest=negative), "manifest[0].shape"),
        "artifact_version": (changed(begin, kind=w.MODEL_KIND_ARTIFACT), "version"),
        "artifact_manifest": (
            changed(begin, kind=w.MODEL_KIND_ARTIFACT, version=0),
            "manifest's length",
        ),
        "chunk_without_payload": (of(chunk), "payload frames"),
        "chunk_two_payloads": (of(chunk, data, data), "payload frames"),
        "chunk_empty": (of(chunk, b""), "chunk's bytes"),
        "model_ack_state": (changed(ack, state=0), "state"),
        "model_ack_code": (changed(ack, code=23), "code"),
    }


def cases() -> dict[str, Case]:
    """Name -> frames and the field that the error names."""
    return {**framing(), **hello(), **candidates(), **decisions(), **delivery(), **model()}
