# SPDX-License-Identifier: Apache-2.0
"""PassesBehind: which passes of each loader a stream's state leaves behind, so that no loader brings them again. Pure.

Where an epoch is one pass of each loader (`lockstep`), all loaders move on together, once the epoch's end was handed
out: a state saved at its last batch still has the end to come. Else, where passes mix, each loader moves by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping


class PassesBehind:
    """One thread, the training loop's."""

    def __init__(self, lockstep: bool, restored: Mapping[int, int]) -> None:
        """`restored`: by loader, what a state said."""
        self._lockstep, self._restored = lockstep, dict(restored)
        self._epochs_over = 0

    def epoch_over(self) -> None:
        """The end of an epoch was handed out."""
        self._epochs_over += 1

    def next_pass(self, decided: Mapping[int, int], open_passes: Collection[tuple[int, int]]) -> dict[int, int]:
        """By loader; lower passes are behind. `decided`: by loader, lower passes are decided whole. `open_passes`:
        (loader, pass) of rows that are not trained and that the state does not hold."""
        if not self._lockstep:
            first = {index: min((p for i, p in open_passes if i == index), default=n) for index, n in decided.items()}
            return self._restored | {i: max(min(n, first[i]), self._restored.get(i, 0)) for i, n in decided.items()}
        over = {i: min(n, self._restored.get(i, 0) + self._epochs_over) for i, n in decided.items()}
        back = max((over[i] - p for i, p in open_passes if i in over and p < over[i]), default=0)
        return self._restored | {i: n - back for i, n in over.items()}
