# SPDX-License-Identifier: Apache-2.0
"""PythonScorer, and the child's end of the socket against a worker that says what it may not say."""

from __future__ import annotations

import pickle
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import scorer_factories
import siftd
from siftd._scorer.link import Link, LinkError, Score, Update
from siftd.python_scorer import FROM_FILE, SCORER_FILE, PythonScorer, load_factory
from siftd.v1 import artifact_pb2

FACTORY = "scorer_factories:routed"


def test_it_says_of_itself_what_a_scorer_does() -> None:
    scorer = PythonScorer.from_factory(FACTORY)
    assert scorer.columns == ("loss", "confidence", "grad_norm")
    assert scorer.sees_logits
    assert scorer.fields == ("0", "1")
    assert (scorer.archive, scorer.pickled, scorer.factory) == (b"", b"", FACTORY)
    names = [e.name for e in scorer.state]
    assert {"experts.0.weight", "norm.running_mean", "norm.num_batches_tracked"} <= set(names)
    assert "frequencies" not in names, "complex numbers can't travel"
    sizes = [torch.empty(0, dtype=torch.int64 if e.dtype == artifact_pb2.DTYPE_INT64 else torch.float32).itemsize
             for e in scorer.state]  # fmt: skip
    assert sizes == sorted(sizes, reverse=True)


def test_the_digest_is_of_form_not_of_weights_or_code() -> None:
    scorer = PythonScorer.from_factory(FACTORY)
    assert scorer.sha256 == PythonScorer.from_factory(FACTORY).sha256
    others = [PythonScorer.from_factory(f"scorer_factories:{f}").sha256 for f in ("routed_as_dict", "another")]
    assert len({scorer.sha256, *others}) == 3
    batch = scorer_factories.example()
    one = PythonScorer.from_objects(scorer_factories.routed_model(1), "cross_entropy", batch)
    two = PythonScorer.from_objects(scorer_factories.routed_model(2), "cross_entropy", batch)
    wide = PythonScorer.from_objects(scorer_factories.Routed(classes=6), "cross_entropy", batch)
    assert one.sha256 == two.sha256 != wide.sha256


def test_from_factory_leaves_its_model_and_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    PythonScorer.from_factory(FACTORY)
    assert torch.equal(torch.random.get_rng_state(), before)
    PythonScorer.from_factory("scorer_factories:shared")
    assert scorer_factories.SHARED.training and scorer_factories.SHARED.weight.requires_grad


def test_from_objects_leaves_the_model_alone_and_pickles_a_copy() -> None:
    model = scorer_factories.routed_model().train()
    batch = scorer_factories.example()
    before = torch.random.get_rng_state()
    scorer = PythonScorer.from_objects(model, nn.CrossEntropyLoss(), batch)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.training and all(p.requires_grad for p in model.parameters())
    stored = pickle.loads(scorer.pickled)
    assert stored["model"] is not model
    assert torch.equal(stored["model"].experts[0].weight, model.experts[0].weight)
    assert scorer.factory == FROM_FILE
    assert scorer.described().pickled == b""
    assert scorer.described().sha256 == scorer.sha256


def test_a_batch_loss_travels_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])  # closed over

    def losses(model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(model(x), y, weight=weights, reduction="none")

    model, (x, y) = scorer_factories.routed_model(), scorer_factories.example()
    scorer = PythonScorer.from_objects(model, siftd.BatchLoss(losses), (x, y))
    file = tmp_path / "scorer.pkl"
    file.write_bytes(scorer.pickled)
    monkeypatch.setenv(SCORER_FILE, str(file))
    loaded = load_factory(FROM_FILE)
    loaded.module.eval()
    assert loaded.sha256 == scorer.sha256
    assert scorer.columns == ("loss",)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(x, y)[0], losses(model.eval(), (x, y)))


def test_what_can_not_be_pickled_is_named() -> None:
    model = nn.Linear(8, 5)
    lock = socket.socket()
    with pytest.raises(siftd.ExportError, match=r"can't be pickled.*from_factory"):
        PythonScorer.from_objects(model, lambda out, y: (lock, out[:, 0])[1], scorer_factories.example())
    lock.close()


def test_without_cloudpickle_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(siftd.ConfigError, match="pip install cloudpickle"):
        PythonScorer.from_objects(nn.Linear(8, 5), "cross_entropy", scorer_factories.example())


def test_a_parameter_that_can_not_be_published_is_refused() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(8, 5, dtype=torch.complex64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.to(torch.complex64) @ self.w).real

    with pytest.raises(siftd.ExportError, match=r"'w' is torch.complex64"):
        PythonScorer.from_objects(Complex(), "cross_entropy", scorer_factories.example())


@pytest.mark.parametrize("factory", ["", "m", "m:", ":f", "scorer_factories:nothing", "nowhere:f"])
def test_a_factory_that_is_none_is_refused(factory: str) -> None:
    with pytest.raises(siftd.ConfigError, match="factory is"):
        PythonScorer.from_factory(factory)


# ------------------------------------------------------------------ the link
HEADER, UPDATE, SCORE = "<4sIQ", 2, 3


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Link, Any]]:
    """The worker's end, and a link that has told its manifest."""
    worker, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    loaded = load_factory("scorer_factories:another")  # weight [5, 8], bias [5]; inputs float32 [n, 8], int64 [n]
    link = Link(child)
    link.ready(loaded.sha256, loaded.manifest)
    with worker, child:
        magic, kind, size = struct.unpack(HEADER, worker.recv(16, socket.MSG_WAITALL))
        body = worker.recv(size, socket.MSG_WAITALL)
        assert (magic, kind, body[:64].decode()) == (b"SFPC", 1, loaded.sha256)
        assert artifact_pb2.ArtifactManifest.FromString(body[64:]) == loaded.manifest
        yield worker, link, loaded.manifest


def message(kind: int, body: bytes, *, magic: bytes = b"SFPC", size: int | None = None) -> bytes:
    return struct.pack(HEADER, magic, kind, len(body) if size is None else size) + body


def update(entries: list[tuple[int, int]], payload: bytes, count: int | None = None) -> bytes:
    head = struct.pack("<QQQQ", 7, 3, 30, len(entries) if count is None else count)
    return head + b"".join(struct.pack("<QQ", *e) for e in entries) + payload


def entry(dtype: int, shape: list[int], size: int, rank: int | None = None) -> bytes:
    return struct.pack("<IIQ16q", dtype, len(shape) if rank is None else rank, size, *shape, *[0] * (16 - len(shape)))


def score(rows: int, entries: list[bytes], payload: bytes, count: int | None = None) -> bytes:
    return struct.pack("<QQ", rows, len(entries) if count is None else count) + b"".join(entries) + payload


X = entry(artifact_pb2.DTYPE_FLOAT32, [2, 8], 64)
Y = entry(artifact_pb2.DTYPE_INT64, [2], 16)


def test_requests_arrive_as_they_were_sent(ends: tuple[socket.socket, Link, Any]) -> None:
    worker, link, _ = ends
    bias = torch.arange(5.0)
    worker.sendall(message(UPDATE, update([(1, 20)], bias.numpy().tobytes())))
    got = link.receive()
    assert isinstance(got, Update)
    assert (got.run, got.version, got.step, list(got.tensors)) == (7, 3, 30, [1])
    assert torch.equal(got.tensors[1], bias)
    x, y = torch.rand(2, 8), torch.tensor([3, 4])
    worker.sendall(message(SCORE, score(2, [X, Y], x.numpy().tobytes() + y.numpy().tobytes())))
    asked = link.receive()
    assert isinstance(asked, Score)
    assert torch.equal(asked.fields[0], x) and torch.equal(asked.fields[1], y)
    worker.close()
    assert link.receive() is None


@pytest.mark.parametrize(
    "sent",
    [
        message(SCORE, score(2, [X, Y], bytes(80)), magic=b"HTTP"),
        message(1, bytes(64)),
        message(99, b""),
        message(UPDATE, update([], b"", count=1 << 40)),
        message(UPDATE, update([(2, 20)], bytes(20))),  # no such entry
        message(UPDATE, update([(1, 1 << 50)], b"")),  # not its size
        message(UPDATE, update([(1, 20), (1, 20)], bytes(40))),
        message(UPDATE, update([(1, 20)], bytes(20)), size=1 << 50),
        message(SCORE, score(2, [X], bytes(64))),
        message(SCORE, score(2, [], b"", count=1 << 40)),
        message(SCORE, score(3, [X, Y], bytes(80))),  # rows
        message(SCORE, score(2, [entry(9, [2, 1 << 40], 64), Y], bytes(80))),
        message(SCORE, score(2, [entry(9, [2, -8], 64), Y], bytes(80))),
        message(SCORE, score(2, [entry(77, [2, 8], 64), Y], bytes(80))),
        message(SCORE, score(2, [entry(9, [2, 8], 64, rank=17), Y], bytes(80))),
        message(SCORE, score(2, [entry(9, [], 64), Y], bytes(80))),
        message(SCORE, score(2, [X, Y], bytes(80)), size=81),
        message(SCORE, score(2, [X, Y], bytes(70)), size=16 + 288 + 80),  # ends in the middle
        b"SFPC",
    ],
    ids=lambda sent: f"{len(sent)}-{sent[4:8].hex()}",
)
def test_a_message_that_is_none_is_refused(ends: tuple[socket.socket, Link, Any], sent: bytes) -> None:
    worker, link, _ = ends
    worker.sendall(sent)
    worker.shutdown(socket.SHUT_WR)
    with pytest.raises(LinkError):
        link.receive()


def test_a_worker_that_is_gone_is_told(ends: tuple[socket.socket, Link, Any]) -> None:
    worker, link, _ = ends
    worker.close()
    with pytest.raises(LinkError, match="the worker is gone"):
        for _ in range(2):
            link.ok()


def test_an_errors_text_is_cut_to_what_the_worker_takes(ends: tuple[socket.socket, Link, Any]) -> None:
    worker, link, _ = ends
    link.error("é" * 70000)
    _, kind, size = struct.unpack(HEADER, worker.recv(16, socket.MSG_WAITALL))
    assert (kind, size) == (6, 64 << 10)
