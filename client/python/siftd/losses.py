# SPDX-License-Identifier: Apache-2.0
"""Losses of a scorer: one float32 number per row, from a name, a torch loss module, a callable, or a BatchLoss.

| loss | takes | inside a row |
|---|---|---|
| "cross_entropy", "nll" | [n, C] and labels [n]; [n, ..., C] or [n, C, ...] and labels [n, ...] | labels' mean |
| "causal_lm" | logits [n, T, C] and labels [n, T], shifted by one as in transformers' ForCausalLM | labels' mean |
| "mse", "l1", "smooth_l1", "bce_with_logits" | output and target of one shape, or output [..., 1] | plain mean |
| a torch loss module | as in training; a copy's reduction is set to "none" | as of its name |
| a callable (output, *targets) | what the model returns, or its logits | labels' mean where losses are per label |

The labels' mean leaves out labels that are -100 (a torch module's own ignore_index); a row without others has loss 0.
Half-precision outputs become float32 before named and torch losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from siftd._scorer.clone import clone
from siftd.errors import ConfigError, ExportError

IGNORED = -100  # torch's and transformers' label of what has no loss


@dataclass(frozen=True)
class BatchLoss:
    """A loss that calls the model itself, for models and batches that don't fit loss(model(inputs), targets).

    Args:
      fn: fn(model, batch) -> losses [n], [n, 1] or [n, ...] (averaged inside a row), without reduction over rows.
        `batch` has the user's own structure. Call the model that is given, never another reference to it. Tensors by
        row are the scored batch's; anything else in the batch (strings, lists, scalars) is the example batch's.
    """

    fn: Callable[[Any, Any], torch.Tensor]

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise ConfigError("BatchLoss", self.fn, "a callable(model, batch) -> losses [n]")


Loss = str | Callable[..., torch.Tensor] | BatchLoss

_OF_CLASSES: dict[str, Callable[..., torch.Tensor]] = {"cross_entropy": F.cross_entropy, "nll": F.nll_loss}
_OF_VALUES: dict[str, Callable[..., torch.Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
}
NAMES = (*_OF_CLASSES, "causal_lm", *_OF_VALUES)
_ALLOWED = f"{', '.join(NAMES)}, a callable(output, *targets) -> [n], or siftd.BatchLoss"
_CLASS_MODULES = (nn.CrossEntropyLoss, nn.NLLLoss)
_VALUE_MODULES = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCEWithLogitsLoss, nn.BCELoss)


@dataclass(frozen=True)
class Output:
    """What a model returned. `main`: its logits, or all of it where it does not tell. `classes_last`: of those logits,
    as in transformers; else torch's own order, classes second, is tried first."""

    whole: Any
    main: Any
    classes_last: bool = False

    @classmethod
    def of(cls, output: Any) -> Output:
        if isinstance(output, torch.Tensor | torch.distributions.Distribution):
            return cls(output, output)
        if isinstance(output, Mapping):
            key = next((k for k in ("logits", "out") if k in output), None)
            if key is None and len(output) == 1:
                key = next(iter(output))
            return cls(output, output if key is None else output[key], key == "logits")
        if isinstance(getattr(output, "logits", None), torch.Tensor):
            return cls(output, output.logits, True)
        if isinstance(output, tuple) and output:
            return cls(output, output[0])
        return cls(output, output)

    def tensor(self) -> torch.Tensor:
        """`main` for a loss of torch. Raises ExportError where it is no tensor."""
        if not isinstance(self.main, torch.Tensor):
            what = type(self.whole).__name__
            if isinstance(self.whole, Mapping):
                what += f" with {', '.join(map(str, self.whole))}"
            raise ExportError(
                f"the model returns {what}, and its logits can't be told; give loss=callable(output, *targets) -> [n]"
            )
        return self.main.float() if self.main.dtype in (torch.float16, torch.bfloat16) else self.main


def is_tracing() -> bool:
    """Sizes are no plain integers then, and the checks of them are done."""
    return torch._C._get_tracing_state() is not None


class RowLoss(nn.Module):
    """forward(output, targets) -> loss [n] of each row. Made by `row_loss`."""

    def forward(self, output: Output, targets: tuple[Any, ...]) -> torch.Tensor:
        raise NotImplementedError


class _Standard(RowLoss):
    """A loss of torch without reduction, and the rules above for shapes, types and the mean inside a row."""

    def __init__(self, name: str, fn: Callable[..., torch.Tensor], classes: bool, ignored: int = IGNORED) -> None:
        super().__init__()
        self.name, self.fn, self.classes, self.ignored = name, fn, classes, ignored

    def forward(self, output: Output, targets: tuple[Any, ...]) -> torch.Tensor:
        if len(targets) != 1 or not isinstance(targets[0], torch.Tensor):
            found = "none" if not targets else f"{len(targets)} of them" if len(targets) > 1 else "a structure"
            raise ExportError(
                f'loss="{self.name}" takes one target tensor and found {found}; name it by targets=[FIELD], or give a '
                "callable(output, *targets)"
            )
        out, y = output.tensor(), targets[0]
        if not self.classes:
            if out.dim() == y.dim() + 1 and out.shape[-1] == 1:
                out = out.squeeze(-1)
            if not is_tracing() and out.shape != y.shape:
                raise ExportError(
                    f"loss=\"{self.name}\" compares the model's {list(out.shape)} with the target's {list(y.shape)}; "
                    "the shapes must be equal: reshape in a callable(output, target)"
                )
            return row_mean(self.fn(out, y if y.is_floating_point() else y.to(out.dtype)))
        if y.is_floating_point():  # probabilities of the classes
            return row_mean(self.fn(out, y.to(out.dtype)))
        y = y.long()
        losses = self.fn(_classes_second(out, y, output.classes_last), y)
        return label_mean(losses, y, self.ignored)


class _CausalLm(_Standard):
    def forward(self, output: Output, targets: tuple[Any, ...]) -> torch.Tensor:
        if len(targets) == 1 and isinstance(output.main, torch.Tensor) and isinstance(targets[0], torch.Tensor):
            if output.main.dim() != 3 or targets[0].dim() != 2:
                raise ExportError(
                    f'loss="causal_lm" takes logits [n, T, C] and labels [n, T]; it got {list(output.main.shape)} and '
                    f"{list(targets[0].shape)}"
                )
            output, targets = Output(output.whole, output.main[:, :-1], True), (targets[0][:, 1:],)
        return super().forward(output, targets)


class _Callable(RowLoss):
    """The user's own. `whole`: it takes all that the model returns, not the main part; None: the first call tells."""

    def __init__(self, fn: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.fn = fn
        self.ignored = int(getattr(fn, "ignore_index", IGNORED))
        self.whole: bool | None = None

    def forward(self, output: Output, targets: tuple[Any, ...]) -> torch.Tensor:
        if self.whole is None:
            losses = self._first(output, targets)
        else:
            losses = self.fn(output.whole if self.whole else output.main, *targets)
        if not isinstance(losses, torch.Tensor):
            raise ExportError(
                f"the loss returned {type(losses).__name__}; it must return a tensor with one loss per row"
            )
        y = targets[0] if len(targets) == 1 else None
        if not isinstance(y, torch.Tensor) or y.is_floating_point() or y.dtype == torch.bool or y.dim() < 2:
            return row_mean(losses)
        if losses.dim() == 1 and losses.numel() == y.numel() != len(y):
            losses = losses.view_as(y)  # a loss over out.view(-1, C) and y.view(-1)
        return label_mean(losses, y, self.ignored) if losses.shape == y.shape else row_mean(losses)

    def _first(self, output: Output, targets: tuple[Any, ...]) -> Any:
        # The loss of a model that returns a tuple was written for the tuple; with logits, for the logits.
        whole = isinstance(output.whole, tuple) and len(output.whole) > 1 and not hasattr(output.whole, "logits")
        try:
            losses = self.fn(output.whole if whole else output.main, *targets)
        except (TypeError, AttributeError, LookupError):
            if output.whole is output.main:
                raise
            try:
                losses = self.fn(output.main if whole else output.whole, *targets)
            except Exception:
                losses = None
            if losses is None:
                raise
            whole = not whole
        self.whole = whole
        return losses


def row_loss(loss: Loss | nn.Module) -> RowLoss:
    """Checks `loss` and makes it one number per row, on the CPU. Raises ConfigError.

    A torch loss module, and any other nn.Module, is copied; the user's own stays as it is.
    """
    if isinstance(loss, str):
        if loss not in NAMES:
            raise ConfigError("loss", loss, _ALLOWED)
        if loss == "causal_lm":
            return _CausalLm(loss, _unreduced(F.cross_entropy), True)
        return _Standard(loss, _unreduced(_OF_CLASSES.get(loss) or _OF_VALUES[loss]), loss in _OF_CLASSES)
    if isinstance(loss, nn.Module):
        own: Any = clone(loss).module
        if hasattr(own, "reduction"):
            own.reduction = "none"
        if isinstance(own, (*_CLASS_MODULES, *_VALUE_MODULES)):
            classes = isinstance(own, _CLASS_MODULES)
            return _Standard(type(own).__name__, own, classes, int(getattr(own, "ignore_index", IGNORED)))
        return _Callable(own)
    if not callable(loss):
        raise ConfigError("loss", loss, _ALLOWED)
    return _Callable(loss)


def _unreduced(fn: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda out, y: fn(out, y, reduction="none")


def _classes_second(out: torch.Tensor, y: torch.Tensor, classes_last: bool) -> torch.Tensor:
    """The logits in torch's order [n, C, ...]. Where both orders fit the labels, transformers' outputs are taken as
    [n, ..., C] and all others as torch.nn.functional.cross_entropy takes them."""
    if out.dim() != y.dim() + 1 or y.dim() < 2:
        return out
    last, second = out.shape[1:-1] == y.shape[1:], out.shape[2:] == y.shape[1:]
    return out.movedim(-1, 1) if last and (classes_last or not second) else out


def row_mean(losses: torch.Tensor) -> torch.Tensor:
    """[n, ...] to [n]. Sizes are not read: a trace would hold the example's."""
    return losses.flatten(1).mean(1) if losses.dim() > 1 else losses


def label_mean(losses: torch.Tensor, labels: torch.Tensor, ignored: int) -> torch.Tensor:
    """Losses [n, ...] to their mean [n] over the labels [n, ...] that are not `ignored`; 0 where all are."""
    counted = labels.long().ne(ignored)
    losses = torch.where(counted, losses, torch.zeros_like(losses))
    if losses.dim() == 1:
        return losses
    return losses.flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)
