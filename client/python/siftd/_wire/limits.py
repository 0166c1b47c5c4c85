# SPDX-License-Identifier: Apache-2.0
"""Limits on what a peer may send, and the error that names what it did wrong.

The numbers are those of pipeline/wire/limits.h; proto/README.md prints the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Limits:
    frames: int = 34  # preamble, header, 32 payload frames
    tensors: int = 32
    header_bytes: int = 16 << 20
    header_fields: int = 100_000  # top-level fields of a header; a packed array is one
    rank: int = 16  # dimensions of a tensor
    name_bytes: int = 256
    job_bytes: int = 128
    text_bytes: int = 4096  # of an error or a reason
    rows: int = 1 << 20  # of a candidate batch
    keys: int = 65536  # of one Ack, Settled or Return
    intervals: int = 200_000  # of one Decided
    loaders: int = 65536  # of a job, and ranks: indices are below it
    incarnation: int = 1 << 62  # and runs: nanoseconds, until the year 2116
    state_entries: int = 65536  # of a model's manifest
    history: int = 1 << 20
    min_chunk_bytes: int = 1024
    max_chunk_bytes: int = 64 << 20


LIMITS: Final = Limits()


class WireError(ValueError):
    """Bytes of a peer that do not follow the protocol."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field} is {value}; allowed: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed
