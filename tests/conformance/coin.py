# SPDX-License-Identifier: Apache-2.0
"""The coin of proto/README.md, written from its text alone: the reference for its test vectors."""

from __future__ import annotations

MASK = 0xFFFFFFFF


def philox4x32_10(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & MASK,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & MASK,
        )
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def words(seed: int, epoch: int, sample_id: int, occurrence: int) -> tuple[int, ...]:
    counter = (sample_id & MASK, sample_id >> 32, epoch, occurrence)
    return philox4x32_10(counter, (seed & MASK, seed >> 32))


def numerator(x: tuple[int, ...]) -> int:
    """u = numerator * 2^-53."""
    return (x[0] >> 5) * 2**26 + (x[1] >> 6)


def coin(seed: int, epoch: int, sample_id: int, occurrence: int) -> float:
    return numerator(words(seed, epoch, sample_id, occurrence)) * 2.0**-53
