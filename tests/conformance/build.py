# SPDX-License-Identifier: Apache-2.0
"""Short ways to write the parts that many messages have."""

from __future__ import annotations

import struct
from typing import Any

from siftd._wire import artifact_pb2 as a
from siftd._wire import wire_pb2 as w

SESSION = w.Session(incarnation=0x0123456789ABCDEF, counter=3)
RUN = 0x1122334455667788
KEY = w.Key(**{"loader": 1, "pass": 2, "seq": 300})
F32, I64, U8, BF16 = a.DTYPE_FLOAT32, a.DTYPE_INT64, a.DTYPE_UINT8, a.DTYPE_BFLOAT16


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def longs(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def desc(name: str, dtype: int, shape: list[int], frame: int) -> Any:
    return w.TensorDesc(name=name, dtype=dtype, shape=shape, frame=frame)


def keys(*triples: tuple[int, int, int]) -> Any:
    loader, pass_, seq = zip(*triples, strict=True)
    return w.Keys(**{"loader": loader, "pass": pass_, "seq": seq})


def decided(*rows: tuple[int, int, int, int], next_pass: tuple[int, ...] = ()) -> Any:
    loader, pass_, begin, end = zip(*rows, strict=True) if rows else ((), (), (), ())
    columns = {"loader": loader, "pass": pass_, "begin": begin, "end": end}
    return w.Decided(**columns, next_pass=next_pass)
