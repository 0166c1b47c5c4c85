# SPDX-License-Identifier: Apache-2.0
"""Short ways to write messages and the parts that many of them have."""

from __future__ import annotations

import struct
from typing import Any

from siftd._wire import codec
from siftd._wire.codec import artifact_pb2 as a
from siftd._wire.codec import policy_pb2 as pol
from siftd._wire.codec import wire_pb2 as w

SESSION = w.Session(incarnation=0x0123456789ABCDEF, counter=3)
RUN = 0x1122334455667788
KEY = w.Key(**{"loader": 1, "pass": 2, "seq": 300})
F32, I64, U8, BF16 = a.DTYPE_FLOAT32, a.DTYPE_INT64, a.DTYPE_UINT8, a.DTYPE_BFLOAT16


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def longs(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def desc(name: str, dtype: int, shape: list[int], frame: int) -> Any:
    return w.TensorDesc(name=name, dtype=dtype, shape=shape, frame=frame)


def keys(*triples: tuple[int, int, int]) -> Any:
    loader, pass_, seq = zip(*triples, strict=True)
    return w.Keys(**{"loader": loader, "pass": pass_, "seq": seq})


def decided(*rows: tuple[int, int, int, int], next_pass: tuple[int, ...] = ()) -> Any:
    loader, pass_, begin, end = zip(*rows, strict=True) if rows else ((), (), (), ())
    columns = {"loader": loader, "pass": pass_, "begin": begin, "end": end}
    return w.Decided(**columns, next_pass=next_pass)


def job_spec(policy: Any, **more: Any) -> Any:
    return w.JobSpec(mode=w.MODE_SAMPLES, policy=policy, seed=42, **more)


def full_policy(**kind: Any) -> Any:
    """A policy with every field written out, as siftd's own encoders write it."""
    modifiers = pol.Modifiers(
        sift_delay=10, repeat_delay_per_epoch=True, start=0.0, end=1.0, interrupt=5
    )
    return pol.Policy(**kind, modifiers=modifiers, column="loss", non_finite=pol.NON_FINITE_DROP)


def hello_loader() -> Any:
    return w.Hello(
        session=w.Session(incarnation=1000, counter=1),
        protocol_min=1,
        protocol_max=1,
        role=w.ROLE_LOADER,
        job="demo",
        name="node-0",
        loader_count=1,
        fingerprint=w.Fingerprint(data_size=4, batch_size=2, seed=7),
    )


def candidates_small() -> tuple[Any, list[bytes]]:
    message = w.Candidates(
        session=w.Session(incarnation=1000, counter=1),
        run=2000,
        key=w.Key(),
        sample_id=[10, 11],
        tensor=[desc("x", F32, [2, 2], 0), desc("y", I64, [2], 1)],
    )
    return message, [floats(0.0, 1.0, -1.0, 0.5), longs(3, 7)]


def decision(**more: Any) -> Any:
    return w.Decision(
        outcome=w.OUTCOME_DECIDED,
        rows=4,
        kept=[1, 3],
        score=[0.25, 2.5, float("nan"), 1.0],
        keep_probability=[0.125, 1.0, 0.0, 0.5],
        weight=[1.0, 2.0],
        percentile=[0.0, 1.0, 1.0, 0.5],
        column="loss",
        model_version=9,
        model_step=180,
        score_seconds=0.25,
        **more,
    )


def model_begin(**more: Any) -> Any:
    manifest = [desc("weight", F32, [64, 16], 0), desc("bias", BF16, [16], 0)]
    fields: dict[str, Any] = {
        "session": SESSION,
        "run": RUN,
        "version": 1,
        "step": 20,
        "kind": w.MODEL_KIND_FULL,
        "manifest": manifest,
        "total_bytes": 4096 + 32,
        "chunk_bytes": 4096,
        "chunks": 2,
        "sha256": codec.sha256(bytes(4128)),
        "history": [0.5, 1.5],
    }
    return w.ModelBegin(**{**fields, **more})


def status_reply() -> Any:
    return w.StatusReply(
        session=SESSION,
        worker_name="w0",
        version="0.1.0",
        worker_incarnation=5,
        job="demo",
        run=RUN,
        mode=w.MODE_SAMPLES,
        policy="confidence",
        device="cpu",
        ready=True,
        draining=True,
        not_ready_reason="draining: SIGTERM",
        uptime_seconds=12.5,
        model_version=9,
        model_step=180,
        model_age_seconds=1.5,
        trainer_step=190,
        candidates=1024,
        kept=256,
        dropped=768,
        unsifted=32,
        rejected_batches=1,
        decided_batches=16,
        rows_per_second=85.25,
        held_batches=2,
        held_bytes=4096,
        budget_bytes=1 << 29,
        non_finite_rows=3,
        model_refused=1,
        duplicates=4,
        scored=512,
        stage=[
            w.StageStatus(stage="score", batches=4, busy_seconds=0.5, wait_seconds=0.25, queued=1)
        ],
        peer=[
            w.PeerStatus(
                role=w.ROLE_LOADER,
                name="node-0",
                index=1,
                session_counter=3,
                credit_batches=6,
                silent_seconds=0.125,
            )
        ],
        errors={"BAD_TENSOR": 2},
    )
