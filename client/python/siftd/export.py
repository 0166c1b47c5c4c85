# SPDX-License-Identifier: Apache-2.0
"""A user's model and loss as a scorer: a TorchScript archive that gives one loss per row.

The archive's forward(*inputs, *targets) returns float32 [n] columns, "loss" first. Where the model's output is logits
[n, C] with integer targets [n], two columns more cost nothing: "confidence" (largest softmax probability) and
"grad_norm" (norm of softmax - onehot, the last layer's gradient; Katharopoulos and Fleuret, arXiv 1803.00942).
"""

from __future__ import annotations

import copy
import hashlib
import io
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from google.protobuf.message import DecodeError
from torch import nn

from siftd import _structure
from siftd._wire_tensor import dtype_number
from siftd.errors import ConfigError, ExportError
from siftd.v1 import artifact_pb2

Loss = str | Callable[..., torch.Tensor]
TARGET_NAMES = frozenset({"label", "labels", "target", "targets", "y", "start_positions", "end_positions"})
_NAMED: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": lambda out, y: F.cross_entropy(out, y, reduction="none"),
    "nll": lambda out, y: F.nll_loss(out, y, reduction="none"),
    "mse": lambda out, y: F.mse_loss(out, y, reduction="none"),
    "l1": lambda out, y: F.l1_loss(out, y, reduction="none"),
    "smooth_l1": lambda out, y: F.smooth_l1_loss(out, y, reduction="none"),
    "bce_with_logits": lambda out, y: F.binary_cross_entropy_with_logits(out, y.to(out.dtype), reduction="none"),
}


@dataclass(frozen=True)
class Scorer:
    """An exported scorer.

    Attributes:
      archive: the TorchScript file's bytes; `siftd worker --artifact` reads it.
      sha256: of the archive, lower-case hexadecimal.
      columns: names of the score columns.
      fields: batch fields that the scorer reads, in the order of its arguments.
      state: the parameters and buffers that weights consist of (proto StateEntry), in publishing order.
    """

    archive: bytes = field(repr=False)
    sha256: str
    columns: tuple[str, ...]
    fields: tuple[str, ...]
    state: tuple[Any, ...] = field(repr=False)

    @property
    def sees_logits(self) -> bool:
        return "confidence" in self.columns

    def save(self, path: str | Path) -> Path:
        path = Path(path)
        path.write_bytes(self.archive)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Scorer:
        """What `save` wrote. Reads the manifest only: no code of the archive runs here."""
        archive = Path(path).read_bytes()
        manifest = artifact_pb2.ArtifactManifest()
        try:
            with zipfile.ZipFile(io.BytesIO(archive)) as file:
                name = next(n for n in file.namelist() if n.endswith("/extra/siftd.manifest"))
                manifest.ParseFromString(file.read(name))
        except (zipfile.BadZipFile, StopIteration, DecodeError) as error:
            raise ConfigError("scorer", str(path), "an archive that siftd.export_scorer(...).save wrote") from error
        return cls(
            archive,
            hashlib.sha256(archive).hexdigest(),
            tuple(manifest.columns),
            tuple(i.name for i in manifest.inputs),
            tuple(manifest.state),
        )


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside DistributedDataParallel, DataParallel or torch.compile."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = cast(nn.Module, model._orig_mod)
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        else:
            return model


def split_fields(flat: _structure.Flat, targets: Sequence[str] | None = None) -> tuple[list[str], list[str]]:
    """Names of the inputs and the targets of a batch.

    A dict's targets are the fields called label(s), target(s) or y; a tuple's target is its last field.
    """
    names = list(flat.tensors)
    if targets is not None:
        missing = [t for t in targets if t not in names]
        if missing:
            raise ConfigError("targets", missing, f"fields of the batch: {', '.join(names)}")
        return [n for n in names if n not in targets], list(targets)
    by_name = [n for n in names if n.rsplit(".", 1)[-1] in TARGET_NAMES]
    if by_name:
        return [n for n in names if n not in by_name], by_name
    if len(names) == 1:
        return names, []
    return names[:-1], names[-1:]


class _ScorerModule(nn.Module):
    """forward(*inputs, *targets) -> columns. The inputs go to the model by name where the batch is a dict."""

    def __init__(
        self, model: nn.Module, loss: Loss, keywords: list[str] | None, inputs: int, logits: bool | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.loss: Any = loss
        self.keywords = keywords
        self.inputs = inputs
        self.logits = logits  # None: find out
        self.columns: tuple[str, ...] = ()

    def forward(self, *fields: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inputs, targets = fields[: self.inputs], fields[self.inputs :]
        if self.keywords is not None:
            output = self.model(**dict(zip(self.keywords, inputs, strict=True)))
        else:
            output = self.model(*inputs)
        output = _main_output(output)
        columns = [_per_row(self._loss(output, targets), len(fields[0]))]
        names = ["loss"]
        if self.logits is not False and _is_logits(output, targets):
            p = output.float().softmax(1)
            columns.append(p.amax(1))
            # |p - onehot|^2 = |p|^2 - 2 p_y + 1; rounding may leave a negative zero.
            p_y = p.gather(1, targets[0].clamp(min=0).unsqueeze(1)).squeeze(1)
            columns.append((p.square().sum(1) - 2 * p_y + 1).clamp(min=0).sqrt())
            names += ["confidence", "grad_norm"]
        self.columns = tuple(names)
        return tuple(c.float() for c in columns)

    def _loss(self, output: torch.Tensor, targets: tuple[torch.Tensor, ...]) -> torch.Tensor:
        if isinstance(self.loss, str):
            if not targets:
                raise ExportError(f'loss="{self.loss}" needs a target, and the batch has one field only')
            return _NAMED[self.loss](output, targets[0])
        return cast(torch.Tensor, self.loss(output, *targets))


def _main_output(output: Any) -> Any:
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    if isinstance(output, tuple) and len(output) == 1:
        return output[0]
    return output


def _per_row(loss: Any, rows: int) -> torch.Tensor:
    if not isinstance(loss, torch.Tensor):
        raise ExportError(f"the loss returned {type(loss).__name__}; it must return a tensor with one loss per row")
    if loss.dim() == 0 or loss.shape[0] != rows:
        raise ExportError(
            f"the loss returned shape {list(loss.shape)} for {rows} rows; give a loss without reduction, for example "
            'loss="cross_entropy" or lambda out, y: F.cross_entropy(out, y, reduction="none")'
        )
    # flatten, not reshape: the trace would hold the example's rows.
    return loss.flatten(1).mean(1) if loss.dim() > 1 else loss


def _is_logits(output: Any, targets: tuple[torch.Tensor, ...]) -> bool:
    return (
        isinstance(output, torch.Tensor)
        and output.dim() == 2
        and output.shape[1] > 1
        and output.is_floating_point()
        and len(targets) == 1
        and targets[0].dim() == 1
        and not targets[0].is_floating_point()
        and targets[0].dtype != torch.bool
    )


def _as_loss(loss: Loss | nn.Module) -> Loss:
    if isinstance(loss, str):
        if loss not in _NAMED:
            raise ConfigError("loss", loss, f"{', '.join(_NAMED)}, or a callable(output, target) -> [n]")
        return loss
    if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
        unreduced: Any = copy.deepcopy(loss)
        unreduced.reduction = "none"
        return cast(nn.Module, unreduced.eval())
    if not callable(loss):
        raise ConfigError("loss", loss, f"{', '.join(_NAMED)}, or a callable(output, target) -> [n]")
    return loss


def export_scorer(
    model: nn.Module,
    loss: Loss | nn.Module = "cross_entropy",
    example_batch: Any = None,
    *,
    targets: Sequence[str] | None = None,
) -> Scorer:
    """Exports `model` and `loss` by tracing them in eval mode on a copy; the model itself is not touched.

    Args:
      loss: a name (cross_entropy, nll, mse, l1, smooth_l1, bce_with_logits), a torch loss module, or any callable
        (output, *targets) -> [n] or [n, ...] (averaged inside the row).
      example_batch: a batch as the loader gives it; its first size is the batch.
      targets: fields that are targets, where the names don't tell.

    Raises:
      ExportError: what can't be exported, and what to do about it.
    """
    if example_batch is None:
        raise ConfigError("example_batch", None, "a batch of your loader")
    flat = _structure.flatten(example_batch)
    inputs, target_names = split_fields(flat, targets)
    names = inputs + target_names
    fields = tuple(flat.tensors[n].detach().cpu() for n in names)
    keywords = inputs if isinstance(example_batch, Mapping) else None
    try:
        clone = copy.deepcopy(unwrap(model)).cpu().eval().requires_grad_(False)
    except Exception as error:
        raise ExportError(
            f"the model can't be copied: {error}. Export it before hooks or graphs are attached"
        ) from error
    scorer = _ScorerModule(clone, _as_loss(loss), keywords, len(inputs)).eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's; the self-test checks what they warn of
        eager = _run(scorer, fields)
        columns = scorer.columns
        scorer.logits = len(columns) > 1
        try:
            traced = torch.jit.trace(scorer, fields, check_trace=False)
        except Exception as error:
            raise ExportError(
                f"torch.jit.trace failed: {_first_line(error)}. Give a model whose forward takes and returns tensors, "
                "and a loss that does not look into their values"
            ) from error
        manifest = _manifest(unwrap(model), clone, traced, columns, names, fields)
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer, _extra_files={"siftd.manifest": manifest.SerializeToString()})
        archive = buffer.getvalue()
        _self_test(archive, scorer, fields, eager)
    return Scorer(archive, hashlib.sha256(archive).hexdigest(), columns, tuple(names), tuple(manifest.state))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # TorchScript puts its own backtrace first and the cause last.
    return lines[-1] if "TorchScript interpreter" in lines[0] else lines[0]


def _run(scorer: _ScorerModule, fields: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    try:
        return cast(tuple[torch.Tensor, ...], scorer(*fields))
    except (ExportError, ConfigError):
        raise
    except Exception as error:
        shapes = ", ".join(f"{list(f.shape)} {str(f.dtype).removeprefix('torch.')}" for f in fields)
        raise ExportError(
            f"the model or loss failed on the example batch: {_first_line(error)}. It was called with {shapes}, the "
            f"last {len(fields) - scorer.inputs} as targets; name other targets by targets=[...]"
        ) from error


def _manifest(
    model: nn.Module,
    clone: nn.Module,
    traced: Any,
    columns: tuple[str, ...],
    names: list[str],
    fields: tuple[torch.Tensor, ...],
) -> Any:
    manifest = artifact_pb2.ArtifactManifest(
        format=1, torch_version=torch.__version__, model=type(model).__name__, columns=columns
    )
    for name, tensor in zip(names, fields, strict=True):
        # Integers and masks beyond the batch are sequences, whose length varies; pixels keep their shape.
        free = not tensor.is_floating_point()
        shape = [-1, *([-1] * (tensor.dim() - 1) if free else tensor.shape[1:])]
        manifest.inputs.add(name=name, dtype=dtype_number(tensor), shape=shape)
    archived = dict(traced.named_parameters()) | dict(traced.named_buffers())
    # The archive may call a tied weight by another of its names: the storage tells.
    by_storage = {t.data_ptr(): path for path, t in reversed(archived.items()) if t.numel() > 0}
    copies = _state(clone)
    for name, original in _state(model).items():
        path = f"model.{name}"
        if path not in archived:
            path = by_storage.get(copies[name].data_ptr(), "")
        if not path:
            continue  # the trace does not use it
        manifest.state.add(
            name=name,
            archive_name=path,
            dtype=dtype_number(archived[path]),
            shape=archived[path].shape,
            is_buffer=not isinstance(original, nn.Parameter),
        )
    # Wide types first: entries lie back to back, and each then starts at a multiple of its item size.
    entries = sorted(manifest.state, key=lambda e: -archived[e.archive_name].dtype.itemsize)
    del manifest.state[:]
    manifest.state.extend(entries)
    return manifest


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters, then buffers, each storage once, by its first name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _self_test(
    archive: bytes, scorer: _ScorerModule, fields: tuple[torch.Tensor, ...], eager: tuple[torch.Tensor, ...]
) -> None:
    loaded = torch.jit.load(io.BytesIO(archive))
    loaded.eval()
    n = len(fields[0])

    def check(what: str, rows: torch.Tensor, advice: str, rtol: float) -> None:
        picked = tuple(f.index_select(0, rows) for f in fields)
        try:
            got = loaded(*picked)
        except Exception as error:
            raise ExportError(f"the exported scorer fails on {what}: {_first_line(error)}. {advice}") from error
        for name, a, b in zip(scorer.columns, got, eager, strict=True):
            want = b.index_select(0, rows)
            if a.shape != want.shape or not torch.allclose(a, want, rtol=rtol, atol=1e-5, equal_nan=True):
                raise ExportError(f"column '{name}' of the exported scorer differs on {what}. {advice}")

    every = torch.arange(n)
    alike = "Rows depend on each other: a batch-wide loss, or a layer that mixes rows, can't be scored row by row"
    sized = "The trace holds the example's batch size: take sizes from the tensor (x.shape[0]), not from constants"
    check("the example batch", every, "The model's forward depends on values, which a trace can't follow", 1e-4)
    if n > 1:
        check("the rows in reverse order", every.flip(0), alike, 1e-3)
        check("one row less", every[:-1], sized, 1e-3)
        check("a single row", every[:1], alike, 1e-3)
    check("twice the rows", torch.cat([every, every]), sized, 1e-3)
