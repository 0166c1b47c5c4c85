# SPDX-License-Identifier: Apache-2.0
"""An exported scorer against the eager one, on batches that differ from the example in what a trace may have frozen."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from siftd._scorer.module import BuiltScorer, first_line, scoring
from siftd._scorer.trace import PYTHON_BACKEND
from siftd.errors import ExportError

_ALIKE = "Rows depend on each other: a batch-wide loss, or a layer that mixes rows, can't be scored row by row"
_SIZED = "The trace holds the example's batch size: take sizes from the tensor (x.shape[0]), not from constants"
_VALUES = f"The forward depends on values, which a trace can't follow. {PYTHON_BACKEND}"
_LENGTH = (
    "The trace holds the example's sequence length: take sizes from the tensor (x.shape[1]), and don't compute with "
    f"them in Python. {PYTHON_BACKEND}"
)
_MASK = f"The forward branches on the mask's values, which a trace can't follow. {PYTHON_BACKEND}"
_RANDOM = "The model draws random numbers in eval mode too: its scores would be noise"


@dataclass(frozen=True)
class _Case:
    """`rows`: of the example, whose eager columns are expected; None: those of the eager module on `fields`, unless it
    refuses them."""

    what: str
    fields: tuple[torch.Tensor, ...]
    rows: torch.Tensor | None
    advice: str


def self_test(archive: bytes, built: BuiltScorer, used: Sequence[int]) -> None:
    """Raises ExportError that says on what batch the scorers differ and what to do. `used`: as in Traced."""
    loaded = torch.jit.load(io.BytesIO(archive), map_location=built.device)
    loaded.eval()
    rtol, atol = _tolerance(built)
    with scoring(built.module, built.device):
        if not _close(built.module(*built.example), built.eager, rtol, atol):
            raise ExportError(f"two runs of the model on the example batch differ. {_RANDOM}")
        for case in _cases(built):
            if case.rows is not None:
                want = tuple(c.index_select(0, case.rows) for c in built.eager)
            else:
                try:
                    want = built.module(*case.fields)
                except Exception:
                    continue  # not a batch of this model
            try:
                got = loaded(*(case.fields[i] for i in used))
            except Exception as error:
                raise ExportError(
                    f"the exported scorer fails on {case.what}: {first_line(error)}. {case.advice}"
                ) from error
            for name, a, b in zip(built.columns, got, want, strict=True):
                if not _close((a,), (b,), rtol, atol):
                    raise ExportError(f"column '{name}' of the exported scorer differs on {case.what}. {case.advice}")


def _tolerance(built: BuiltScorer) -> tuple[float, float]:
    """Kernels of other batch sizes round otherwise, by the type that the model computes in."""
    types = {t.dtype for t in (*built.module.parameters(), *built.example) if t.is_floating_point()}
    with contextlib.suppress(RuntimeError):  # a program that sets precisions by backend
        if torch.get_float32_matmul_precision() == "medium":
            types.add(torch.bfloat16)
    if torch.bfloat16 in types:
        return 0.05, 0.05
    return (0.01, 0.01) if torch.float16 in types else (1e-3, 1e-5)


def _close(got: Sequence[torch.Tensor], want: Sequence[torch.Tensor], rtol: float, atol: float) -> bool:
    return all(
        a.shape == b.shape and torch.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
        for a, b in zip(got, want, strict=True)
    )


def _cases(built: BuiltScorer) -> Iterator[_Case]:
    fields = built.example
    n = len(fields[0])
    every = torch.arange(n, device=built.device)

    def of_rows(what: str, rows: torch.Tensor, advice: str) -> _Case:
        return _Case(what, tuple(f.index_select(0, rows) for f in fields), rows, advice)

    yield of_rows("the example batch", every, _VALUES)
    if n > 1:
        yield of_rows("the rows in reverse order", every.flip(0), _ALIKE)
        if n > 2:
            yield of_rows("one row less", every[:-1], _SIZED)
        yield of_rows("a single row", every[:1], _ALIKE)
    yield of_rows("twice the rows", torch.cat([every, every]), _SIZED)
    lengths = sorted({s for f in fields if not f.is_floating_point() for s in f.shape[1:] if s > 1})
    for length in lengths:
        shorter = tuple(_cut(f, s, length) for f, s in zip(fields, built.inputs, strict=True))
        yield _Case(f"sequences of {max(1, length // 2)} instead of {length}", shorter, None, _LENGTH)
    targets = built.module.arguments.targets
    for i, (name, f) in enumerate(zip(built.fields, fields, strict=True)):
        if name in targets or not _is_mask(name, f):
            continue
        for other in (torch.ones_like(f), _half(f)):
            if not torch.equal(other, f):
                yield _Case(f"another '{name}'", (*fields[:i], other, *fields[i + 1 :]), None, _MASK)


def _cut(field: torch.Tensor, spec: Any, length: int) -> torch.Tensor:
    """Half of every free dimension of this length."""
    for dim, free in enumerate(spec.shape):
        if dim > 0 and free == -1 and field.shape[dim] == length:
            field = field.narrow(dim, 0, max(1, length // 2))
    return field.contiguous()


def _is_mask(name: str, field: torch.Tensor) -> bool:
    if field.dim() < 2 or field.shape[-1] < 2:
        return False
    return name.rsplit(".", 1)[-1] == "attention_mask" or bool(((field == 0) | (field == 1)).all())


def _half(mask: torch.Tensor) -> torch.Tensor:
    """Ones in the first half, zeros in the second, in every other row, the first one among them."""
    other = mask.clone()
    other[::2] = 1
    other[::2, ..., mask.shape[-1] // 2 :] = 0
    return other
