# SPDX-License-Identifier: Apache-2.0
"""Copies of models that copy.deepcopy refuses, or copies too much of."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from siftd._scorer.clone import clone, named_state
from siftd.errors import ExportError
from support import toy_model

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))


def assert_apart(model: nn.Module, copied: nn.Module) -> None:
    theirs = {t.data_ptr() for t in named_state(model).values()}
    assert not any(t.data_ptr() in theirs for t in named_state(copied).values())
    assert not {id(m) for m in model.modules()} & {id(m) for m in copied.modules()}


def assert_same(model: nn.Module, x: torch.Tensor = X) -> nn.Module:
    """The copy gives what the model gives in eval mode, and shares nothing with it."""
    was = [m.training for m in model.modules()]
    made = clone(model)
    assert [m.training for m in model.modules()] == was
    assert not any(m.training for m in made.module.modules())
    assert not any(p.requires_grad for p in made.module.parameters())
    assert_apart(model, made.module)
    with torch.no_grad():
        torch.testing.assert_close(made.module(x), copy_of_output(model, x))
    return made.module


def copy_of_output(model: nn.Module, x: torch.Tensor) -> Any:
    was = model.training
    out = model.eval()(x)
    model.train(was)
    return out


class Locked(nn.Module):
    """Attributes that can't be copied, modules and tensors in plain containers, and methods bound to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = toy_model()
        self.lock = threading.Lock()
        self.hidden = [nn.Linear(5, 5)]
        self.shift = {"by": torch.ones(5)}
        self.act = self.twice
        self.cached = self.net[0](X)  # not a leaf: deepcopy raises

    def twice(self, x: torch.Tensor) -> torch.Tensor:
        return self.hidden[0](x) * 2 + self.shift["by"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with self.lock:
            return self.act(self.net(x))


def test_attributes_that_cant_be_copied_are_kept_and_all_else_is_copied() -> None:
    model = Locked()
    with pytest.raises((TypeError, RuntimeError)):
        copy.deepcopy(model)
    made: Any = assert_same(model)
    assert made.lock is model.lock
    assert made.act.__self__ is made
    assert made.hidden[0] is not model.hidden[0]
    assert made.hidden[0].weight.data_ptr() != model.hidden[0].weight.data_ptr()
    assert made.shift["by"].data_ptr() != model.shift["by"].data_ptr()


def test_a_copy_that_failed_halfway_leaves_nothing_behind() -> None:
    class Part:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.value = 1

    class Whole:
        def __init__(self) -> None:
            self.part = Part()

    model: Any = nn.Linear(8, 5)
    model.whole = Whole()
    model.part = model.whole.part
    made: Any = clone(model).module
    assert made.whole is model.whole
    assert made.part is model.part, "not the half-made copy of the first attempt"


def test_tied_weights_stay_tied_and_are_named_once() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    made = clone(model)
    assert made.module[1].weight is made.module[0].weight
    assert list(made.state) == ["0.weight", "0.bias", "1.bias"]
    assert made.state["0.weight"] is made.module[0].weight


def test_weights_computed_in_hooks_and_parametrizations() -> None:
    model = nn.Sequential(
        torch.nn.utils.weight_norm(nn.Linear(8, 8)),
        torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
        torch.nn.utils.parametrizations.spectral_norm(nn.Linear(8, 5)),
    )
    made = assert_same(model)
    with torch.no_grad():
        made[0].weight_g.mul_(2)
        made[1].parametrizations.weight.original0.mul_(2)
    assert not torch.allclose(made(X), copy_of_output(model, X)), "the copy computes with its own parameters"


def test_recurrent_layers_read_the_copys_weights() -> None:
    model = nn.LSTM(8, 5, batch_first=True)
    made: Any = clone(model).module
    assert all(a is b for a, b in zip(made._flat_weights, made.parameters(), strict=True))
    torch.testing.assert_close(made(X[:, None])[0], model(X[:, None])[0])


def test_forward_hooks_stay_and_those_of_backward_go() -> None:
    model = toy_model()
    model.register_forward_hook(lambda module, args, out: out * 3)
    model.register_full_backward_hook(lambda module, grad_in, grad_out: None)
    made = assert_same(model)
    assert not made._backward_hooks and made._forward_hooks


def test_a_patched_forward_runs_on_the_copy() -> None:
    model: Any = toy_model()
    inner = model.forward

    def patched(x: torch.Tensor) -> torch.Tensor:
        return inner(x) + 1

    model.forward = patched
    made = assert_same(model)
    with torch.no_grad():
        made.get_submodule("4").bias.add_(5)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(made(X), copy_of_output(model, X) + 5)


@pytest.mark.parametrize("form", ["wrapper", "in_place", "part", "method"])
def test_torch_compile_is_taken_off(form: str) -> None:
    class Compiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = toy_model()

        @torch.compile(backend="eager")
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    model: Any = toy_model()
    if form == "wrapper":
        model = torch.compile(model, backend="eager")
    elif form == "in_place":
        model.compile(backend="eager")
    elif form == "part":
        model = nn.Sequential(torch.compile(model, backend="eager"))
    else:
        model = Compiled()
    made = assert_same(model)
    assert not any("_orig_mod" in name for name, _ in made.named_modules())
    assert not any(m._compiled_call_impl or hasattr(m.forward, "_torchdynamo_orig_callable") for m in made.modules())
    names = [n.replace("_orig_mod.", "") for n, _ in model.named_parameters()]
    assert [n for n in clone(model).state if n in names] == names, "named as without torch.compile"


def test_activation_checkpointing_and_data_parallel_are_taken_off() -> None:
    model = nn.Sequential(checkpoint_wrapper(nn.Linear(8, 8)), nn.DataParallel(nn.Linear(8, 5)))
    made = clone(model)
    assert [type(m) for m in made.module] == [nn.Linear, nn.Linear]
    assert list(made.state)[:2] == ["0.weight", "0.bias"]


def test_scripted_parts_are_copied_whole() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
    model = nn.Sequential(scripted, nn.Linear(8, 5))
    made = clone(model)
    assert_apart(model, made.module)
    held = named_state(made.module)
    assert all(made.state[name] is held[name] for name in held)
    torch.testing.assert_close(made.module(X), model(X))


def test_strides_devices_and_types() -> None:
    model: Any = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last).bfloat16()
    model.device, model.device_name, model.where = torch.device("meta"), "cuda:1", "cuda graph"
    made: Any = clone(model).module
    assert made.weight.stride() == model.weight.stride()
    assert made.weight.dtype == torch.bfloat16
    assert (made.device, made.device_name, made.where) == (torch.device("cpu"), "cpu", "cuda graph")


def test_a_models_own_generator_is_not_advanced() -> None:
    model: Any = nn.Linear(8, 5)
    model.rng = torch.Generator().manual_seed(3)
    made: Any = clone(model).module
    before = model.rng.get_state()
    torch.rand(3, generator=made.rng)
    assert torch.equal(model.rng.get_state(), before)


def test_parameters_without_values_are_refused() -> None:
    with pytest.raises(ExportError, match="run the model on one batch first"):
        clone(nn.LazyLinear(4))
    with pytest.raises(ExportError, match="meta device"):
        clone(nn.Linear(3, 4, device="meta"))
