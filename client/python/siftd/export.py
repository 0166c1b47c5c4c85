# SPDX-License-Identifier: Apache-2.0
"""A user's model and loss as a scorer: a TorchScript archive that gives one loss per row.

The archive's forward(*fields) returns float32 [n] columns, "loss" first; `_scorer_module` says which.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from google.protobuf.message import DecodeError
from torch import nn

from siftd._scorer.clone import unwrap
from siftd._scorer.module import build_scorer_module, scoring
from siftd._scorer.self_test import self_test
from siftd._scorer.trace import Traced
from siftd.errors import ConfigError
from siftd.losses import BatchLoss, Loss
from siftd.v1 import artifact_pb2

__all__ = ["BatchLoss", "Loss", "Scorer", "export_scorer", "unwrap"]


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


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Whatever the caller has switched on does not get into the trace, and no warning of it gets out."""
    with (
        warnings.catch_warnings(),
        torch.compiler.set_stance("force_eager"),
        torch.autocast("cpu", enabled=False),
        torch.device("cpu"),
    ):
        warnings.simplefilter("ignore")  # the tracer's, too: the self-test checks what they warn of
        yield


def export_scorer(
    model: nn.Module,
    loss: Loss | nn.Module = "cross_entropy",
    example_batch: Any = None,
    *,
    targets: Sequence[str] | None = None,
    scale_factor: float = 1.0,
) -> Scorer:
    """Exports `model` and `loss` by tracing them in eval mode on a copy; the model itself is not touched.

    The model gets its inputs in the batch's own structure, without the targets: a dict's fields by name, those that its
    forward does not know left out (or the whole dict, where it takes that); a tuple's items by position; a dict in a
    tuple either way. The archive runs on any device, and with any number of rows; the lengths of integer fields, and of
    floating-point fields along them, may vary.

    For a model sharded by fully_shard or tensor parallelism this is a collective: every rank must call it.

    Args:
      model: may be on any device, of any floating-point type, in DistributedDataParallel or torch.compile.
      loss: a name (cross_entropy, nll, causal_lm, mse, l1, smooth_l1, bce_with_logits), a torch loss module, any
        callable (output, *targets) -> [n] or [n, ...] (averaged inside the row), or a siftd.BatchLoss.
      example_batch: a batch as the loader gives it; its first size is the batch.
      targets: fields (or items that hold fields) that are targets, where the names don't tell.
      scale_factor: below 1, floating-point inputs are shrunk by it before the forward, which costs about its square of
        the time: [n, C, H, W] bilinearly as in Composer's SelectiveBackprop, [n, C, L] linearly and [n, C, D, H, W]
        trilinearly. Inputs of other types (uint8 images) and along a sequence of integers keep their size.

    Raises:
      ExportError: what can't be exported, and what to do about it.
      ConfigError: an argument is out of its range.
    """
    with _alone():
        built = build_scorer_module(model, loss, example_batch, targets=targets, scale_factor=scale_factor)
        with scoring(built.module, built.device):
            traced = Traced(built)
        manifest = artifact_pb2.ArtifactManifest(
            format=1,
            torch_version=torch.__version__,
            model=type(unwrap(model)).__name__,
            inputs=[built.inputs[i] for i in traced.used],
            columns=built.columns,
            state=[e for e in built.state if e.archive_name in traced.paths],
        )
        archive = traced.archive(manifest=manifest.SerializeToString())
        self_test(archive, built, traced.used)
    fields = tuple(built.fields[i] for i in traced.used)
    return Scorer(archive, hashlib.sha256(archive).hexdigest(), built.columns, fields, tuple(manifest.state))
