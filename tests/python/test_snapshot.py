# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import zlib

import pytest
import torch
from torch import nn

import siftd
from siftd._snapshot import CHUNK_BYTES, Snapshotter
from siftd.errors import ConfigError
from support import toy_model

X, Y = torch.randn(8, 8), torch.arange(8) % 5


def snapshotter(model: nn.Module) -> Snapshotter:
    return Snapshotter(siftd.export_scorer(model, "cross_entropy", (X, Y)).state)


def test_the_bytes_are_the_entries_back_to_back() -> None:
    model = toy_model()
    snapshot = snapshotter(model).take(model, run=5, version=3, step=40)
    begin = snapshot.begin
    assert (begin.run, begin.version, begin.step) == (5, 3, 40)
    state, at = model.state_dict(), 0
    for entry in begin.manifest:
        raw = state[entry.name].contiguous().numpy().tobytes()
        assert bytes(snapshot.data[at : at + len(raw)]) == raw, entry.name
        at += len(raw)
    assert at == begin.total_bytes


def test_training_may_go_on_while_it_is_sent() -> None:
    model = toy_model()
    taker = snapshotter(model)
    first = taker.take(model, 1, 1, 0)
    before = bytes(first.data)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    second = taker.take(model, 1, 2, 1)
    assert bytes(first.data) == before
    assert bytes(second.data) != before


def test_a_buffer_is_used_again_once_its_snapshot_is_gone() -> None:
    model = toy_model()
    taker = snapshotter(model)
    first = taker.take(model, 1, 1, 0)
    address = first.data.ctypes.data
    chunk = first.chunk(0)  # what is still being sent holds it, too
    del first
    assert taker.take(model, 1, 2, 1).data.ctypes.data != address
    del chunk
    assert taker.take(model, 1, 3, 2).data.ctypes.data == address
    assert len(taker._pool) == 2


def test_digest_and_checksums_are_of_the_bytes() -> None:
    model = nn.Sequential(nn.Linear(8, 200_000), nn.Linear(200_000, 5))
    snapshot = snapshotter(model).take(model, 1, 1, 0)
    snapshot.seal()
    data = bytes(snapshot.data)
    assert snapshot.begin.chunks == len(snapshot.crc32) == -(-len(data) // CHUNK_BYTES) > 1
    assert snapshot.begin.sha256 == hashlib.sha256(data).digest()
    for i, crc in enumerate(snapshot.crc32):
        assert crc == zlib.crc32(data[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES]) == zlib.crc32(snapshot.chunk(i))


def test_a_model_that_is_not_the_exported_one_is_refused_by_name() -> None:
    taker = snapshotter(toy_model())
    with pytest.raises(ConfigError, match="model's '1.num_batches_tracked' is 'nothing'"):
        taker.take(nn.Sequential(nn.Linear(3, 3)), 1, 1, 0)
