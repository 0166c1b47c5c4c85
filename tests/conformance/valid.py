# SPDX-License-Identifier: Apache-2.0
"""One well-formed message of each type or more, by name: the golden frames."""

from __future__ import annotations

from typing import Any

from build import (
    F32,
    KEY,
    RUN,
    SESSION,
    U8,
    candidates_small,
    decided,
    decision,
    desc,
    floats,
    full_policy,
    hello_loader,
    job_spec,
    keys,
    model_begin,
    status_reply,
)
from siftd._wire import codec
from siftd._wire.codec import artifact_pb2 as a
from siftd._wire.codec import policy_pb2 as pol
from siftd._wire.codec import wire_pb2 as w


def messages() -> dict[str, tuple[Any, list[bytes]]]:
    """Name -> message and payload."""
    rank = 1
    spec = a.TensorSpec(name="x", dtype=U8, shape=[-1, 3, 32, 32])
    loss_cdf = pol.LossCdfPolicy(beta=1.0, loss_history_length=1024, floor=0.0, clip=1.0)
    confidence = pol.ConfidencePolicy(tau=0.5, floor=0.05)
    trainer = {
        "session": SESSION,
        "protocol_min": 1,
        "protocol_max": 1,
        "role": w.ROLE_TRAINER,
        "job": "demo",
        "run": RUN,
        "rank": rank,
        "world": 2,
        "fingerprint": w.Fingerprint(),
    }
    ids = {"session": SESSION, "run": RUN, "key": KEY, "epoch": 2}
    verdict = {**ids, "decision": decision()}
    rejected = w.Decision(
        outcome=w.OUTCOME_REJECTED,
        code=w.BAD_TENSOR,
        text="tensor 'x' is float32 [4, 3]; the model takes x float32 [-1, 4]",
        rows=4,
    )
    unsifted = w.Decision(outcome=w.OUTCOME_UNSIFTED, rows=2, kept=[0, 1])
    plain: dict[str, Any] = {
        "hello_loader": hello_loader(),
        "hello_loader_signature": w.Hello(
            session=SESSION,
            protocol_min=1,
            protocol_max=1,
            role=w.ROLE_LOADER,
            loader_index=1,
            loader_count=2,
            signature=[spec],
            max_batch_bytes=1 << 20,
            fingerprint=w.Fingerprint(),
        ),
        "hello_trainer": w.Hello(
            **trainer,
            job_spec=job_spec(
                full_policy(loss_cdf=loss_cdf),
                artifact_sha256="cd" * 32,
                total_steps=1000,
                max_staleness_steps=50,
                stale_unsifted=True,
            ),
            decided=decided((0, 0, 0, 5), (0, 0, 7, 9), (1, 2, 0, 1), next_pass=(0, 2)),
        ),
        "hello_trainer_confidence": w.Hello(**trainer, job_spec=job_spec(full_policy(confidence=confidence))),
        "hello_trainer_uniform": w.Hello(
            **trainer, job_spec=job_spec(full_policy(uniform=pol.UniformPolicy(keep=0.5)))
        ),
        "hello_trainer_composer_rank": w.Hello(
            **trainer,
            job_spec=job_spec(full_policy(composer_rank=pol.ComposerRankPolicy(keep=0.5))),
        ),
        "hello_trainer_top_k": w.Hello(**trainer, job_spec=job_spec(full_policy(top_k=pol.TopKPolicy(keep=0.5)))),
        "hello_publisher": w.Hello(
            session=SESSION,
            protocol_min=1,
            protocol_max=1,
            role=w.ROLE_PUBLISHER,
            job="demo",
            run=RUN,
            fingerprint=w.Fingerprint(),
        ),
        "hello_monitor": w.Hello(
            session=SESSION,
            protocol_min=1,
            protocol_max=1,
            role=w.ROLE_MONITOR,
            fingerprint=w.Fingerprint(),
        ),
        "welcome": w.Welcome(
            session=SESSION,
            protocol=1,
            worker_incarnation=5,
            worker_name="w0",
            heartbeat_ms=1000,
            liveness_ms=5000,
            max_frame_bytes=256 << 20,
            max_batch_bytes=64 << 20,
            max_rows=65536,
            run=RUN,
            model_version=9,
            needs_artifact=True,
            artifact_upload=True,
            artifact_sha256="ab" * 32,
        ),
        "credit": w.Credit(session=SESSION, batches=10, bytes=640 << 20),
        "verdict": w.Verdict(**verdict),
        "verdict_unsifted": w.Verdict(**ids, decision=unsifted),
        "ack": w.Ack(session=SESSION, run=RUN, keys=keys((1, 2, 300), (1, 2, 301)), kept=[2, 0]),
        "settled": w.Settled(session=SESSION, run=RUN, keys=keys((1, 2, 300)), kept=[2]),
        "settled_scores": w.Settled(
            session=SESSION,
            run=RUN,
            keys=keys((1, 2, 300), (1, 2, 301), (1, 2, 302)),
            kept=[2, 0, 1],
            rows=[2, 0, 1],
            score=[0.5, 0.25, 2.0],
        ),
        "return": w.Return(session=SESSION, run=RUN, keys=keys((1, 2, 300)), reason=w.RETURN_DRAIN),
        "epoch_end": w.EpochEnd(
            **{"session": SESSION, "run": RUN, "loader": 1, "pass": 2},
            epoch=2,
            batches=301,
            final=True,
        ),
        "epoch_ack": w.EpochAck(**{"session": SESSION, "run": RUN, "loader": 1, "pass": 2}),
        "position_request": w.PositionRequest(session=SESSION, run=RUN, loader=1),
        "position": w.Position(
            session=SESSION,
            run=RUN,
            loader=1,
            decided=decided((1, 2, 0, 300), next_pass=(0, 2)),
            world=2,
            repeat=True,
        ),
        "model_begin": model_begin(),
        "model_begin_artifact": model_begin(
            kind=w.MODEL_KIND_ARTIFACT,
            version=0,
            manifest=[],
            total_bytes=1500,
            chunks=1,
            history=[],
        ),
        "model_commit": w.ModelCommit(session=SESSION, run=RUN, version=1),
        "model_ack": w.ModelAck(
            session=SESSION,
            run=RUN,
            version=1,
            state=w.MODEL_STATE_REFUSED,
            chunks=2,
            code=w.MODEL_CORRUPT,
            text="CRC-32 of chunk 1 differs",
        ),
        "status": w.Status(session=SESSION),
        "status_reply": status_reply(),
        "heartbeat": w.Heartbeat(session=SESSION, run=RUN, step=180, decided=12, oldest_lease_ms=50, history_rows=64),
        "drain": w.Drain(session=SESSION, reason="SIGTERM"),
        "goodbye": w.Goodbye(session=SESSION, reason=w.GOODBYE_DONE, run=RUN),
        "error": w.Error(
            session=SESSION,
            code=w.SUPERSEDED,
            text="loader 1 was replaced",
            hint="give each loader its own index",
            current=77,
            key=KEY,
            fatal=True,
        ),
    }
    chunk = bytes(range(32))
    two_rows = [floats(1.0, 2.0, 3.0, 4.0), b"\x01\x02"]
    two_descs = [desc("x", F32, [2, 2], 0), desc("mask", U8, [2], 1)]
    with_payload: dict[str, tuple[Any, list[bytes]]] = {
        "candidates_small": candidates_small(),
        "candidates_full": (
            w.Candidates(
                **ids,
                attempt=1,
                sample_id=[2**64 - 1, 5],
                occurrence=[0, 2],
                tensor=two_descs,
                prior_score=[float("nan"), 1.5],
                trainer_step=180,
                suspect=True,
                unscored=True,
                required_version=5,
            ),
            two_rows,
        ),
        "candidates_empty_tensor": (
            w.Candidates(**ids, sample_id=[1], tensor=[desc("boxes", F32, [1, 0, 4], 0)]),
            [b""],
        ),
        "selected": (w.Selected(**verdict, sample_id=[6, 8], tensor=two_descs), two_rows),
        "selected_no_rows": (w.Selected(**ids, decision=rejected), []),
        "model_chunk": (
            w.ModelChunk(session=SESSION, run=RUN, version=1, index=1, crc32=codec.crc32(chunk)),
            [chunk],
        ),
    }
    return {name: (message, []) for name, message in plain.items()} | with_payload


# Well formed, but not as siftd's encoders write them.
def lenient() -> dict[str, tuple[bytes, Any, list[bytes]]]:
    """Name -> header bytes, the message that they say, payload."""
    sparse = w.Hello(
        session=SESSION,
        protocol_min=1,
        protocol_max=2,
        role=w.ROLE_TRAINER,
        world=1,
        job_spec=w.JobSpec(mode=w.MODE_SAMPLES, policy=pol.Policy(loss_cdf=pol.LossCdfPolicy(keep=0.25))),
    )
    credit = w.Credit(session=SESSION, batches=1, bytes=2)
    unknown = credit.SerializeToString() + bytes.fromhex("c23e03616263")  # field 1000: "abc"
    swapped = w.Candidates(
        session=SESSION,
        key=KEY,
        sample_id=[1, 2],
        tensor=[desc("mask", U8, [2], 1), desc("x", F32, [2, 2], 0)],
    )
    # Field 6 with wire type 1 twice: sample_id not packed, which every protobuf parser takes.
    unpacked = bytes.fromhex("310100000000000000310200000000000000")
    bare = w.Candidates(session=SESSION)
    return {
        "hello_unset_options": (sparse.SerializeToString(), sparse, []),
        "credit_unknown_field": (unknown, credit, []),
        "candidates_frames_swapped": (
            swapped.SerializeToString(),
            swapped,
            [floats(1.0, 2.0, 3.0, 4.0), b"\x01\x02"],
        ),
        "candidates_ids_unpacked": (
            bare.SerializeToString() + unpacked,
            w.Candidates(session=SESSION, sample_id=[1, 2]),
            [],
        ),
    }
