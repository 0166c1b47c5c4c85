# SPDX-License-Identifier: Apache-2.0
"""A plain copy of a user's model on the CPU: in eval mode, with parameters of its own, outside of every wrapper.

copy.deepcopy is not enough: fully_shard (FSDP2) refuses it, parameters may be parts (DTensor) or views, a
LightningModule would take its Trainer along, and one lock among the attributes makes it fail.
"""

from __future__ import annotations

import copy
import functools
import types
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from siftd._scorer.sharded import plain_name
from siftd.errors import ExportError

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type, torch.dtype, types.BuiltinFunctionType)
# What makes a module run across ranks or devices is not copied.
_FOREIGN_HOOKS = ("torch.distributed", "accelerate.")
_TRAINERS = frozenset({"_trainer", "_fabric"})  # a LightningModule's


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside DistributedDataParallel, DataParallel or torch.compile."""
    while (inner := _inner(model)) is not None:
        model = inner
    return model


def _inner(module: nn.Module) -> nn.Module | None:
    children = module.__dict__.get("_modules", {})
    for name in ("_orig_mod", "_checkpoint_wrapped_module"):  # torch.compile, activation checkpointing
        if name in children:
            return cast(nn.Module, children[name])
    if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return cast(nn.Module, module.module)
    return None


@dataclass
class Clone:
    """`state`: the copy's tensors by the model's own plain names, parameters before buffers, each tensor once."""

    module: nn.Module
    state: dict[str, torch.Tensor] = field(repr=False)


def clone(model: nn.Module) -> Clone:
    """Copies a model. A collective of all ranks where its parameters are DTensors: every rank must call it.

    Attributes that can't be copied are shared with the original, with what is inside them; other tensors, parameters
    and modules never are. Hooks of forward passes stay, those of torch.distributed and accelerate, and all hooks of
    backward passes, don't. What torch.compile made is taken as it was before.

    Raises ExportError for parameters without values (lazy, on the meta device) and for FSDP1.
    """
    model = unwrap(model)
    cloner = _Cloner()
    with torch.no_grad():
        module = cloner.module(model)
        state = {plain_name(name): cloner.tensor(t) for name, t in named_state(model).items()}
    return Clone(module, state)


def named_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters, then buffers, each once, by its first name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


class _Memo(dict[int, Any]):
    """deepcopy's memo, from which a copy that failed halfway can be taken out again."""

    def __init__(self) -> None:
        super().__init__()
        self.added: list[int] = []

    def __setitem__(self, key: int, value: Any) -> None:
        self.added.append(key)
        super().__setitem__(key, value)


class _Cloner:
    def __init__(self) -> None:
        self._memo = _Memo()
        self._alive: list[Any] = []  # ids in the memo must stay theirs

    def module(self, model: nn.Module) -> nn.Module:
        if id(model) in self._memo:
            return cast(nn.Module, self._memo[id(model)])
        # All modules get their copy before any attribute does: attributes refer to modules in any order.
        todo: list[tuple[nn.Module, nn.Module]] = []
        for module in model.modules():
            if id(module) not in self._memo:
                self._shell(module, todo)
        for original, shell in todo:
            self._fill(original, shell)
        return cast(nn.Module, self._memo[id(model)])

    def _keep(self, original: Any, made: Any) -> Any:
        self._alive.append(original)
        self._memo[id(original)] = made
        return made

    def _shell(self, module: nn.Module, todo: list[tuple[nn.Module, nn.Module]]) -> nn.Module:
        if id(module) in self._memo:
            return cast(nn.Module, self._memo[id(module)])
        inner = _inner(module)
        if inner is not None:
            return cast(nn.Module, self._keep(module, self._shell(inner, todo)))
        if isinstance(module, torch.jit.ScriptModule):
            return cast(nn.Module, self._keep(module, self._script(module)))
        shell = cast(nn.Module, object.__new__(_plain_class(module)))
        todo.append((module, shell))
        return cast(nn.Module, self._keep(module, shell))

    def _script(self, module: torch.jit.ScriptModule) -> nn.Module:
        made = copy.deepcopy(module).cpu().eval()
        for parameter in made.parameters():
            parameter.requires_grad_(False)
        theirs = named_state(made) | dict(made.named_modules())
        for name, part in (*named_state(module).items(), *module.named_modules()):
            self._keep(part, theirs[name])
        return cast(nn.Module, made)

    def _fill(self, original: nn.Module, shell: nn.Module) -> None:
        state = _state_of(original)
        for own in ("_original_forward", "_old_forward"):  # what accelerate put its own forward in place of
            if own in state and "forward" in state:
                state["forward"] = state.pop(own)
        if getattr(state.get("forward"), "__func__", None) is type(shell).forward:
            del state["forward"]
        compiled = getattr(type(shell).forward, "_torchdynamo_orig_callable", None)
        if compiled is not None and "forward" not in state:
            shell.__dict__["forward"] = types.MethodType(compiled, shell)
        made: dict[str, Any] = {}
        for name, value in state.items():
            if name in ("_parameters", "_buffers"):
                made[name] = {n: None if t is None else self.tensor(t) for n, t in value.items()}
            elif name == "_modules":
                made[name] = {n: None if m is None else self._memo[id(m)] for n, m in value.items()}
            elif name in ("_forward_hooks", "_forward_pre_hooks"):
                hooks = {k: self.value(h) for k, h in value.items() if not _is_foreign(h)}
                made[name] = OrderedDict(hooks)
            elif name.endswith("_hooks"):
                made[name] = OrderedDict()
            elif name == "_compiled_call_impl" or (name in _TRAINERS and hasattr(type(original), "trainer")):
                made[name] = None
            elif isinstance(value, str) and "device" in name:
                made[name] = "cpu" if value.split(":")[0] in ("cuda", "xpu", "mps") else value
            elif name != "_hf_hook" and not name.startswith("__composable_api"):
                made[name] = self.value(value)
        made["training"] = False
        made["_is_full_backward_hook"] = None
        shell.__dict__.update(made)
        if type(shell).__setstate__ is not nn.Module.__setstate__:
            shell.__setstate__(made)

    def tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """The whole tensor, with memory of its own and the same strides."""
        if id(tensor) in self._memo:
            return cast(torch.Tensor, self._memo[id(tensor)])
        if nn.parameter.is_lazy(tensor):
            raise ExportError("a parameter of the model has no values yet; run the model on one batch first")
        whole = tensor.detach()
        if hasattr(whole, "full_tensor"):
            whole = whole.full_tensor()
        if whole.is_meta:
            raise ExportError(
                "a parameter of the model is on the meta device (offloaded or not loaded); load all of the model first"
            )
        made = whole.to("cpu", copy=True)
        if isinstance(tensor, nn.Parameter):
            made = nn.Parameter(made, requires_grad=False)
        return cast(torch.Tensor, self._keep(tensor, made))

    def value(self, value: Any) -> Any:
        """An attribute's copy, or the attribute itself where it can't be copied."""
        if isinstance(value, _PLAIN):
            return value
        if id(value) in self._memo:
            return self._memo[id(value)]
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        if isinstance(value, nn.Module):
            return self.module(value)
        if isinstance(value, torch.device):
            return torch.device("cpu")
        if isinstance(value, torch.Generator):
            return self._keep(value, value.clone_state())
        if type(value) is list:
            made = self._keep(value, [])
            made.extend(self.value(v) for v in value)
            return made
        if type(value) in (dict, OrderedDict):
            made = self._keep(value, type(value)())
            made.update((k, self.value(v)) for k, v in value.items())
            return made
        if type(value) in (tuple, set, frozenset):
            return self._keep(value, type(value)(self.value(v) for v in value))
        if isinstance(value, types.MethodType):
            return self._keep(value, types.MethodType(value.__func__, self.value(value.__self__)))
        if isinstance(value, functools.partial):
            keywords = {k: self.value(v) for k, v in value.keywords.items()}
            return self._keep(
                value, functools.partial(self.value(value.func), *map(self.value, value.args), **keywords)
            )
        if isinstance(value, types.FunctionType):
            plain = getattr(value, "_torchdynamo_orig_callable", None)  # below torch.compile
            return self._keep(value, self._function(value) if plain is None else self.value(plain))
        return self._keep(value, self._deep(value))

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        """With the copies of modules that it closes over."""

        def changed(cell: Any) -> Any:
            try:
                held = cell.cell_contents
            except ValueError:  # empty
                return cell
            bound = isinstance(held, types.MethodType) and id(held.__self__) in self._memo
            known = isinstance(held, nn.Module) and id(held) in self._memo
            return types.CellType(self.value(held)) if bound or known else cell

        cells = function.__closure__ or ()
        made = tuple(changed(c) for c in cells)
        if all(a is b for a, b in zip(cells, made, strict=True)):
            return function
        again = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__, made
        )
        again.__kwdefaults__ = function.__kwdefaults__
        return again

    def _deep(self, value: Any) -> Any:
        self._memo.added.clear()
        try:
            return copy.deepcopy(value, self._memo)
        except Exception:
            for key in self._memo.added:
                self._memo.pop(key, None)
            return value


def _plain_class(module: nn.Module) -> type:
    cls = type(module)
    if cls.__name__ == "FullyShardedDataParallel" and cls.__module__.startswith("torch."):
        raise ExportError(
            "a model wrapped in FullyShardedDataParallel (FSDP1) can't be gathered; shard it by "
            "torch.distributed.fsdp.fully_shard (FSDP2)"
        )
    # fully_shard puts a class in front of the module's own.
    sharded = any(c.__name__ == "FSDPModule" and c.__module__.startswith("torch.") for c in cls.__mro__[1:])
    return cls.__mro__[getattr(cls, "_orig_cls_mro_index", 2)] if sharded else cls


def _state_of(module: nn.Module) -> dict[str, Any]:
    """What pickle and deepcopy would take of it."""
    custom = next((c.__dict__["__getstate__"] for c in type(module).__mro__ if "__getstate__" in c.__dict__), None)
    if custom is not None and custom is not getattr(object, "__getstate__", None):
        try:
            state = module.__getstate__()
            if isinstance(state, dict):
                return dict(state)
        except Exception:
            pass  # it is not made to be pickled: then all of it
    return dict(module.__dict__)


def _is_foreign(hook: Any) -> bool:
    owner = getattr(hook, "__self__", None) or getattr(hook, "func", hook)
    name = getattr(owner, "__module__", None) or type(owner).__module__
    return str(name).startswith(_FOREIGN_HOOKS)
