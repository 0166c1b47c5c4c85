# SPDX-License-Identifier: Apache-2.0
"""Snapshots of a model's weights: one flat copy on the caller's thread, everything else in the background."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from siftd._sharded import full_tensors, is_sharded, plain_name
from siftd._snapshot import Bytes, Snapshot, entry_bytes, model_begin, torch_dtype
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
        """`everywhere`: see siftd._sharded.full_tensors."""
        self._state, self._everywhere = list(state), everywhere
        self._wanted = [(plain_name(e.name), torch.Size(e.shape)) for e in self._state]
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
            full, tensors = self._tensors(unwrap(model), wanted=True)
            part = self._whole if full else self._delta
            data = part.copy(tensors)
        except BaseException:
            self._moving = None  # there may be no base
            raise
        kind = wire_pb2.MODEL_KIND_FULL if full else wire_pb2.MODEL_KIND_DELTA
        begin = model_begin(kind, run, version, step, part.total)
        begin.manifest.extend(part.manifest)
        if full:
            begin.history.extend(history)
        return Snapshot(begin, [data], history)

    def follow(self, model: nn.Module) -> None:
        """What a rank that does not publish does instead: its part of the collective, if there is one."""
        model = unwrap(model)
        if is_sharded(model):
            self._tensors(model, wanted=False)

    def _tensors(self, model: nn.Module, wanted: bool) -> tuple[bool, Mapping[str, torch.Tensor]]:
        """Whether the next snapshot is FULL, and the tensors to take it from."""
        local = {plain_name(n): t for n, t in (*model.named_parameters(), *model.named_buffers())}
        sharded = is_sharded(model)
        full = self._plan(self._checked(local), sharded)
        if sharded:
            return full, full_tensors(model, frozen=full, everywhere=self._everywhere, wanted=wanted)
        return full, local

    def _checked(self, local: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """The entries' tensors. A shard's shape is the whole's, so all ranks fail before any waits for another."""
        tensors = []
        for entry, (name, shape) in zip(self._state, self._wanted, strict=True):
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


class _Part:
    """Some entries of a state and flat buffers for their bytes, used again once nothing sends from them."""

    def __init__(self, entries: Sequence[Any]) -> None:
        self.manifest = [wire_pb2.TensorDesc(name=e.name, dtype=e.dtype, shape=e.shape) for e in entries]
        self._names = [plain_name(e.name) for e in entries]
        self.total = sum(map(entry_bytes, entries))
        # Buffers whose bytes are still being sent are kept apart by a weak reference to their array.
        self._pool: list[tuple[torch.Tensor, list[torch.Tensor], weakref.ref[Any]]] = []

    def copy(self, tensors: Mapping[str, torch.Tensor]) -> Bytes:
        """The entries' bytes, back to back."""
        sources = [tensors[name].detach() for name in self._names]
        flat, views = self._buffer()
        if sources:
            torch._foreach_copy_(views, sources)
        array: Bytes = flat.numpy()
        self._pool = [(f, v, weakref.ref(array) if f is flat else r) for f, v, r in self._pool]
        return array

    def _buffer(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        for flat, views, user in self._pool:
            if user() is None:
                return flat, views
        flat = torch.empty(self.total, dtype=torch.uint8)
        views, at = [], 0
        for desc in self.manifest:
            size = entry_bytes(desc)
            # The exporter orders the entries by item size, so every offset is aligned.
            views.append(flat[at : at + size].view(torch_dtype(desc)).view(tuple(desc.shape)))
            at += size
        self._pool.append((flat, views, weakref.ref(_Gone())))
        return flat, views


class _Gone:
    """An object that is dead at once: marks a buffer as free."""
