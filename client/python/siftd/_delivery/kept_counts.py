# SPDX-License-Identifier: Apache-2.0
"""KeptCounts: how many rows a rank accepted of each decided key, for a whole run: 4 bytes a key. Pure; one thread.

A duplicate is acked with the count of the first (rule 5). pipeline/delivery/kept_counts.h is the same in C++.
"""

from __future__ import annotations

from array import array

FullKey = tuple[int, int, int]  # (loader, pass, seq)

BLOCK = 256  # keys that share memory; a seq far off costs one block, not all up to it


class KeptCounts:
    def __init__(self) -> None:
        self._blocks: dict[FullKey, array[int]] = {}  # by (loader, pass, seq // BLOCK)

    def set(self, key: FullKey, kept: int) -> None:
        where = (key[0], key[1], key[2] // BLOCK)
        block = self._blocks.get(where)
        if block is None:
            block = self._blocks[where] = array("I", bytes(4 * BLOCK))
        block[key[2] % BLOCK] = kept

    def get(self, key: FullKey) -> int:
        """0 for a key that was never set: decided before this process began."""
        block = self._blocks.get((key[0], key[1], key[2] // BLOCK))
        return 0 if block is None else block[key[2] % BLOCK]
