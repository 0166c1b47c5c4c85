# SPDX-License-Identifier: Apache-2.0
"""A scorer module as a TorchScript archive that runs on any device and holds nothing that it does not use."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn

from siftd._scorer.clone import named_state
from siftd._scorer.module import BuiltScorer, ScorerModule, first_line
from siftd.errors import ExportError

PYTHON_BACKEND = "Else siftd scores with the Python backend (siftd.PythonScorer), which runs the model as it is"
_WORTHWHILE = 0.1  # share of the bytes from which on a second trace leaves out unused tensors


class Traced:
    """A traced scorer.

    Attributes:
      module: the TorchScript module: forward(*fields) -> columns.
      used: positions, among the scorer module's fields, of those that it takes.
      paths: names of the parameters and buffers that it reads, the scorer module's own.
    """

    def __init__(self, built: BuiltScorer) -> None:
        tensors = named_state(built.module)
        every = tuple(range(len(built.fields)))
        self._trace(built, tensors, every)
        used, needed = self._found(tensors)
        size = sum(t.nbytes for t in tensors.values())
        unused = size - sum(tensors[p].nbytes for p in needed)
        if used != every or unused > _WORTHWHILE * size:
            self._trace(built, {p: tensors[p] for p in needed}, used)
        self.used, self.paths = used, frozenset(needed)
        _keep_sizes_on_host(self.module.graph)
        _follow_inputs(self.module.graph)

    def archive(self, **extra: bytes) -> bytes:
        """The file. `extra`: files inside it, whose name gets "siftd." in front."""
        buffer = io.BytesIO()
        torch.jit.save(self.module, buffer, _extra_files={f"siftd.{k}": v for k, v in extra.items()})
        return buffer.getvalue()

    def _trace(self, built: BuiltScorer, tensors: dict[str, torch.Tensor], used: Sequence[int]) -> None:
        holder = _Holder(built.module, tensors, built.example, used)
        try:
            self.module: Any = torch.jit.trace(holder, tuple(built.example[i] for i in used), check_trace=False)
        except Exception as error:
            raise ExportError(
                f"torch.jit.trace failed: {first_line(error)}. {_advice(error)}. {PYTHON_BACKEND}"
            ) from error
        graph = self.module.graph
        torch._C._jit_pass_inline(graph)
        torch._C._jit_pass_dce(graph)

    def _found(self, tensors: dict[str, torch.Tensor]) -> tuple[tuple[int, ...], list[str]]:
        """Positions of the inputs and names of the tensors that the graph reads."""
        graph = self.module.graph
        inputs = list(graph.inputs())
        used = tuple(i for i, value in enumerate(inputs[1:]) if list(value.uses()))
        paths = {inputs[0].debugName(): ""}
        read = set()
        for node in _nodes(graph):
            if node.kind() == "prim::GetAttr" and node.input().debugName() in paths:
                above = paths[node.input().debugName()]
                path = f"{above}.{node.s('name')}" if above else node.s("name")
                paths[node.output().debugName()] = path
                read.add(path)
        return used or (0,), [p for p in tensors if p in read]


class _Holder(nn.Module):
    """What is traced in the scorer's place: its tensors under their names, and none of the user's classes.

    torch.jit.trace reads every attribute of every module that it is given (properties that raise, too), refuses hooks
    of backward passes and parameters that two modules share. It finds tensors by identity, so that none of the user's
    modules need be shown to it. Scripted modules are: their calls need them.
    """

    def __init__(
        self,
        scorer: ScorerModule,
        tensors: dict[str, torch.Tensor],
        example: Sequence[torch.Tensor],
        used: Sequence[int],
    ) -> None:
        super().__init__()
        self._hidden = (scorer, list(example), tuple(used))
        scripted = [n for n, m in scorer.named_modules() if isinstance(m, torch.jit.ScriptModule)]
        tops = [n for n in scripted if not any(n.startswith(f"{other}.") for other in scripted)]
        for name in tops:
            parent, last = self._home(name)
            parent.add_module(last, scorer.get_submodule(name))
        for path, tensor in tensors.items():
            if not any(path.startswith(f"{name}.") for name in tops):
                home, last = self._home(path)
                if isinstance(tensor, nn.Parameter):
                    home.register_parameter(last, tensor)
                else:
                    home.register_buffer(last, tensor)
        self.eval()

    def _home(self, path: str) -> tuple[nn.Module, str]:
        *above, last = path.split(".")
        at: nn.Module = self
        for name in above:
            if name not in at._modules:
                at.add_module(name, nn.Module())
            at = cast(nn.Module, at._modules[name])
        return at, last

    def forward(self, *fields: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scorer, example, used = self._hidden
        given = list(example)
        for position, tensor in zip(used, fields, strict=True):
            given[position] = tensor
        return cast(tuple[torch.Tensor, ...], scorer(*given))


def _advice(error: Exception) -> str:
    if "requires grad as a constant" in str(error):
        return "The forward or the loss uses a parameter that is not the model's: make it a part of the model"
    if "dynamo-optimized" in str(error):
        return "The forward or the loss calls a function that torch.compile made: give the function itself"
    return (
        "Give a model whose forward takes and returns tensors, and a loss that does not look into their values, or a "
        "siftd.BatchLoss"
    )


def _nodes(block: Any) -> Iterator[Any]:
    for node in list(block.nodes()):
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


_ARITHMETIC = frozenset(
    f"aten::{op}" for op in ("add", "sub", "rsub", "mul", "div", "floor_divide", "remainder", "neg", "pow")
)
_NUMBERS = (torch.int64, torch.float64, torch.bool)  # what a Python number's tensor is


def _keep_sizes_on_host(graph: Any) -> None:
    """Makes the constants of arithmetic on sizes numbers again.

    The tracer writes `x.shape[1] // 2` with tensors without dimensions. Loading puts their constants on the device, and
    then each result, which is needed as a number, costs a wait for the device.
    """
    sizes: set[str] = set()

    def number(value: Any) -> Any:
        """The constant's value; None for anything else."""
        if value.node().kind() != "prim::Constant":
            return None
        tensor = value.node().t("value")
        return tensor.item() if tensor.dim() == 0 and tensor.dtype in _NUMBERS else None

    for node in _nodes(graph):
        if node.kind() == "prim::NumToTensor":
            sizes.add(node.output().debugName())
        elif node.kind() in _ARITHMETIC:
            tensors = [(i, v) for i, v in enumerate(node.inputs()) if v.type().kind() == "TensorType"]
            constants = {i: number(v) for i, v in tensors if v.debugName() not in sizes}
            if len(constants) == len(tensors) or None in constants.values():
                continue
            graph.setInsertPoint(node)
            for i, value in constants.items():
                made = graph.create("prim::NumToTensor", [graph.insertConstant(value)], 1)
                made.insertBefore(node)
                node.replaceInput(i, made.output())
            sizes.add(node.output().debugName())


def device_constants(graph: Any) -> list[Any]:
    """Nodes that hold a device: what a trace makes of `x.device` and of `.to(device)`."""
    return [
        node
        for node in _nodes(graph)
        if node.kind() == "prim::Constant" and node.output().type().kind() == "DeviceObjType"
    ]


def _follow_inputs(graph: Any) -> None:
    """Puts the first input's device in the place of every device that the trace froze."""
    frozen = device_constants(graph)
    if not frozen:
        return
    field = list(graph.inputs())[1]
    device = graph.create("prim::device", [field], 1)
    device.output().setType(torch._C.DeviceObjType.get())
    graph.prependNode(device)
    for node in frozen:
        node.output().replaceAllUsesWith(device.output())
        node.destroy()
