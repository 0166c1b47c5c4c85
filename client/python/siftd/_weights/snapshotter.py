# SPDX-License-Identifier: Apache-2.0
"""Snapshots of a model's weights: one flat copy on the caller's thread, everything else in the background."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
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
            data = part.copy(tensors)
            if full:
                (self._whole if self._moving is None else self._delta).make_ready(any(t.is_cuda for t in tensors))
        except BaseException:
            self._moving = None  # there may be no base
            raise
        begin = part.begin(wire_pb2.MODEL_KIND_FULL if full else wire_pb2.MODEL_KIND_DELTA, run, version, step)
        if full:
            begin.history.extend(history)
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
        elif [t.shape for t in tensors] != self._shapes:
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


def _writes(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _by_name(model: nn.Module) -> dict[str, torch.Tensor]:
    return {plain_name(n): t for n, t in (*model.named_parameters(), *model.named_buffers())}


class _Places:
    """Where a model keeps some tensors. To walk over a large model at each publish would hold the loop for longer than
    the copy of a small one."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._model = weakref.ref(model)
        # Scripted modules have none of their own: they make some at each look.
        homes = (d for m in model.modules() for d in (m._modules, m._parameters, m._buffers))
        self._lasting = all(isinstance(home, dict) for home in homes)
        if not self._lasting:
            return
        self._modules = [(m._modules, key, child) for m in model.modules() for key, child in m._modules.items()]
        found: dict[str, tuple[Any, str]] = {}
        for prefix, module in model.named_modules(remove_duplicate=False):
            for holder in (module._parameters, module._buffers):
                for key in holder:
                    found.setdefault(plain_name(f"{prefix}.{key}" if prefix else key), (holder, key))
        self._slots = [found.get(name) for name in names]
        self._seen = [None if slot is None else slot[0].get(slot[1]) for slot in self._slots]

    def tensors(self, model: nn.Module) -> list[torch.Tensor] | None:
        """None: it is another model, or it was built anew in part since."""
        if not self._lasting or self._model() is not model:
            return None
        if any(d.get(key) is not child for d, key, child in self._modules):
            return None
        now = [None if slot is None else slot[0].get(slot[1]) for slot in self._slots]
        if any(t is None or t is not seen for t, seen in zip(now, self._seen, strict=True)):
            return None
        return now  # type: ignore[return-value]


class _Part:
    """Some entries of a state and flat buffers for their bytes, used again once nothing sends from them."""

    def __init__(self, entries: Sequence[Any]) -> None:
        self._manifest = wire_pb2.ModelBegin()
        self._manifest.manifest.extend(wire_pb2.TensorDesc(name=e.name, dtype=e.dtype, shape=e.shape) for e in entries)
        self.names = [plain_name(e.name) for e in entries]
        self.total = sum(map(entry_bytes, entries))
        # Buffers whose bytes are still being sent are kept apart by a weak reference to their array.
        self._pool: list[tuple[torch.Tensor, list[torch.Tensor], weakref.ref[Any]]] = []

    def begin(self, kind: int, run: int, version: int, step: int) -> Any:
        begin = model_begin(kind, run, version, step, self.total)
        begin.MergeFrom(self._manifest)
        return begin

    def copy(self, tensors: Sequence[torch.Tensor]) -> Bytes:
        """The entries' bytes, back to back."""
        free = next(((flat, views) for flat, views, user in self._pool if user() is None), None)
        device = next((t.device for t in tensors if t.is_cuda), None)
        flat, views = free or self._new(pinned=device is not None)
        if tensors:
            with torch.no_grad():
                # Into pinned memory all copies are queued at once: the thread waits once, not for each tensor.
                torch._foreach_copy_(views, list(tensors), device is not None)
            if device is not None:
                torch.cuda.current_stream(device).synchronize()
        array: Bytes = flat.numpy()
        self._pool = [(f, v, weakref.ref(array) if f is flat else r) for f, v, r in self._pool]
        return array

    def make_ready(self, pinned: bool) -> None:
        """A second buffer: the newest one is kept for workers that join. The first touch of its pages takes longer than
        a copy."""
        while len(self._pool) < 2:
            self._new(pinned)[0].zero_()

    def _new(self, pinned: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        flat = torch.empty(self.total, dtype=torch.uint8, pin_memory=pinned)
        views, at = [], 0
        for desc in self._manifest.manifest:
            size = entry_bytes(desc)
            # The exporter orders the entries by item size, so every offset is aligned.
            views.append(flat[at : at + size].view(torch_dtype(desc)).view(tuple(desc.shape)))
            at += size
        self._pool.append((flat, views, weakref.ref(_Gone())))
        return flat, views


class _Gone:
    """An object that is dead at once: marks a buffer as free."""
