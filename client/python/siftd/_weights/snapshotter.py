# SPDX-License-Identifier: Apache-2.0
"""Snapshots of a model's weights: one flat copy on the caller's thread, everything else in the background."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from operator import attrgetter, is_
from typing import Any

import torch
from torch import nn

from siftd._scorer.sharded import full_tensors, is_sharded, plain_name
from siftd._weights.snapshot import Bytes, Snapshot, entry_bytes, model_begin, torch_dtype
from siftd.errors import ConfigError
from siftd.export import unwrap
from siftd.v1 import wire_pb2


class Snapshotter:
    """Takes snapshots in the order and types of a scorer's state. One thread: the training loop's.

    The first one is FULL, the base. As long as some parameters are frozen (requires_grad is False), those after it are
    DELTAs: the parameters that require grad and all buffers. The host then keeps the base's bytes, one copy of the
    whole model, for workers that join. Another set of frozen parameters, or a new value in one of them, makes the next
    snapshot a FULL one, the new base. New values are seen by the tensor's version counter, which a write through
    `.data` does not move; in sharded models frozen parameters must keep their values.
    """

    def __init__(self, state: Sequence[Any], everywhere: bool = False) -> None:
        """`everywhere`: see siftd._scorer.sharded.full_tensors."""
        self._state, self._everywhere = list(state), everywhere
        self._names = [plain_name(e.name) for e in self._state]
        self._shapes = [torch.Size(e.shape) for e in self._state]
        self._places: _Places | None = None  # where the entries of the last model are, if it is not sharded
        self._bytes = [entry_bytes(e) for e in self._state]
        self._whole = _Part(self._state)
        self._moving: list[bool] | None = None  # which entries a DELTA over the base holds; None: there is no base
        self._frozen: list[tuple[torch.Tensor, int]] = []  # the others, with their version counters at the base
        self._delta = _Part([])

    def take(self, model: nn.Module, run: int, version: int, step: int, history: Sequence[float] = ()) -> Snapshot:
        """Copies the weights. The loop may change them as soon as this returns. Sharded models: a collective.

        Raises ConfigError when the model is not the exported one.
        """
        try:
            full, part, tensors = self._tensors(unwrap(model))
            device = next((t.device for t in tensors if not t.is_cpu), torch.device("cpu"))
            data = part.copy(tensors, device)
            if full:
                (self._whole if self._moving is None else self._delta).make_ready(device)
        except BaseException:
            self._moving = None  # there may be no base
            raise
        kind = wire_pb2.MODEL_KIND_FULL if full else wire_pb2.MODEL_KIND_DELTA
        begin = partial(_begin, part.manifest, kind, run, version, step, part.total, history if full else ())
        return Snapshot(begin, [data], history)

    def follow(self, model: nn.Module) -> None:
        """What a rank that does not publish does instead: its part of the collective, if there is one."""
        model = unwrap(model)
        if is_sharded(model):
            full = self._plan(self._checked(_by_name(model)), sharded=True)
            full_tensors(model, frozen=full, everywhere=self._everywhere, wanted=False)

    def _tensors(self, model: nn.Module) -> tuple[bool, _Part, list[torch.Tensor]]:
        """Whether the next snapshot is FULL, its entries and the tensors to take them from."""
        tensors = None if self._places is None else self._places.tensors(model)
        if tensors is None:
            self._places = None if is_sharded(model) else _Places(model, self._names)
            tensors = self._checked(_by_name(model))
        elif list(map(_SHAPE, tensors)) != self._shapes:
            tensors = self._checked(_by_name(model))  # which says what is wrong
        full = self._plan(tensors, sharded=self._places is None)
        part = self._whole if full else self._delta
        if self._places is None:
            whole = full_tensors(model, frozen=full, everywhere=self._everywhere, wanted=True)
            return full, part, [whole[name] for name in part.names]
        if part is self._delta and self._moving is not None:
            tensors = [t for t, moves in zip(tensors, self._moving, strict=True) if moves]
        return full, part, tensors

    def _checked(self, local: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """The entries' tensors. A shard's shape is the whole's, so all ranks fail before any waits for another."""
        tensors = []
        for entry, name, shape in zip(self._state, self._names, self._shapes, strict=True):
            tensor = local.get(name)
            if tensor is None or tensor.shape != shape:
                found = "nothing" if tensor is None else list(tensor.shape)
                raise ConfigError(f"model's '{entry.name}'", found, f"shape {list(shape)}, as it was exported")
            tensors.append(tensor)
        return tensors

    def _plan(self, tensors: Sequence[torch.Tensor], sharded: bool) -> bool:
        """Whether the next snapshot is FULL; then what a DELTA over it holds. The same on all ranks."""
        moving = [t.requires_grad or not isinstance(t, nn.Parameter) for t in tensors]
        if all(moving) or not any(n for n, moves in zip(self._bytes, moving, strict=True) if moves):
            self._moving, self._frozen = None, []
            return True  # a DELTA without bytes does not exist
        # Ranks could disagree on the counters of their shards, and would wait for each other for ever.
        fixed = [] if sharded else [(t, _writes(t)) for t, moves in zip(tensors, moving, strict=True) if not moves]
        if moving == self._moving and all(
            t is was and n == before for (t, n), (was, before) in zip(fixed, self._frozen, strict=True)
        ):
            return False
        self._moving, self._frozen = moving, fixed
        self._delta = _Part([e for e, moves in zip(self._state, moving, strict=True) if moves])
        self._whole = _Part(self._state)  # whose one buffer is the base's
        return True


_SHAPE = attrgetter("shape")


def _begin(manifest: Any, kind: int, run: int, version: int, step: int, total: int, history: Sequence[float]) -> Any:
    begin = model_begin(kind, run, version, step, total)
    begin.MergeFrom(manifest)
    begin.history.extend(history)
    return begin


def _writes(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _by_name(model: nn.Module) -> dict[str, torch.Tensor]:
    return {plain_name(n): t for n, t in (*model.named_parameters(), *model.named_buffers())}


class _Places:
    """Where a model keeps some tensors. To walk over a large model at each publish would hold the loop for longer than
    the copy of a small one; after a large copy each entry that Python looks at costs the loop microseconds."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._model = weakref.ref(model)
        # Scripted modules have none of their own: they make some at each look.
        homes = (d for m in model.modules() for d in (m._modules, m._parameters, m._buffers))
        self._lasting = all(isinstance(home, dict) for home in homes)
        if not self._lasting:
            return
        children = [(m._modules, key, child) for m in model.modules() for key, child in m._modules.items()]
        self._homes, self._keys = [home for home, _, _ in children], [key for _, key, _ in children]
        self._children = [child for _, _, child in children]
        found: dict[str, tuple[dict[str, Any], str]] = {}
        for prefix, module in model.named_modules(remove_duplicate=False):
            for holder in (module._parameters, module._buffers):
                for key in holder:
                    found.setdefault(plain_name(f"{prefix}.{key}" if prefix else key), (holder, key))
        slots = [found[name] for name in names if name in found]
        self._holders, self._slots = [holder for holder, _ in slots], [slot for _, slot in slots]
        self._seen = [t for t in map(dict.get, self._holders, self._slots) if t is not None]
        self._lasting = len(self._seen) == len(names)

    def tensors(self, model: nn.Module) -> list[torch.Tensor] | None:
        """None: it is another model, or it was built anew in part since."""
        if not self._lasting or self._model() is not model:
            return None
        if not all(map(is_, map(dict.get, self._homes, self._keys), self._children)):
            return None
        if not all(map(is_, map(dict.get, self._holders, self._slots), self._seen)):
            return None
        return self._seen


class _Part:
    """Some entries of a state and flat buffers for their bytes, used again once nothing sends from them."""

    def __init__(self, entries: Sequence[Any]) -> None:
        self.manifest = wire_pb2.ModelBegin()
        self.manifest.manifest.extend(wire_pb2.TensorDesc(name=e.name, dtype=e.dtype, shape=e.shape) for e in entries)
        self.names = [plain_name(e.name) for e in entries]
        self.total = sum(map(entry_bytes, entries))
        self._pool: list[_Buffer] = []

    def copy(self, tensors: Sequence[torch.Tensor], device: torch.device) -> Bytes:
        """The entries' bytes, back to back. `device`: the first of theirs that is not the CPU, if there is one."""
        buffer = next((b for b in self._pool if b.user() is None), None) or self._new(device)
        if tensors:
            with torch.no_grad():
                buffer.fill(tensors, device)
        array: Bytes = buffer.flat.numpy()
        buffer.user = weakref.ref(array)
        return array

    def make_ready(self, device: torch.device) -> None:
        """A second buffer: the newest one is kept for workers that join. The first touch of its pages takes longer than
        a copy."""
        while len(self._pool) < 2:
            self._new(device).flat.zero_()

    def _new(self, device: torch.device) -> _Buffer:
        self._pool.append(_Buffer(self.manifest.manifest, self.total, pinned=device.type == "cuda"))
        return self._pool[-1]


class _Buffer:
    """Memory of a part's entries. `user`: of the array that is sent from it; while that is alive it is not written."""

    def __init__(self, entries: Sequence[Any], total: int, pinned: bool) -> None:
        self.flat = torch.empty(total, dtype=torch.uint8, pin_memory=pinned)
        self.user: weakref.ref[Any] = weakref.ref(_Gone())
        self._views, self._runs = [], []
        at = first = begin = 0
        for i, desc in enumerate(entries):
            at += entry_bytes(desc)
            dtype = torch_dtype(desc)
            # The exporter orders the entries by item size, so every offset is aligned.
            view = self.flat[at - entry_bytes(desc) : at].view(dtype).view(tuple(desc.shape))
            self._views.append(view)
            if i + 1 == len(entries) or torch_dtype(entries[i + 1]) is not dtype:
                self._runs.append((slice(first, i + 1), self.flat[begin:at].view(dtype)))
                first, begin = i + 1, at

    def fill(self, tensors: Sequence[torch.Tensor], device: torch.device) -> None:
        if device.type == "cpu" and all(map(torch.Tensor.is_contiguous, tensors)):
            # One call for each type of entry: faster than a copy for each of them, and the GIL is given away once.
            for entries, out in self._runs:
                torch.cat([t.view(-1) for t in tensors[entries]], out=out)
            return
        # Into pinned memory all copies are queued at once: the thread waits once, not for each tensor.
        torch._foreach_copy_(self._views, list(tensors), device.type == "cuda")
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()


class _Gone:
    """An object that is dead at once: marks a buffer as free."""
