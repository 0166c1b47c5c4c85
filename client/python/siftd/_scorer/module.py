# SPDX-License-Identifier: Apache-2.0
"""A user's model and loss as one module: forward(*fields) -> the score columns, float32 [n] each, "loss" first.

export_scorer traces it, the Python backend and the inline mode run it as it is. Where the model's output is logits
[n, C] with integer targets [n], two columns more cost nothing: "confidence" (largest softmax probability) and
"grad_norm" (norm of softmax - onehot, the last layer's gradient; Katharopoulos and Fleuret, arXiv 1803.00942).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from siftd._batches import structure
from siftd._scorer.arguments import Arguments, split_fields
from siftd._scorer.clone import Clone, clone, named_state, unwrap
from siftd._scorer.sharded import plain_name
from siftd._scorer.signature import SHRUNK, shrinkable, specs_of, state_entries
from siftd.errors import ConfigError, ExportError
from siftd.losses import BatchLoss, Loss, Output, RowLoss, is_tracing, row_loss, row_mean

# Copies of models with more parameters are run on a few rows of the example only: this is a CPU.
_LARGE, _ROWS_OF_LARGE = 1 << 26, 2


class ScorerModule(nn.Module):
    """forward(*fields) -> columns. Made by `build_scorer_module`.

    Attributes:
      model: in whatever mode the caller put it in.
      fields: names of forward's arguments.
      columns: names of what it returns; known once it ran on the example batch.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: RowLoss | BatchLoss,
        arguments: Arguments,
        scale_factor: float = 1.0,
        scaled: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.arguments = arguments
        self.fields: tuple[str, ...] = ()
        self.columns: tuple[str, ...] = ("loss",)
        self.scale_factor = scale_factor
        self.scaled = frozenset(scaled)

    def forward(self, *fields: torch.Tensor) -> tuple[torch.Tensor, ...]:
        named = {n: self._shrunk(t) if n in self.scaled else t for n, t in zip(self.fields, fields, strict=True)}
        if isinstance(self.loss, BatchLoss):
            losses = self.loss.fn(self.model, self.arguments.batch(named))
            return (_checked(losses, fields[0]),)
        output = Output.of(self.arguments.call(self.model, named))
        targets = self.arguments.target_values(named)
        columns = [_checked(self.loss(output, targets), fields[0])]
        if "confidence" in self.columns:
            columns += _of_logits(output.main, targets[0])
        return tuple(columns)

    def _shrunk(self, x: torch.Tensor) -> torch.Tensor:
        # As Composer's SelectiveBackprop: https://github.com/mosaicml/composer (algorithms/selective_backprop).
        return F.interpolate(
            x,
            scale_factor=self.scale_factor,
            mode=SHRUNK[x.dim()],
            align_corners=False,
            recompute_scale_factor=False,
        )


def _of_logits(logits: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    p = logits.float().softmax(1)
    # Ignored labels are negative; their row has no gradient, and loss 0.
    at = y.long().clamp(min=0).unsqueeze(1)
    return [p.amax(1), torch.linalg.vector_norm(p.scatter_add(1, at, -torch.ones_like(p)), dim=1)]


def _is_logits(output: Any, targets: tuple[Any, ...]) -> bool:
    if len(targets) != 1 or not isinstance(targets[0], torch.Tensor) or not isinstance(output, torch.Tensor):
        return False
    y = targets[0]
    return (
        output.dim() == 2
        and output.shape[1] > 1
        and output.is_floating_point()
        and y.dim() == 1
        and not y.is_floating_point()
        and y.dtype != torch.bool
        and bool((y < output.shape[1]).all())
    )


def _checked(losses: Any, field: torch.Tensor) -> torch.Tensor:
    if not isinstance(losses, torch.Tensor):
        raise ExportError(f"the loss returned {type(losses).__name__}; it must return a tensor with one loss per row")
    if not is_tracing() and (losses.dim() == 0 or len(losses) != len(field)):
        raise ExportError(
            f"the loss returned shape {list(losses.shape)} for {len(field)} rows; give a loss without reduction, for "
            'example loss="cross_entropy" or lambda out, y: F.cross_entropy(out, y, reduction="none")'
        )
    return row_mean(losses).float()


@dataclass
class BuiltScorer:
    """What `build_scorer_module` gives.

    Attributes:
      module: forward(*fields) -> columns.
      fields: names of its arguments, in order.
      columns: names of what it returns.
      inputs: proto TensorSpec of each argument; -1 = free.
      state: proto StateEntry of each parameter and buffer of the model: `name` is the user's model's, `archive_name`
        the module's.
      device: where the arguments must be.
      example: the arguments that the example batch gives, there.
      eager: the columns of the example.
    """

    module: ScorerModule
    fields: tuple[str, ...]
    columns: tuple[str, ...]
    inputs: list[Any] = field(repr=False)
    state: list[Any] = field(repr=False)
    device: torch.device
    example: tuple[torch.Tensor, ...] = field(repr=False)
    eager: tuple[torch.Tensor, ...] = field(repr=False)


def build_scorer_module(
    model: nn.Module,
    loss: Loss | nn.Module,
    example_batch: Any,
    *,
    targets: Sequence[str] | None = None,
    scale_factor: float = 1.0,
    copy: bool = True,
) -> BuiltScorer:
    """Makes one module of `model` and `loss`, and runs it once on the example batch, in eval mode, without gradients.

    Args are those of export_scorer. `copy`: True = a copy of the model on the CPU, in eval mode, that needs no
    gradients; False = the user's own model where it is, and the caller sees to its mode.

    The model, its mode, gradients and the random state are as before afterwards. Raises ExportError, ConfigError.
    """
    if example_batch is None:
        raise ConfigError("example_batch", None, "a batch of your loader")
    if not 0 < scale_factor <= 1:
        raise ConfigError("scale_factor", scale_factor, "a number above 0, at most 1")
    flat = structure.flatten(example_batch)
    if copy and sum(p.numel() for p in model.parameters()) > _LARGE:
        flat = flat.slice(0, min(_ROWS_OF_LARGE, flat.rows))
    inputs, target_names = split_fields(flat, targets)
    own = unwrap(model)
    if copy:
        cloned = _cloned(own)
        inner, state = cloned.module, cloned.state
    else:
        inner, state = own, {plain_name(n): t for n, t in named_state(own).items()}
    device = next((t.device for t in state.values()), torch.device("cpu"))
    arguments = Arguments(flat, tuple(inputs), tuple(target_names))
    module = ScorerModule(inner, loss if isinstance(loss, BatchLoss) else row_loss(loss).to(device), arguments)
    if copy:
        for m in module.modules():
            m.training = False  # not eval(): a model may do more in its own
    fields = {n: flat.tensors[n].detach().to(device).contiguous() for n in inputs + target_names}
    specs = dict(zip(fields, specs_of(fields), strict=True))
    if scale_factor < 1:
        module.scale_factor = scale_factor
        module.scaled = frozenset(shrinkable({n: fields[n] for n in inputs}))
        if not module.scaled:
            raise ConfigError("scale_factor", scale_factor, "1.0 for a batch without floating-point inputs of 3 to 5 "
                              "dimensions")  # fmt: skip
    with scoring(inner, device):
        eager = _settle(module, fields)
    example = tuple(fields[n] for n in module.fields)
    entries = state_entries(own, state, {id(t): n for n, t in reversed(named_state(module).items())}, strict=copy)
    return BuiltScorer(
        module, module.fields, module.columns, [specs[n] for n in module.fields], entries, device, example, eager
    )


def _cloned(model: nn.Module) -> Clone:
    try:
        return clone(model)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"the model can't be copied: {type(error).__name__}: {first_line(error)}. Export it before what can't be "
            "copied is attached, or give scorer=siftd.PythonScorer.from_factory(...)"
        ) from error


@contextlib.contextmanager
def scoring(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode, no gradients and no trace of it afterwards."""
    flags = [(m, m.training) for m in model.modules()]
    try:
        for m, _ in flags:
            m.training = False
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for m, was in flags:
            m.training = was


def _settle(module: ScorerModule, fields: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Finds out how the model is called and what columns there are, by calling it."""
    if isinstance(module.loss, BatchLoss):
        module.fields = tuple(fields)
        return _run(module, fields, "BatchLoss(fn)")
    failed: list[tuple[Arguments, Exception]] = []
    for way in _ways(module, fields, failed):
        module.arguments, module.fields = way, way.used
        inputs = {n: module._shrunk(t) if n in module.scaled else t for n, t in fields.items()}
        try:
            output = Output.of(way.call(module.model, inputs))
        except Exception as error:
            failed.append((way, error))
            continue
        if _is_logits(output.main, way.target_values(inputs)):
            module.columns = ("loss", "confidence", "grad_norm")
        return _run(module, fields, str(way))
    way, cause = failed[0]
    others = "".join(f"; {w}: {first_line(e)}" for w, e in failed[1:])
    raise ExportError(
        f"the model failed on the example batch, called as {way}: {first_line(cause)}{others}. {_given(way, fields)}"
    ) from cause


def _ways(
    module: ScorerModule, fields: dict[str, torch.Tensor], failed: list[tuple[Arguments, Exception]]
) -> Iterator[Arguments]:
    """Each way to call the model while the ones before failed: first with the fields as they are, then, where the
    model computes in another floating-point type, cast to it."""
    floats = {p.dtype for p in module.model.parameters() if p.is_floating_point()}
    other = any(t.is_floating_point() and t.dtype not in floats for t in fields.values())
    for dtype in (None, *(floats if other and len(floats) == 1 else ())):
        for first in module.arguments.ways(module.model):
            way: Arguments | None = replace(first, dtype=dtype)
            while way is not None:
                before = len(failed)
                yield way
                less = way.without(failed[-1][1]) if len(failed) > before else None
                if less is not None:
                    failed.pop()
                way = less


def _run(module: ScorerModule, fields: dict[str, torch.Tensor], how: str) -> tuple[torch.Tensor, ...]:
    try:
        return cast(tuple[torch.Tensor, ...], module(*(fields[n] for n in module.fields)))
    except (ExportError, ConfigError):
        raise
    except Exception as error:
        raise ExportError(
            f"the loss failed on the example batch, with {how}: {first_line(error)}. {_given(module.arguments, fields)}"
        ) from error


def _given(way: Arguments, fields: dict[str, torch.Tensor]) -> str:
    shapes = ", ".join(f"{n} {list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for n, t in fields.items())
    targets = ", ".join(way.targets) or "none"
    return f"The batch has {shapes}; targets: {targets} (others by targets=[...])"


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # TorchScript puts its own backtrace first and the cause last.
    return (lines[-1] if "TorchScript interpreter" in lines[0] else lines[0]).rstrip(".")
