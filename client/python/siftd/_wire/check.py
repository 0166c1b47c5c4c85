# SPDX-License-Identifier: Apache-2.0
"""What a decoded header must fulfil before it is believed: pipeline/wire's rules and texts.

One function per message that has rules of its own, found by the message's name. Each raises
WireError with the field, its value and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from operator import lt
from typing import Any

from siftd._wire.limits import LIMITS, WireError
from siftd.v1 import wire_pb2

_ITEM_BYTES = (0, 1, 1, 1, 2, 4, 8, 2, 2, 4, 8)  # by DType
_LAST_ERROR_CODE = max(wire_pb2.ErrorCode.values())


def check(name: str, message: Any, payload: Sequence[memoryview]) -> None:
    """Raises WireError unless `message` and its payload frames fit together."""
    if name == "ModelChunk":
        if len(payload) != 1:
            raise WireError("payload frames", len(payload), "exactly 1")
        if not 1 <= payload[0].nbytes <= LIMITS.max_chunk_bytes:
            raise WireError("chunk's bytes", payload[0].nbytes, f"1 to {LIMITS.max_chunk_bytes}")
        return
    if payload and name not in ("Candidates", "Selected"):
        raise WireError("payload frames", len(payload), "0")
    rule = _RULES.get(name)
    if rule is not None:
        rule(message, payload)


def _most(field: str, value: int, most: int) -> None:
    if value > most:
        raise WireError(field, value, f"at most {most}")


def _loader(field: str, loader: int) -> None:
    """Whoever gets an index may make a table of that size."""
    if loader >= LIMITS.loaders:
        raise WireError(field, loader, f"below {LIMITS.loaders}")


def _loaders(field: str, loaders: Sequence[int]) -> None:
    if max(loaders, default=0) >= LIMITS.loaders:
        i = next(i for i, loader in enumerate(loaders) if loader >= LIMITS.loaders)
        _loader(f"{field}[{i}]", loaders[i])


def _key(key: Any) -> None:
    _loader("key.loader", key.loader)
    if key.seq == 2**64 - 1:
        raise WireError("key.seq", key.seq, "below 2^64 - 1")  # an interval can't end behind it


def _text(field: str, text: str, most: int) -> None:
    size = len(text.encode())
    if size > most:
        raise WireError(field, f"{size} bytes long", f"at most {most}")


def _enum(field: str, value: int, first: int, last: int, name: str) -> None:
    if not first <= value <= last:
        raise WireError(field, value, f"{first} to {last} (enum {name})")


def _length(field: str, value: int, full: int) -> None:
    if value not in (0, full):
        raise WireError(field, value, f"0 or {full}")


def _spec(field: str, spec: Any) -> None:
    _text(f"{field}.name", spec.name, LIMITS.name_bytes)
    _most(f"{field}.shape's length", len(spec.shape), LIMITS.rank)
    _enum(f"{field}.dtype", spec.dtype, 1, len(_ITEM_BYTES) - 1, "DType")


def _unique(field: str, specs: Sequence[Any]) -> None:
    seen: set[str] = set()
    for i, spec in enumerate(specs):
        if spec.name in seen:
            raise WireError(f"{field}[{i}].name", f"'{spec.name}' again", "each name once")
        seen.add(spec.name)


def _bytes(field: str, desc: Any) -> int:
    sizes = tuple(desc.shape)
    product = math.prod(size for size in sizes if size) * _ITEM_BYTES[desc.dtype]
    if any(size < 0 for size in sizes) or product >= 1 << 64:
        raise WireError(f"{field}.shape", list(sizes), "sizes of 0 or more, below 2^64 bytes in all")
    return 0 if 0 in sizes else product


def _tensors(descs: Sequence[Any], payload: Sequence[memoryview], rows: int) -> None:
    _most("tensor's length", len(descs), LIMITS.tensors)
    if len(payload) != len(descs):
        raise WireError("payload frames", len(payload), f"one for each tensor, {len(descs)}")
    if _surely_sound(descs, payload, rows):
        return
    used: set[int] = set()
    for i, desc in enumerate(descs):
        field = f"tensor[{i}]"
        _spec(field, desc)
        if desc.frame >= len(payload) or desc.frame in used:
            raise WireError(f"{field}.frame", desc.frame, f"each of 0 to {len(payload) - 1} once")
        used.add(desc.frame)
        need, have = _bytes(field, desc), payload[desc.frame].nbytes
        if need != have:
            raise WireError(f"{field}'s frame", f"{have} bytes long", f"what its shape says, {need}")
        if not desc.shape or desc.shape[0] != rows:
            first = desc.shape[0] if desc.shape else "missing"
            raise WireError(f"{field}.shape[0]", first, f"the number of rows, {rows}")
    _unique("tensor", descs)


def _surely_sound(descs: Sequence[Any], payload: Sequence[memoryview], rows: int) -> bool:
    """True: the usual case, each tensor in its own frame, in order. False says nothing yet."""
    names = set()
    for i, desc in enumerate(descs):
        name, dtype, shape = desc.name, desc.dtype, desc.shape[:]
        if (
            desc.frame != i
            or 4 * len(name) > LIMITS.name_bytes
            or not 1 <= dtype < len(_ITEM_BYTES)
            or not 1 <= len(shape) <= LIMITS.rank
            or shape[0] != rows
            or min(shape) < 1
            or math.prod(shape) * _ITEM_BYTES[dtype] != payload[i].nbytes
        ):
            return False
        names.add(name)
    return len(names) == len(descs)


def _policy(policy: Any) -> None:
    _text("policy.column", policy.column, LIMITS.name_bytes)
    _enum("policy.non_finite", policy.non_finite, 0, 2, "NonFinite")


def _hello(m: Any, _: Sequence[memoryview]) -> None:
    _enum("role", m.role, 1, 4, "Role")
    _text("job", m.job, LIMITS.job_bytes)
    _text("name", m.name, LIMITS.name_bytes)
    if m.session.counter == 0:
        raise WireError("session.counter", 0, "1 or more")
    _most("session.incarnation", m.session.incarnation, LIMITS.incarnation)
    _most("run", m.run, LIMITS.incarnation)
    _most("world", m.world, LIMITS.loaders)
    if m.role == wire_pb2.ROLE_TRAINER and m.rank >= m.world:
        raise WireError("rank", m.rank, f"below world = {m.world}")
    if m.HasField("job_spec"):
        spec = m.job_spec
        _enum("job_spec.mode", spec.mode, 1, 2, "Mode")
        _text("job_spec.artifact_sha256", spec.artifact_sha256, 64)
        _policy(spec.policy)
    _decided(m.decided)
    _most("loader_count", m.loader_count, LIMITS.loaders)
    if m.role == wire_pb2.ROLE_LOADER and m.loader_index >= m.loader_count:
        raise WireError("loader_index", m.loader_index, f"below loader_count = {m.loader_count}")
    _most("signature's length", len(m.signature), LIMITS.tensors)
    for i, spec in enumerate(m.signature):
        _spec(f"signature[{i}]", spec)
        for size in spec.shape:
            if size < -1:
                raise WireError(f"signature[{i}].shape", size, ">= -1")
    _unique("signature", m.signature)


def _welcome(m: Any, _: Sequence[memoryview]) -> None:
    _text("worker_name", m.worker_name, LIMITS.name_bytes)
    _text("artifact_sha256", m.artifact_sha256, 64)


def _candidates(m: Any, payload: Sequence[memoryview]) -> None:
    rows = len(m.sample_id)
    if not 1 <= rows <= LIMITS.rows:
        raise WireError("sample_id's length", rows, f"1 to {LIMITS.rows}")
    _length("occurrence's length", len(m.occurrence), rows)
    _length("prior_score's length", len(m.prior_score), rows)
    _key(m.key)
    _tensors(m.tensor, payload, rows)


def _decision(d: Any) -> int:
    """The number of kept rows."""
    _enum("decision.outcome", d.outcome, 1, 3, "Outcome")
    _enum("decision.code", d.code, 0, _LAST_ERROR_CODE, "ErrorCode")
    _text("decision.text", d.text, LIMITS.text_bytes)
    _text("decision.column", d.column, LIMITS.name_bytes)
    rows, kept = d.rows, d.kept[:]
    count = len(kept)
    _most("decision.rows", rows, LIMITS.rows)
    _most("decision.kept's length", count, rows)
    if count and not (kept[-1] < rows and all(map(lt, kept, islice(kept, 1, None)))):
        i = next(i for i, row in enumerate(kept) if row >= rows or (i > 0 and row <= kept[i - 1]))
        raise WireError(f"decision.kept[{i}]", kept[i], f"ascending, below rows = {rows}")
    if d.outcome != wire_pb2.OUTCOME_DECIDED:
        full = rows if d.outcome == wire_pb2.OUTCOME_UNSIFTED else 0
        if count != full:
            raise WireError("decision.kept's length", count, f"{full} with this outcome")
    _length("decision.score's length", len(d.score), rows)
    _length("decision.keep_probability's length", len(d.keep_probability), rows)
    _length("decision.percentile's length", len(d.percentile), rows)
    _length("decision.weight's length", len(d.weight), count)
    return count


def _selected(m: Any, payload: Sequence[memoryview]) -> None:
    kept = _decision(m.decision)
    if len(m.sample_id) != kept:
        raise WireError("sample_id's length", len(m.sample_id), f"the number of kept rows, {kept}")
    _key(m.key)
    _tensors(m.tensor, payload, kept)


def _verdict(m: Any, _: Sequence[memoryview]) -> None:
    _decision(m.decision)
    _key(m.key)


def _keys(keys: Any) -> int:
    sizes = [len(keys.loader), len(getattr(keys, "pass")), len(keys.seq)]
    _most("keys' length", sizes[0], LIMITS.keys)
    if len(set(sizes)) != 1:
        raise WireError("keys' arrays", " and ".join(map(str, sizes)) + " long", "equal lengths")
    _loaders("keys.loader", keys.loader)
    return sizes[0]


def _kept_per_key(m: Any, _: Sequence[memoryview]) -> None:
    keys = _keys(m.keys)
    if len(m.kept) != keys:
        raise WireError("kept's length", len(m.kept), f"the number of keys, {keys}")


def _settled(m: Any, payload: Sequence[memoryview]) -> None:
    _kept_per_key(m, payload)
    keys, scores = len(m.keys.loader), len(m.score)
    if len(m.rows) not in (0, keys):
        raise WireError("rows' length", len(m.rows), f"0 or the number of keys, {keys}")
    _most("score's length", scores, LIMITS.rows)
    if sum(m.rows) != scores:
        raise WireError("score's length", scores, f"the sum of rows, {sum(m.rows)}")


def _return(m: Any, _: Sequence[memoryview]) -> None:
    _enum("reason", m.reason, 1, 4, "ReturnReason")
    _keys(m.keys)


def _decided(d: Any) -> None:
    columns = d.loader, getattr(d, "pass"), d.begin, d.end
    sizes = [len(column) for column in columns]
    _most("decided.loader's length", sizes[0], LIMITS.intervals)
    _most("decided.next_pass's length", len(d.next_pass), LIMITS.loaders)
    if len(set(sizes)) != 1:
        raise WireError("decided's arrays", " and ".join(map(str, sizes)) + " long", "equal lengths")
    _loaders("decided.loader", d.loader)
    before = (-1, 0, 0)
    for i, (loader, pass_, begin, end) in enumerate(zip(*columns, strict=True)):
        if begin >= end or (loader, pass_, begin) < before:
            raise WireError(
                f"decided[{i}]",
                f"({loader}, {pass_}, {begin}, {end})",
                "ascending, disjoint, not empty",
            )
        before = (loader, pass_, end)


def _of_loader(m: Any, _: Sequence[memoryview]) -> None:
    _loader("loader", m.loader)


def _position(m: Any, _: Sequence[memoryview]) -> None:
    _loader("loader", m.loader)
    _most("world", m.world, LIMITS.loaders)
    _decided(m.decided)


def _model_begin(m: Any, _: Sequence[memoryview]) -> None:
    _enum("kind", m.kind, 1, 3, "ModelKind")
    if not LIMITS.min_chunk_bytes <= m.chunk_bytes <= LIMITS.max_chunk_bytes:
        allowed = f"{LIMITS.min_chunk_bytes} to {LIMITS.max_chunk_bytes}"
        raise WireError("chunk_bytes", m.chunk_bytes, allowed)
    if m.total_bytes == 0:
        raise WireError("total_bytes", 0, "1 or more")
    chunks = (m.total_bytes - 1) // m.chunk_bytes + 1
    if m.chunks != chunks:
        raise WireError("chunks", m.chunks, f"total_bytes / chunk_bytes rounded up, {chunks}")
    if len(m.sha256) != 32:
        raise WireError("sha256's length", len(m.sha256), "32")
    artifact = m.kind == wire_pb2.MODEL_KIND_ARTIFACT
    if artifact != (m.version == 0):
        raise WireError("version", m.version, "0 for an artifact, else 1 or more")
    if artifact and m.manifest:
        raise WireError("manifest's length", len(m.manifest), "0 for an artifact")
    _most("manifest's length", len(m.manifest), LIMITS.state_entries)
    _most("history's length", len(m.history), LIMITS.history)
    total = 0
    for i, desc in enumerate(m.manifest):
        _spec(f"manifest[{i}]", desc)
        total += _bytes(f"manifest[{i}]", desc)
    _unique("manifest", m.manifest)
    if not artifact and total != m.total_bytes:
        raise WireError("total_bytes", m.total_bytes, f"the manifest's sum, {total}")


def _model_ack(m: Any, _: Sequence[memoryview]) -> None:
    _enum("state", m.state, 1, 3, "ModelState")
    _enum("code", m.code, 0, _LAST_ERROR_CODE, "ErrorCode")
    _text("text", m.text, LIMITS.text_bytes)


def _drain(m: Any, _: Sequence[memoryview]) -> None:
    _text("reason", m.reason, LIMITS.text_bytes)


def _goodbye(m: Any, _: Sequence[memoryview]) -> None:
    _enum("reason", m.reason, 1, 2, "GoodbyeReason")


def _error(m: Any, _: Sequence[memoryview]) -> None:
    _text("text", m.text, LIMITS.text_bytes)
    _text("hint", m.hint, LIMITS.text_bytes)
    _key(m.key)
    _enum("code", m.code, 0, _LAST_ERROR_CODE, "ErrorCode")


_RULES: dict[str, Callable[[Any, Sequence[memoryview]], None]] = {
    "Hello": _hello,
    "Welcome": _welcome,
    "Candidates": _candidates,
    "Selected": _selected,
    "Verdict": _verdict,
    "Ack": _kept_per_key,
    "Settled": _settled,
    "Return": _return,
    "EpochEnd": _of_loader,
    "EpochAck": _of_loader,
    "PositionRequest": _of_loader,
    "Position": _position,
    "ModelBegin": _model_begin,
    "ModelAck": _model_ack,
    "Drain": _drain,
    "Goodbye": _goodbye,
    "Error": _error,
}
