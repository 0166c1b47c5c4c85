# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import weakref
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from siftd._weights.snapshot import CHUNK_BYTES, Snapshot, compose, entry_bytes, model_begin
from siftd._weights.snapshotter import Snapshotter
from siftd._wire.codec import wire_pb2
from siftd._wire.tensor import dtype_number
from siftd.errors import ConfigError
from siftd.v1 import artifact_pb2
from support import toy_model

FULL, DELTA = wire_pb2.MODEL_KIND_FULL, wire_pb2.MODEL_KIND_DELTA
X, Y = torch.randn(8, 8), torch.arange(8) % 5


def state_of(model: nn.Module) -> list[Any]:
    """Everything of a model, wide types first, as the exporter lists it."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    wide_first = sorted(state.items(), key=lambda item: -item[1].dtype.itemsize)
    return [artifact_pb2.StateEntry(name=n, dtype=dtype_number(t), shape=t.shape) for n, t in wide_first]


def snapshotter(model: nn.Module) -> Snapshotter:
    return Snapshotter(state_of(model))


def whole(snapshot: Snapshot) -> bytes:
    return b"".join(bytes(snapshot.chunk(i)) for i in range(snapshot.begin.chunks))


def tensors(snapshot: Snapshot) -> dict[str, bytes]:
    """The bytes of each entry."""
    data, at, found = whole(snapshot), 0, {}
    for desc in snapshot.begin.manifest:
        found[desc.name] = data[at : at + entry_bytes(desc)]
        at += entry_bytes(desc)
    assert at == len(data) == snapshot.begin.total_bytes
    return found


def bytes_of(model: nn.Module) -> dict[str, bytes]:
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    return {n: t.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() for n, t in state.items()}


def frozen_trunk() -> nn.Sequential:
    model = toy_model()
    assert isinstance(model, nn.Sequential)
    model[0].requires_grad_(False)
    return model


TRAINED = {"1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked", "4.weight", "4.bias"}


def train(model: nn.Module) -> None:
    """Every parameter that requires grad changes, and the buffers."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    nn.functional.cross_entropy(model(X), Y).backward()
    optimizer.step()
    model.zero_grad()


def test_the_bytes_are_the_entries_back_to_back() -> None:
    model = toy_model()
    snapshot = snapshotter(model).take(model, run=5, version=3, step=40, history=[0.5])
    begin = snapshot.begin
    assert (begin.run, begin.version, begin.step, begin.kind, list(begin.history)) == (5, 3, 40, FULL, [0.5])
    assert tensors(snapshot) == bytes_of(model)


def test_training_may_go_on_while_it_is_sent() -> None:
    model = toy_model()
    taker = snapshotter(model)
    first = taker.take(model, 1, 1, 0)
    before = whole(first)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    second = taker.take(model, 1, 2, 1)
    assert whole(first) == before
    assert whole(second) != before


@pytest.mark.parametrize("make", [toy_model, frozen_trunk])
def test_a_buffer_is_used_again_once_its_snapshot_is_gone(make: Callable[[], nn.Module]) -> None:
    model = make()
    taker = snapshotter(model)
    base = taker.take(model, 1, 1, 0)
    first = taker.take(model, 1, 1, 0)
    address = first.pieces[0].ctypes.data
    chunk = first.chunk(0)  # what is still being sent holds it, too
    del first
    assert taker.take(model, 1, 2, 1).pieces[0].ctypes.data not in (address, base.pieces[0].ctypes.data)
    del chunk
    assert taker.take(model, 1, 3, 2).pieces[0].ctypes.data == address


def test_digest_and_checksums_are_of_the_bytes() -> None:
    model = nn.Sequential(nn.Linear(8, 200_000), nn.Linear(200_000, 5))
    snapshot = snapshotter(model).take(model, 1, 1, 0)
    calls = 1
    while not snapshot.seal(1):
        calls += 1
    data = whole(snapshot)
    assert snapshot.begin.chunks == calls == len(snapshot.crc32) == -(-len(data) // CHUNK_BYTES) > 1
    assert snapshot.begin.sha256 == hashlib.sha256(data).digest()
    for i, crc in enumerate(snapshot.crc32):
        assert crc == zlib.crc32(data[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES]) == zlib.crc32(snapshot.chunk(i))


def test_a_model_that_is_not_the_exported_one_is_refused_by_name() -> None:
    taker = snapshotter(toy_model())
    with pytest.raises(ConfigError, match="model's '1.num_batches_tracked' is 'nothing'"):
        taker.take(nn.Sequential(nn.Linear(3, 3)), 1, 1, 0)
    with pytest.raises(ConfigError, match=r"model's '0.weight' is \[16, 9\]; allowed: shape \[16, 8\]"):
        taker.take(toy_model(width=9), 1, 1, 0)


def test_a_refused_model_leaves_no_base_behind() -> None:
    model = frozen_trunk()
    taker = snapshotter(model)
    wrong = toy_model(width=9)
    wrong[0].requires_grad_(False)  # type: ignore[index]
    with pytest.raises(ConfigError):
        taker.take(wrong, 1, 1, 0)
    assert taker.take(model, 1, 1, 0).begin.kind == FULL


def test_an_interrupted_base_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = frozen_trunk()
    taker = snapshotter(model)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "cat", interrupt)
        taker.take(model, 1, 1, 0)
    assert taker.take(model, 1, 1, 0).begin.kind == FULL


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_every_version_is_full_when_everything_trains() -> None:
    model = toy_model()
    taker = snapshotter(model)
    for version in (1, 2, 3):
        snapshot = taker.take(model, 1, version, version)
        train(model)
        assert snapshot.begin.kind == FULL


def test_after_the_base_only_what_trains_and_buffers_is_taken() -> None:
    model = frozen_trunk()
    taker = snapshotter(model)
    base = taker.take(model, 1, 1, 0, history=[0.1])
    assert (base.begin.kind, tensors(base)) == (FULL, bytes_of(model))
    for version in (2, 3):
        train(model)
        delta = taker.take(model, 1, version, version, history=[0.2])
        assert (delta.begin.kind, list(delta.begin.history)) == (DELTA, [])
        assert tensors(delta) == {n: b for n, b in bytes_of(model).items() if n in TRAINED}


def test_base_and_delta_make_the_full_version() -> None:
    model = frozen_trunk()
    taker = snapshotter(model)
    base = taker.take(model, 1, 1, 0, history=[0.1])
    train(model)
    taker.take(model, 1, 2, 5)
    train(model)
    full = compose(base, taker.take(model, 1, 3, 9, history=[0.2]))
    assert tensors(full) == bytes_of(model)
    begin = full.begin
    assert (begin.kind, begin.run, begin.version, begin.step) == (FULL, 1, 3, 9)
    assert list(begin.history) == pytest.approx([0.2])
    assert [d.name for d in begin.manifest] == [d.name for d in base.begin.manifest]
    full.seal()
    assert begin.sha256 == hashlib.sha256(whole(full)).digest()
    assert full.crc32 == [zlib.crc32(full.chunk(i)) for i in range(begin.chunks)]


def test_chunks_reach_over_pieces() -> None:
    sizes = [3, CHUNK_BYTES - 3, CHUNK_BYTES, 7, 5, CHUNK_BYTES - 1]
    random = np.random.default_rng(0)
    pieces = [random.integers(0, 256, size, dtype=np.uint8) for size in sizes]
    snapshot = Snapshot(model_begin(FULL, 1, 1, 0, sum(sizes)), pieces)
    assert snapshot.begin.chunks == 4
    assert whole(snapshot) == b"".join(p.tobytes() for p in pieces)
    assert [len(snapshot.chunk(i)) for i in range(4)] == [CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, 11]
    snapshot.seal()
    assert snapshot.begin.sha256 == hashlib.sha256(whole(snapshot)).digest()


@pytest.mark.parametrize("change", ["unfreeze", "freeze more", "write", "load", "replace"])
def test_another_frozen_part_makes_a_new_base(change: str) -> None:
    model = frozen_trunk()
    taker = snapshotter(model)
    taker.take(model, 1, 1, 0)
    train(model)
    assert taker.take(model, 1, 2, 1).begin.kind == DELTA
    if change == "unfreeze":
        model[0].bias.requires_grad_(True)
    elif change == "freeze more":
        model[4].requires_grad_(False)
    elif change == "write":
        with torch.no_grad():
            model[0].weight.add_(1)
    elif change == "load":
        model.load_state_dict(toy_model(seed=3).state_dict())
    else:
        model[0].weight = nn.Parameter(torch.ones(16, 8), requires_grad=False)
    train(model)
    base = taker.take(model, 1, 3, 2)
    assert (base.begin.kind, tensors(base)) == (FULL, bytes_of(model))
    train(model)
    delta = taker.take(model, 1, 4, 3)
    assert delta.begin.kind == DELTA
    assert tensors(compose(base, delta)) == bytes_of(model)


def test_all_unfrozen_is_full_again() -> None:
    model = frozen_trunk()
    taker = snapshotter(model)
    for frozen, kinds in ((True, [FULL, DELTA]), (False, [FULL, FULL, FULL]), (True, [FULL, DELTA])):
        model[0].requires_grad_(not frozen)
        for kind in kinds:
            train(model)
            snapshot = taker.take(model, 1, 1, 0)
            assert snapshot.begin.kind == kind
            assert tensors(snapshot).items() <= bytes_of(model).items()


def test_a_model_that_is_all_frozen_is_sent_whole() -> None:
    model = nn.Linear(8, 5).requires_grad_(False)
    taker = snapshotter(model)
    for version in (1, 2):
        snapshot = taker.take(model, 1, version, 0)
        assert (snapshot.begin.kind, tensors(snapshot)) == (FULL, bytes_of(model))


def test_a_frozen_trunk_is_held_once() -> None:
    """The host's memory: one base, and two small buffers in turn."""
    model = frozen_trunk()
    taker = snapshotter(model)
    base = sent = taker.take(model, 1, 1, 0)
    addresses = set()
    for version in range(2, 8):
        sent = taker.take(model, 1, version, 0)  # the one before is being sent meanwhile
        addresses.add(sent.pieces[0].ctypes.data)
    assert len(addresses) == 2
    assert len(taker._whole._pool) == 1
    memory = weakref.ref(taker._whole._pool[0].flat)
    del base
    assert memory() is not None
    model[0].bias.requires_grad_(True)
    assert taker.take(model, 1, 9, 0).begin.kind == FULL
    assert memory() is None, "the old base's buffer is given back"


def test_bfloat16_beside_float32_is_exact() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 3, dtype=torch.bfloat16), nn.Linear(3, 5)
            self.register_buffer("scale", torch.full((3,), 0.5), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scaled: torch.Tensor = self.b(self.a(x.bfloat16()).float() * self.scale)
            return scaled

    model = Mixed()
    model.a.weight.requires_grad_(False)
    taker = snapshotter(model)
    base = taker.take(model, 1, 1, 0)
    train(model)
    model.scale.add_(1)
    delta = taker.take(model, 1, 2, 1)
    assert set(tensors(delta)) == {"a.bias", "b.weight", "b.bias", "scale"}
    assert tensors(compose(base, delta)) == bytes_of(model)


@pytest.mark.parametrize("wrap", ["compile", "compile a part", "data parallel"])
def test_names_are_those_of_the_model_inside(wrap: str) -> None:
    model = frozen_trunk()
    taker = snapshotter(model)
    expected = bytes_of(model)
    trainer: nn.Module = model
    if wrap == "compile":
        trainer = torch.compile(model, backend="eager")  # type: ignore[assignment]
    elif wrap == "compile a part":
        model[4] = torch.compile(model[4], backend="eager")  # type: ignore[assignment]
    else:
        trainer = nn.DataParallel(model)
    assert tensors(taker.take(trainer, 1, 1, 0)) == expected
    train(model)
    delta = taker.take(trainer, 1, 2, 1)
    assert (delta.begin.kind, set(tensors(delta))) == (DELTA, TRAINED)


def test_a_state_with_a_wrappers_names_keeps_them_on_the_wire() -> None:
    model = toy_model()
    state = state_of(model)
    for entry in state:
        if entry.name.startswith("4."):
            entry.name = entry.name.replace("4.", "4._orig_mod.")
    taken = tensors(Snapshotter(state).take(model, 1, 1, 0))
    assert taken["4._orig_mod.weight"] == bytes_of(model)["4.weight"]


@pytest.mark.parametrize("change", ["parameter", "module", "data", "buffer"])
def test_what_is_put_in_place_of_a_part_is_what_is_taken(change: str) -> None:
    model = toy_model()
    taker = snapshotter(model)
    taker.take(model, 1, 1, 0)
    assert tensors(taker.take(model, 1, 2, 1)) == bytes_of(model)
    with torch.no_grad():
        if change == "parameter":
            model[0].weight = nn.Parameter(model[0].weight + 1)
        elif change == "module":
            model[0] = nn.Linear(model[0].in_features, model[0].out_features)
        elif change == "data":
            model[0].weight.data = model[0].weight + 1
        else:
            model[1].running_mean = model[1].running_mean + 1
    assert tensors(taker.take(model, 1, 3, 2)) == bytes_of(model)
    other = toy_model(seed=1)
    assert tensors(taker.take(other, 1, 4, 3)) == bytes_of(other)
    model[4] = nn.Linear(16, 7)
    with pytest.raises(ConfigError, match=r"model's '4.bias'|model's '4.weight'"):
        taker.take(model, 1, 5, 4)


def test_tied_and_scripted_parts_are_taken_by_the_exported_names() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 2)))
    model[1].weight = model[0].weight
    taker = snapshotter(model)
    for version in (1, 2):
        assert tensors(taker.take(model, 1, version, version)) == bytes_of(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1


@pytest.mark.parametrize("change", ["channels last", "transposed", "other types", "as it was exported"])
def test_a_layout_or_type_of_the_models_own_gives_the_bytes_of_the_exported_one(change: str) -> None:
    """Whatever way the bytes are copied in."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 16, dtype=torch.bfloat16))
    taker = snapshotter(model)
    if change == "channels last":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        assert not model[0].weight.is_contiguous()
    elif change == "transposed":
        model[3].weight.data = model[3].weight.data.t()
    expected = bytes_of(model)
    if change == "other types":
        model[0].double()
        model[3].float()
    for version in (1, 2):
        assert tensors(taker.take(model, 1, version, 0)) == expected


def test_what_is_told_with_a_version_is_of_its_moment() -> None:
    """Although it is put together later, when it is sent."""
    model = toy_model()
    taker = snapshotter(model)
    first, second = taker.take(model, 1, 1, 10, [0.25]), taker.take(model, 1, 2, 20, [0.5, 0.75])
    assert first.begin is first.begin
    told = [(s.begin.version, s.begin.step, list(s.begin.history), len(s.begin.manifest)) for s in (second, first)]
    assert told == [(2, 20, [0.5, 0.75], 9), (1, 10, [0.25], 9)]


def test_two_buffers_serve_a_run_whose_workers_keep_up() -> None:
    model = toy_model()
    taker = snapshotter(model)
    held = None
    for version in range(1, 6):
        held = taker.take(model, 1, version, version)  # the one before is let go of when this one is there
        assert len(taker._whole._pool) == 2
    assert held is not None
