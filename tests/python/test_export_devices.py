# SPDX-License-Identifier: Apache-2.0
"""An archive runs on the device that it is loaded to: nothing of the exporter's is left in it.

The meta device stands for a second one: it refuses to mix with the CPU, and tells where a result is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import siftd
from siftd._scorer.trace import _follow_inputs, device_constants

X, Y = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 5
CAPTURED = torch.arange(5.0)


@pytest.fixture(autouse=True)
def constants_are_never_equal_on_meta() -> Iterator[None]:
    """torch.jit.load compares constants, for which meta has no kernel."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("equal", lambda a, b: False, "Meta")
    yield
    library._destroy()


def on_meta(scorer: siftd.Scorer, *fields: torch.Tensor) -> Any:
    module = torch.jit.load(io.BytesIO(scorer.archive), map_location="meta")
    assert not device_constants(module.inlined_graph)
    with torch.jit.optimized_execution(False):  # optimizing would read the values of constants
        return module(*(f.to("meta") for f in fields))


class MakesTensors(nn.Module):
    """Makes tensors on its input's device, on its own, and of Python values; moves its input."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 5)
        self.device = torch.device("cpu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.device).cpu()
        ramp = torch.arange(x.shape[1], device=x.device).to(x)
        zeros = torch.zeros(x.shape[0], x.shape[1], device=self.net.weight.device)
        ones = torch.ones_like(x, device=x.device)
        table = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], device=x.device)
        return self.net(x * ramp + zeros + ones + torch.full((1, 8), 0.5, device=x.device)) * table + CAPTURED


def test_devices_are_those_of_the_input() -> None:
    model = MakesTensors()
    scorer = siftd.export_scorer(model, "cross_entropy", (X, Y))
    assert [c.device.type for c in on_meta(scorer, X, Y)] == ["meta"] * 3
    here = torch.jit.load(io.BytesIO(scorer.archive))(X, Y)[0]
    torch.testing.assert_close(here, nn.functional.cross_entropy(model(X), Y, reduction="none").detach())


def test_a_plain_trace_would_hold_the_exporters_device() -> None:
    """The check above can fail."""
    traced = torch.jit.trace(MakesTensors(), X)
    assert device_constants(traced.inlined_graph)
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    module = torch.jit.load(buffer, map_location="meta")
    with torch.jit.optimized_execution(False), pytest.raises(RuntimeError, match="meta|device"):
        module(X.to("meta"))


class CallsScripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
        self.net = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return scripted(self.net(self.part(x)), True)


@torch.jit.script
def scripted(x: torch.Tensor, deep: bool) -> torch.Tensor:
    if deep:
        for _ in range(2):
            x = x + torch.zeros(x.size(1), device=torch.device("cpu"))
    return x


def test_devices_in_scripted_parts_follow_too() -> None:
    model = CallsScripted()
    scorer = siftd.export_scorer(model, "cross_entropy", (X, Y))
    assert sorted(e.name for e in scorer.state) == sorted(dict(model.named_parameters()))
    assert [c.device.type for c in on_meta(scorer, X, Y)] == ["meta"] * 3


def test_devices_in_blocks_follow_too() -> None:
    graph = torch._C.parse_ir(
        """
        graph(%self : int, %x : Tensor, %c : bool):
          %no : NoneType = prim::Constant()
          %out : Tensor = prim::If(%c)
            block0():
              %cpu : Device = prim::Constant[value="cpu"]()
              %zeros : Tensor = aten::zeros_like(%x, %no, %no, %cpu, %no, %no)
              -> (%zeros)
            block1():
              -> (%x)
          return (%out)
        """
    )
    assert len(device_constants(graph)) == 1
    _follow_inputs(graph)
    graph.lint()
    assert not device_constants(graph)
    assert "prim::device(%x" in str(graph)


class ComputesWithSizes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        half = (ids.shape[1] + 3) // 2 - 1
        return self.embed(ids)[:, :half].reshape(ids.shape[0], half * 5).view(-1, half, 5).sum(1)


def test_sizes_stay_on_the_host() -> None:
    """On a GPU, a size that is computed with the device's constants costs a wait for the device."""
    model = ComputesWithSizes()
    ids = torch.randint(0, 20, (6, 9))
    scorer = siftd.export_scorer(model, "cross_entropy", {"ids": ids, "labels": Y})
    assert on_meta(scorer, ids, Y)[0].device.type == "meta", "an item() of a meta tensor raises"
    module = torch.jit.load(io.BytesIO(scorer.archive))
    other = torch.randint(0, 20, (3, 4))
    want = nn.functional.cross_entropy(model(other), Y[:3], reduction="none").detach()
    torch.testing.assert_close(module(other, Y[:3])[0], want)
