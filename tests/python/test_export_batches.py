# SPDX-License-Identifier: Apache-2.0
"""How the exporter gives a batch to the model and the loss."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import siftd
from siftd._batches import structure
from siftd._scorer.module import build_scorer_module
from siftd.errors import ConfigError, ExportError, StructureError
from siftd.losses import BatchLoss
from siftd.v1 import artifact_pb2
from support import toy_model

G = torch.Generator().manual_seed(4)
X, Y, Z = torch.randn(6, 8, generator=G), torch.arange(6) % 5, torch.randn(6, 8, generator=G)


def run(scorer: siftd.Scorer, batch: Any) -> dict[str, torch.Tensor]:
    fields = structure.flatten(batch).tensors
    module = torch.jit.load(io.BytesIO(scorer.archive))
    return dict(zip(scorer.columns, module(*(fields[n] for n in scorer.fields)), strict=True))


class Net(nn.Module):
    """`forward` is given by the test; it calls `self.net`."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.net = nn.Linear(8, 5)
        self.__class__ = type("Net", (Net,), {"forward": forward})


class Item(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


CASES: dict[str, tuple[Callable[..., Any], Any, tuple[str, ...]]] = {
    "tuple": (lambda self, x: self.net(x), (X, Y), ("0", "1")),
    "list_of_two_inputs": (lambda self, a, b: self.net(a + b), [X, Z, Y], ("0", "1", "2")),
    "namedtuple": (lambda self, x: self.net(x), Item(X, Y), ("0", "1")),
    "numpy": (lambda self, x: self.net(x), (X, Y.numpy()), ("0", "1")),
    "strings_beside": (lambda self, x: self.net(x), (X, Y, list("abcdef")), ("0", "1")),
    "dict": (lambda self, b, a: self.net(a - b), {"a": X, "b": Z, "y": Y}, ("a", "b", "y")),
    "optional_keys": (lambda self, a, c=None: self.net(a), {"a": X, "y": Y, "idx": Y}, ("a", "y")),
    "unused_by_kwargs": (lambda self, a, **more: self.net(a), {"a": X, "y": Y, "idx": Y}, ("a", "y")),
    "whole_dict": (lambda self, batch: self.net(batch["a"]), {"a": X, "b": Z, "y": Y}, ("a", "y")),
    "dict_in_a_tuple": (lambda self, a, b: self.net(a - b), ({"a": X, "b": Z}, Y), ("0.a", "0.b", "1")),
    "whole_dict_in_a_tuple": (lambda self, d: self.net(d["a"] - d["b"]), ({"a": X, "b": Z}, Y), ("0.a", "0.b", "1")),
    "targets_inside": (lambda self, d: self.net(d["a"]), ({"a": X, "labels": Y},), ("0.a", "0.labels")),
    "nested": (
        lambda self, views, meta: self.net(views[0] + views[1]["deep"]) * meta["scale"],
        {"views": [X, {"deep": Z}], "meta": {"scale": torch.rand(6, 1), "name": "n", "none": None}, "y": Y},
        ("views.0", "views.1.deep", "meta.scale", "y"),
    ),
    "more_items_than_taken": (lambda self, x: self.net(x), (X, Z, Y), ("0", "2")),
    "unused_item": (lambda self, x, weight: self.net(x), (X, Z, Y), ("0", "2")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_model_gets_the_batch_in_its_own_structure(name: str) -> None:
    forward, batch, fields = CASES[name]
    model = Net(forward)
    scorer = siftd.export_scorer(model, "cross_entropy", batch)
    assert scorer.fields == fields
    assert scorer.columns == ("loss", "confidence", "grad_norm")
    flat = structure.flatten(batch)
    rows = torch.tensor([4, 1, 2])
    picked = flat.take(rows)
    tensors = picked.tensors
    x = {
        "list_of_two_inputs": lambda: tensors["0"] + tensors["1"],
        "nested": lambda: tensors["views.0"] + tensors["views.1.deep"],
        "dict": lambda: tensors["a"] - tensors["b"],
        "dict_in_a_tuple": lambda: tensors["0.a"] - tensors["0.b"],
        "whole_dict_in_a_tuple": lambda: tensors["0.a"] - tensors["0.b"],
    }.get(name, lambda: tensors[fields[0]])()
    logits = model.net(x) * (tensors["meta.scale"] if name == "nested" else 1)
    want = F.cross_entropy(logits, Y[rows], reduction="none").detach()
    torch.testing.assert_close(run(scorer, structure.rebuild(picked))["loss"], want)


def test_a_lone_tensor_is_the_models_only_argument() -> None:
    model = nn.Linear(8, 8)
    scorer = siftd.export_scorer(model, lambda out: (out - 1).square(), X)
    assert scorer.fields == ("0",)
    torch.testing.assert_close(run(scorer, X)["loss"], (model(X) - 1).square().mean(1).detach())


def test_several_and_nested_targets_go_to_the_loss_in_order() -> None:
    model = nn.Linear(8, 8)

    def loss(out: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return (out - z).square().sum(1) * y

    want = loss(model(X), Y, Z).detach()
    by_name = siftd.export_scorer(model, loss, {"z": Z, "input": X, "y": Y}, targets=["y", "z"])
    assert by_name.fields == ("input", "y", "z")
    torch.testing.assert_close(run(by_name, {"z": Z, "input": X, "y": Y})["loss"], want)
    nested = siftd.export_scorer(model, lambda out, t: loss(out, t["y"], t["z"][0]), (X, {"y": Y, "z": [Z]}))
    torch.testing.assert_close(run(nested, (X, {"y": Y, "z": [Z]}))["loss"], want)


def test_a_batch_loss_gets_model_and_batch() -> None:
    model = toy_model()
    seen: list[Any] = []

    def fn(model: nn.Module, batch: Any) -> torch.Tensor:
        seen[:] = [batch]
        a, b = model(batch["views"][0]), model(batch["views"][1])
        return (a - b).square().sum(1, keepdim=True) * batch["weight"]

    batch = {"views": [X, Z], "weight": torch.rand(6, 1), "unused": Y, "names": list("abcdef"), "epoch": 3}
    scorer = siftd.export_scorer(model, BatchLoss(fn), batch)
    assert scorer.columns == ("loss",)
    assert scorer.fields == ("views.0", "views.1", "weight"), "a field that the loss does not read is not sent"
    assert (seen[0]["names"], seen[0]["epoch"]) == (list("abcdef"), 3)
    other = batch | {"views": [X[:4] + 1, Z[:4]], "weight": torch.rand(4, 1), "unused": Y[:4], "names": list("abcd")}
    want = fn(model.eval(), other).detach()[:, 0]
    torch.testing.assert_close(run(scorer, other)["loss"], want)


def test_keys_that_a_model_inside_refuses_are_left_out() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Net(lambda self, a: self.net(a))

        def forward(self, **fields: torch.Tensor) -> Any:
            return self.inner(**fields)

    scorer = siftd.export_scorer(Wrapped(), "cross_entropy", {"idx": Y, "a": X, "extra": Z, "labels": Y})
    assert scorer.fields == ("a", "labels")


def test_inputs_and_columns_of_a_reduced_precision_model() -> None:
    model = nn.Linear(8, 5).bfloat16()
    scorer = siftd.export_scorer(model, "cross_entropy", (X, Y))
    out = run(scorer, (X, Y))
    assert {c.dtype for c in out.values()} == {torch.float32}
    want = F.cross_entropy(model(X.bfloat16()).float(), Y, reduction="none").detach()
    torch.testing.assert_close(out["loss"], want, rtol=1e-3, atol=1e-3)
    assert {e.dtype for e in scorer.state} == {artifact_pb2.DTYPE_BFLOAT16}


def test_inputs_are_shrunk_inside_the_graph() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    images = torch.randn(6, 3, 33, 32, generator=G)
    scorer = siftd.export_scorer(model, "cross_entropy", (images, Y), scale_factor=0.5)
    small = F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False, recompute_scale_factor=False)
    assert small.shape[2:] == (16, 16)
    want = F.cross_entropy(model(small), Y, reduction="none").detach()
    torch.testing.assert_close(run(scorer, (images, Y))["loss"], want)
    full = siftd.export_scorer(model, "cross_entropy", (images, Y))
    assert not torch.allclose(run(full, (images, Y))["loss"], want)


@pytest.mark.parametrize(("dims", "mode"), [(1, "linear"), (3, "trilinear")])
def test_signals_and_volumes_are_shrunk_too(dims: int, mode: str) -> None:
    conv = nn.Conv1d if dims == 1 else nn.Conv3d
    pool = nn.AdaptiveAvgPool1d if dims == 1 else nn.AdaptiveAvgPool3d
    model = nn.Sequential(conv(2, 4, 3), pool(1), nn.Flatten(), nn.Linear(4, 5))
    x = torch.randn(6, 2, *[12] * dims, generator=G)
    scorer = siftd.export_scorer(model, "cross_entropy", (x, Y), scale_factor=0.5)
    small = F.interpolate(x, scale_factor=0.5, mode=mode, align_corners=False, recompute_scale_factor=False)
    want = F.cross_entropy(model(small), Y, reduction="none").detach()
    torch.testing.assert_close(run(scorer, (x, Y))["loss"], want)


def test_inline_scoring_runs_the_live_model_and_leaves_it_as_it_was() -> None:
    model = toy_model().train()
    model[3].eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    rng = torch.get_rng_state()
    built = build_scorer_module(model, "cross_entropy", (X, Y), copy=False)
    assert [m.training for m in model] == [True, True, True, False, True]
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert built.module.model is model
    assert (built.fields, built.columns) == (("0", "1"), ("loss", "confidence", "grad_norm"))
    assert [e.archive_name for e in built.state] == [f"model.{e.name}" for e in built.state]
    model.eval()
    with torch.no_grad():
        model[4].bias.add_(torch.arange(5.0))
        want = F.cross_entropy(model(X), Y, reduction="none")
        torch.testing.assert_close(built.module(X, Y)[0], want)


def test_a_model_that_draws_random_numbers_leaves_the_generator_alone() -> None:
    rng = torch.get_rng_state()
    for copy in (True, False):
        model = Net(lambda self, x: self.net(F.dropout(x, 0.5, training=True)))
        torch.set_rng_state(rng)
        build_scorer_module(model, "cross_entropy", (X, Y), copy=copy)
        assert torch.equal(torch.get_rng_state(), rng)


def test_errors_name_the_ways_that_were_tried() -> None:
    model = Net(lambda self, batch: self.net(batch["z"]))
    with pytest.raises(ExportError, match=r"model\(fields\): 'z'; model\(\*\*fields\): .*missing.*targets: y"):
        siftd.export_scorer(model, "cross_entropy", {"x": X, "y": Y})
    with pytest.raises(ConfigError, match="scale_factor is 2"):
        siftd.export_scorer(model, "cross_entropy", (X, Y), scale_factor=2)
    with pytest.raises(ConfigError, match="without floating-point inputs of 3 to 5 dimensions"):
        siftd.export_scorer(model, "cross_entropy", (X, Y), scale_factor=0.5)
    with pytest.raises(ExportError, match="field '0' can't travel.*complex64"):
        siftd.export_scorer(model, "cross_entropy", (X.to(torch.complex64), Y))
    with pytest.raises(StructureError, match="both be called 'a.b'"):
        siftd.export_scorer(model, "cross_entropy", {"a.b": X, "a": {"b": Y}})


def test_a_batch_with_arrays_gives_the_model_tensors() -> None:
    seen: list[type] = []

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        seen.append(type(x))
        return self.net(x)  # type: ignore[no-any-return]

    siftd.export_scorer(Net(forward), "cross_entropy", (X.numpy(), np.arange(6) % 5))
    assert set(seen) == {torch.Tensor}
