# SPDX-License-Identifier: Apache-2.0
"""The child's end of the socket to its worker: messages of pipeline/model/README.md, read and written whole.

One thread. Every size is checked against what the manifest says before memory is taken for it.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from siftd._wire.tensor import _BY_NUMBER, raw_bytes

_MAGIC = b"SFPC"
_READY, _UPDATE, _SCORE, _OK, _SCORES, _ERROR = range(1, 7)
_HEADER = struct.Struct("<4sIQ")
_UPDATE_HEAD = struct.Struct("<QQQQ")
_UPDATE_ENTRY = struct.Struct("<QQ")
_SCORE_HEAD = struct.Struct("<QQ")
_INPUT_ENTRY = struct.Struct("<IIQ16q")
_MAX_ERROR_BYTES = 64 << 10
_ALIGNMENT = 64


class LinkError(Exception):
    """The worker said what it may not say, or is gone."""


@dataclass(frozen=True)
class Update:
    """Weights of one version. `tensors`: index in the manifest's state -> tensor, valid until the next message."""

    run: int
    version: int
    step: int
    tensors: dict[int, torch.Tensor]


@dataclass(frozen=True)
class Score:
    """`fields`: the scorer's arguments, each [rows, ...]."""

    rows: int
    fields: list[torch.Tensor]


class Link:
    def __init__(self, connection: socket.socket, pin_memory: bool = False) -> None:
        self._socket = connection
        self._pin = pin_memory
        self._manifest: Any = None
        self._state_bytes: list[int] = []
        self._weights = torch.empty(0, dtype=torch.uint8)

    # ------------------------------------------------------------------ to the worker
    def ready(self, sha256: str, manifest: Any) -> None:
        self._manifest = manifest
        self._state_bytes = [math.prod(e.shape) * _dtype(e.dtype).itemsize for e in manifest.state]
        self._send(_READY, sha256.encode() + manifest.SerializeToString())

    def ok(self) -> None:
        self._send(_OK, b"")

    def scores(self, columns: torch.Tensor) -> None:
        """columns: float32 [columns, rows]."""
        self._send(_SCORES, raw_bytes(columns))

    def error(self, text: str) -> None:
        self._send(_ERROR, text.encode(errors="replace")[:_MAX_ERROR_BYTES])

    def _send(self, kind: int, body: bytes | memoryview) -> None:
        try:
            self._socket.sendall(_HEADER.pack(_MAGIC, kind, len(body)))
            self._socket.sendall(body)
        except OSError as error:
            raise LinkError(f"the worker is gone: {error}") from error

    # ------------------------------------------------------------------ from the worker
    def receive(self) -> Update | Score | None:
        """The next request; None once the worker has closed its end."""
        header = bytearray(_HEADER.size)
        if not self._fill(memoryview(header), may_end=True):
            return None
        magic, kind, size = _HEADER.unpack(header)
        if magic != _MAGIC or kind not in (_UPDATE, _SCORE):
            raise LinkError(f"a message of type {kind} with magic {magic!r}")
        return self._update(size) if kind == _UPDATE else self._score(size)

    def _update(self, size: int) -> Update:
        run, version, step, count = self._take(_UPDATE_HEAD)
        if count > len(self._state_bytes):
            raise LinkError(f"{count} weights; the scorer has {len(self._state_bytes)}")
        entries = [self._take(_UPDATE_ENTRY) for _ in range(count)]
        for index, nbytes in entries:
            if index >= len(self._state_bytes) or nbytes != self._state_bytes[index]:
                raise LinkError(f"weights {index} of {nbytes} bytes, which the manifest does not have")
        body = _UPDATE_HEAD.size + count * _UPDATE_ENTRY.size + sum(nbytes for _, nbytes in entries)
        if size != body or len({index for index, _ in entries}) != count:
            raise LinkError(f"weights of {size} bytes; allowed: {body}, each entry once")
        # All of it arrives before any of it is used.
        starts, total = [], 0
        for _, nbytes in entries:
            starts.append(total)
            total += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        if len(self._weights) < total:
            self._weights = torch.empty(total, dtype=torch.uint8)
        tensors = {}
        for start, (index, nbytes) in zip(starts, entries, strict=True):
            raw = self._weights[start : start + nbytes]
            self._fill(raw.numpy().data)
            entry = self._manifest.state[index]
            tensors[index] = raw.view(_dtype(entry.dtype)).view(tuple(entry.shape))
        return Update(run, version, step, tensors)

    def _score(self, size: int) -> Score:
        rows, count = self._take(_SCORE_HEAD)
        if count != len(self._manifest.inputs):
            raise LinkError(f"{count} inputs; the scorer takes {len(self._manifest.inputs)}")
        entries = [self._input_entry(rows) for _ in range(count)]
        body = _SCORE_HEAD.size + count * _INPUT_ENTRY.size + sum(nbytes for _, _, nbytes in entries)
        if size != body:
            raise LinkError(f"inputs of {size} bytes; allowed: {body}")
        fields = []
        for dtype, shape, nbytes in entries:
            # Memory of its own each time: the model may keep a reference to its input.
            raw = torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._pin)
            self._fill(raw.numpy().data)
            fields.append(raw.view(dtype).view(shape))
        return Score(rows, fields)

    def _input_entry(self, rows: int) -> tuple[torch.dtype, tuple[int, ...], int]:
        number, rank, nbytes, *sizes = self._take(_INPUT_ENTRY)
        if number not in _BY_NUMBER or not 1 <= rank <= len(sizes):
            raise LinkError(f"an input of dtype {number} and {rank} dimensions")
        dtype, shape = _dtype(number), tuple(sizes[:rank])
        if shape[0] != rows or min(shape) < 0 or math.prod(shape) * dtype.itemsize != nbytes:
            raise LinkError(f"an input of shape {list(shape)} for {rows} rows in {nbytes} bytes")
        return dtype, shape, nbytes

    def _take(self, part: struct.Struct) -> Sequence[int]:
        raw = bytearray(part.size)
        self._fill(memoryview(raw))
        return part.unpack(raw)

    def _fill(self, view: memoryview, may_end: bool = False) -> bool:
        """Receives exactly `view`. False: the stream ended before the first byte, where it may."""
        at = 0
        while at < len(view):
            got = self._socket.recv_into(view[at:])
            if got == 0:
                if may_end and at == 0:
                    return False
                raise LinkError("the worker closed the socket in the middle of a message")
            at += got
        return True


def _dtype(number: int) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, _BY_NUMBER[number])
    return dtype


def first_line(error: BaseException) -> str:
    """An error for the other side: its type and the first line of its text."""
    lines = str(error).strip().splitlines()
    return type(error).__name__ + (f": {lines[0][:500]}" if lines else "")
