# SPDX-License-Identifier: Apache-2.0
"""A user's model and loss as they are, for workers with `backend: python`: for models that can't be exported."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import nn

from siftd._batches import structure
from siftd._scorer.clone import clone, named_state, unwrap
from siftd._scorer.module import ScorerModule, build_scorer_module
from siftd._scorer.sharded import plain_name
from siftd.errors import ConfigError, ExportError
from siftd.losses import Loss
from siftd.v1 import artifact_pb2

FROM_FILE = "siftd._scorer.child:from_file"
SCORER_FILE = "SIFTD_SCORER_FILE"  # names the file, to a worker's children
_ARGUMENTS = ("model", "loss", "example_batch", "targets", "scale_factor")


@dataclass(frozen=True)
class PythonScorer:
    """A model and loss that workers run as Python, without an export. Stands where a Scorer does.

        # sifting.py, importable where the workers run
        def make_scorer():
            return MyModel(), "cross_entropy", (torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long))

        # siftd worker --backend python --python-factory sifting:make_scorer
        loader = siftd.SiftingDataLoader(..., scorer=siftd.PythonScorer.from_factory("sifting:make_scorer"))

    The factory must make the same scorer at each call, but for the weights: those of the training model replace them.
    It is named by whoever starts the worker; no code, and no name of any, comes over the wire.

    Attributes:
      sha256: of what the scorer takes, gives and holds, lower-case hexadecimal; equal in trainer and workers.
      columns: names of the score columns.
      fields: batch fields that the scorer reads, in the order of its arguments.
      state: the parameters and buffers that weights consist of (proto StateEntry), in publishing order.
      factory: "module:function"; that of `from_objects` reads a file of this host.
      pickled: what is in that file; empty otherwise.
      archive: a Scorer's; here always empty.
    """

    sha256: str
    columns: tuple[str, ...]
    fields: tuple[str, ...]
    state: tuple[Any, ...] = field(repr=False)
    factory: str
    pickled: bytes = field(default=b"", repr=False)
    archive: bytes = field(default=b"", repr=False)

    @property
    def sees_logits(self) -> bool:
        return "confidence" in self.columns

    @classmethod
    def from_factory(cls, factory: str) -> PythonScorer:
        """Calls "module:function", which takes no argument and returns (model, loss, example_batch), or a dict of
        export_scorer's arguments. Its model is left as it is, and let go of.

        Raises:
          ConfigError: it can't be imported, or returns something else.
          ExportError: the model or the loss fails on the example batch.
        """
        with torch.random.fork_rng(devices=[]):  # a new model draws its first weights
            return load_factory(factory).scorer(factory)

    @classmethod
    def from_objects(
        cls,
        model: nn.Module,
        loss: Loss | nn.Module = "cross_entropy",
        example_batch: Any = None,
        *,
        targets: Sequence[str] | None = None,
        scale_factor: float = 1.0,
    ) -> PythonScorer:
        """For workers that this process starts itself (workers="auto" or a number): pickles a copy of model and loss.

        The pickle, which is code, goes to a file that only this user can read and only those workers' children load.
        Arguments are those of export_scorer. For a sharded model this is a collective: every rank must call it.

        Raises:
          ConfigError: the package cloudpickle is not there, or an argument is out of its range.
          ExportError: something can't be copied or pickled, or fails on the example batch.
        """
        if example_batch is None:
            raise ConfigError("example_batch", None, "a batch of your loader")
        flat = structure.flatten(example_batch)
        flat.tensors = {name: t.detach().cpu() for name, t in flat.tensors.items()}
        arguments = {
            "model": clone(model).module,
            "loss": clone(loss).module if isinstance(loss, nn.Module) else loss,
            "example_batch": structure.rebuild(flat),
            "targets": targets,
            "scale_factor": scale_factor,
        }
        return _load(arguments, FROM_FILE).scorer(FROM_FILE, _pickle(arguments))

    def described(self) -> PythonScorer:
        """What it says of itself, without the model and loss in it."""
        return replace(self, pickled=b"")


@dataclass(frozen=True)
class Loaded:
    """A scorer in this process: module(*fields) -> columns, on `device`; its ArtifactManifest and digest; the fields of
    the example batch.

    Whoever calls the module puts it into eval mode first.
    """

    module: ScorerModule
    device: torch.device
    manifest: Any
    sha256: str
    example: tuple[torch.Tensor, ...] = ()

    def state(self) -> list[torch.Tensor]:
        """The tensors of the manifest's state, as they are now: a model may put new ones in their place."""
        tensors = named_state(self.module)
        return [tensors[e.archive_name] for e in self.manifest.state]

    def scorer(self, factory: str, pickled: bytes = b"") -> PythonScorer:
        m = self.manifest
        fields = tuple(i.name for i in m.inputs)
        return PythonScorer(self.sha256, tuple(m.columns), fields, tuple(m.state), factory, pickled)


def load_factory(factory: str, device: torch.device | None = None) -> Loaded:
    """Imports and calls `factory`; puts the model on `device`. Raises ConfigError, ExportError."""
    made = _function(factory)()
    if isinstance(made, tuple) and len(made) == 3:
        made = dict(zip(_ARGUMENTS, made, strict=False))
    if not isinstance(made, Mapping) or not {"model", "example_batch"} <= set(made) <= set(_ARGUMENTS):
        what = sorted(made) if isinstance(made, Mapping) else type(made).__name__
        raise ConfigError(
            f"the result of {factory}", what, f"(model, loss, example_batch), or a dict of {', '.join(_ARGUMENTS)}"
        )
    if not isinstance(made["model"], nn.Module):
        raise ConfigError(f"the model of {factory}", type(made["model"]).__name__, "a torch.nn.Module")
    if device is not None:
        made["model"].to(device)
    return _load(made, factory)


def _function(factory: str) -> Callable[[], Any]:
    module, _, path = factory.partition(":")
    if not module or not path:
        raise ConfigError("factory", factory, "module:function")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise ConfigError("factory", factory, f"what can be imported here ({type(error).__name__}: {error})") from error
    if not callable(found):
        raise ConfigError("factory", factory, f"a function, not a {type(found).__name__}")
    return cast(Callable[[], Any], found)


def _load(arguments: Mapping[str, Any], factory: str) -> Loaded:
    model = unwrap(arguments["model"])
    built = build_scorer_module(
        model,
        arguments.get("loss", "cross_entropy"),
        arguments["example_batch"],
        targets=arguments.get("targets"),
        scale_factor=arguments.get("scale_factor", 1.0),
        copy=False,
    )
    published = {e.name for e in built.state}
    for name, parameter in model.named_parameters():
        if plain_name(name) not in published:  # a buffer that can't travel stays as the factory makes it
            raise ExportError(f"the model's '{name}' is {parameter.dtype}, which can't be published")
    manifest = artifact_pb2.ArtifactManifest(
        format=1,
        torch_version=torch.__version__,
        model=type(model).__name__,
        columns=built.columns,
        state=built.state,
    )
    for spec in built.inputs:
        # Nothing is traced: only the number of dimensions is fixed.
        manifest.inputs.add(name=spec.name, dtype=spec.dtype, shape=[-1] * len(spec.shape))
    return Loaded(built.module, built.device, manifest, _digest(manifest, factory), built.example)


def _digest(manifest: Any, factory: str) -> str:
    """SHA-256 over what both sides must agree on. Not over code, pickles or versions, which may differ by host."""
    text = json.dumps(
        {
            "format": "siftd python scorer 1",
            "factory": "objects" if factory == FROM_FILE else factory,
            "inputs": [[i.name, i.dtype, list(i.shape)] for i in manifest.inputs],
            "columns": list(manifest.columns),
            "state": [[e.name, e.dtype, list(e.shape)] for e in manifest.state],
        },
        sort_keys=True,
        separators=(",", ":"),
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _pickle(arguments: dict[str, Any]) -> bytes:
    try:
        import cloudpickle
    except ImportError as error:
        raise ConfigError(
            "PythonScorer.from_objects",
            "without cloudpickle",
            "`pip install cloudpickle`, or PythonScorer.from_factory",
        ) from error
    try:
        return cast(bytes, cloudpickle.dumps(arguments))
    except Exception as error:
        raise ExportError(
            f"the model, the loss or the example batch can't be pickled: {type(error).__name__}: {error}. Write a "
            "factory that makes them, and give PythonScorer.from_factory"
        ) from error
