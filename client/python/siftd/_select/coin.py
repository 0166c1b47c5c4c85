# SPDX-License-Identifier: Apache-2.0
"""The coin of proto/README.md for whole batches: the NumPy twin of pipeline/select/coin.cc. Pure; any thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_Array = np.ndarray[Any, Any]

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)
_ROUNDS = 10


def philox4x32(counter: Sequence[_Array], key: tuple[int, int]) -> tuple[_Array, _Array, _Array, _Array]:
    """Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).

    Args:
      counter: four uint64 [n], each below 2^32.
      key: two words below 2^32.

    Returns:
      Four uint64 [n], each below 2^32.
    """
    even, odd = np.stack(counter[::2]), np.stack(counter[1::2])  # [2, n]
    keys = np.array([[key[0]], [key[1]]], np.uint64)
    for _ in range(_ROUNDS):
        product = _MULTIPLIERS * even  # below 2^64: exact
        even = (product >> _WORD)[::-1] ^ odd
        even ^= keys
        odd = (product & _LOW)[::-1]
        keys = (keys + _WEYL) & _LOW
    return even[0], odd[0], even[1], odd[1]


def coins(seed: int, epoch: int, sample_ids: Sequence[int] | _Array, occurrence: Sequence[int] | _Array = ()) -> _Array:
    """u(seed, epoch, sample_id, occurrence) of each row.

    Args:
      seed: below 2^64.
      epoch: below 2^32.
      sample_ids: [n], each below 2^64.
      occurrence: [n], each below 2^32; empty: all 0.

    Returns:
      float64 [n] in [0, 1), 53 random bits.
    """
    ids = np.asarray(sample_ids, np.uint64)
    uses = np.asarray(occurrence, np.uint64) if len(occurrence) else np.zeros_like(ids)
    counter = (ids & _LOW, ids >> _WORD, np.full_like(ids, epoch), uses)
    x0, x1, _, _ = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))
    bits = ((x0 >> np.uint64(5)) << np.uint64(26)) + (x1 >> np.uint64(6))
    u: _Array = bits.astype(np.float64) * 2.0**-53
    return u
