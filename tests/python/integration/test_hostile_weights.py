# SPDX-License-Identifier: Apache-2.0
"""The same of weights: a version's begin, its chunks, its digest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from hostile_site import LAST32, LAST64, Site, changed, of, publisher, tensor
from raw_peers import F32, RawPeer
from siftd._weights.snapshotter import Snapshotter
from siftd._wire import codec
from siftd._wire.codec import wire_pb2
from support import toy_model

# ------------------------------------------------------------ weights


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
