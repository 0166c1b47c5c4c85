# SPDX-License-Identifier: Apache-2.0
"""StreamState: what a stream's state says of keys and rows, for both engines. Pure; the training loop's thread.

A state holds the keys that are not to come again, the untrained rows of the one key that is half trained and, with
drop_last, the rows that an epoch which is over left to the next one: less than a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from siftd._batches.passes_behind import PassesBehind
from siftd._batches.piece import Piece
from siftd._batches.state import PieceParts, load_piece
from siftd._batches.structure import Pad
from siftd._delivery.ledger import IntervalSet, Ledger

Key = tuple[tuple[int, int], int]  # ((loader, pass), seq)


class StreamState:
    def __init__(self, ledger: Ledger, lockstep: bool, state: Mapping[str, Any] | None = None) -> None:
        """`lockstep`: an epoch is one pass of each loader. `state`: what `saved` gave, to continue from."""
        state = state or {}
        self._ledger, self._lockstep = ledger, lockstep
        self.next_pass: dict[int, int] = {int(k): n for k, n in state.get("next_pass", {}).items()}
        # By loader and pass, the keys that are not to come again: trained, or their rows are in `rows`.
        self.decided: dict[int, dict[int, list[list[int]]]] = {}
        self.rows: list[Piece] = []  # that are to be trained first
        self._behind = PassesBehind(lockstep, self.next_pass)
        for index, by_pass in state.get("trained", {}).items():
            for number, pairs in by_pass.items():
                self.decided.setdefault(int(index), {})[int(number)] = pairs
                for begin, end in pairs:
                    for seq in range(begin, end):
                        ledger.decided(((int(index), int(number)), seq), 0)
        if state.get("half") is not None:
            piece = load_piece(state["half"])
            ledger.resume_half(piece.key, piece.rows)
            self._take_back(piece)
        for saved in state.get("carried", []):
            piece = load_piece(saved)
            ledger.decided(piece.key, piece.rows)
            self._take_back(piece)

    def _take_back(self, piece: Piece) -> None:
        self.rows.append(piece)
        (index, number), seq = piece.key
        if number >= self.next_pass.get(index, 0):  # else its pass says so
            of_loader = self.decided.setdefault(index, {})
            merged = IntervalSet(of_loader.get(number, []))
            merged.add(seq)
            of_loader[number] = merged.pairs()

    def epoch_over(self) -> None:
        """The end of an epoch was handed out."""
        self._behind.epoch_over()

    def saved(
        self,
        decided: Mapping[int, int],
        handed: list[tuple[int, int]],
        waiting: list[tuple[int, int]],
        gather: Callable[[Callable[[Key], bool]], PieceParts],
        pad: Pad,
    ) -> dict[str, Any]:
        """`decided`: by loader; lower passes are decided whole and their rows were here. `handed`, `waiting`: (loader,
        pass) of each row that was handed out and is not trained, and of each that was not handed out. `gather`: their
        rows whose key is wanted, oldest first."""
        next_pass = self._behind.next_pass(decided, handed if self._lockstep else [*handed, *waiting])
        trained: dict[str, dict[str, list[list[int]]]] = {}
        for (index, number), intervals in self._ledger.trained.items():
            if number >= next_pass.get(index, 0):
                trained.setdefault(str(index), {})[str(number)] = intervals.pairs()
        half = self._ledger.half_trained()
        rows = gather(lambda key: key == half or key[0][1] < next_pass.get(key[0][0], 0)).saved(pad)
        return {
            "next_pass": {str(i): n for i, n in next_pass.items() if n > 0},
            "trained": trained,
            "half": next((r for r in rows if r["key"] == half), None),
            "carried": [r for r in rows if r["key"] != half],
        }
