# SPDX-License-Identifier: Apache-2.0
"""What is known of rows, as it came; arrays are made of it only where somebody asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from siftd._wire.codec import wire_pb2

Array = np.ndarray[Any, Any]

_MOST = 2**63 - 1

# BatchInfo's arrays, by row, with their types.
INFO_FIELDS: dict[str, Any] = {
    "ids": np.uint64,
    "scores": np.float32,
    "keep_probability": np.float32,
    "weights": np.float32,
    "percentile": np.float32,
    "model_version": np.int64,
    "staleness": np.int64,
    "unsifted": np.bool_,
    "epochs": np.int64,
}


class RowInfo(Mapping[str, Array]):
    """What is known of the kept rows [k] of one candidate batch, by the names of BatchInfo's arrays.

    The arrays are made when they are asked for: few loops ask. "staleness" is the scoring model's step here.
    """

    def __init__(
        self,
        ids: Any,
        kept: Array | None,
        decision: Any,
        epoch: int,
        *,
        ids_of_kept: bool = False,
        prior: Array | Sequence[float] = (),
    ) -> None:
        """`ids`: of the candidate batch, or of the kept rows alone. `kept`: int64 [k]; None: all rows, in order.
        `decision`: the wire's; None: unsifted. `prior`: float32 [n] of the candidates, NaN = scored now."""
        self._ids, self._kept, self._decision, self._epoch = ids, kept, decision, epoch
        self._ids_of_kept, self._prior = ids_of_kept, prior
        self.rows: int = len(ids) if kept is None else len(kept)
        # 0 = nothing scored them now. A worker may say any 64 bits; the arrays are int64.
        self.model_version: int = min(decision.model_version, _MOST) if decision is not None else 0
        self.model_step: int = min(decision.model_step, _MOST) if decision is not None else 0
        self._made: dict[str, Array] = {}
        if len(prior) and not np.isnan(self._column(prior, np.nan)).any():
            self.model_version = 0

    def __getitem__(self, name: str) -> Array:
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = self._make(name)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(INFO_FIELDS)

    def __len__(self) -> int:
        return len(INFO_FIELDS)

    def _make(self, name: str) -> Array:
        d, k = self._decision, self.rows
        sifted = d is not None and d.outcome == wire_pb2.OUTCOME_DECIDED
        match name:
            case "ids":
                ids = np.asarray(self._ids, np.uint64)
                return ids if self._ids_of_kept or self._kept is None else ids[self._kept]
            case "scores":
                return self._column(d.score if d is not None else (), np.nan)
            case "keep_probability":
                return self._column(d.keep_probability if sifted else (), np.nan if sifted else 1.0)
            case "weights":
                return np.asarray(d.weight, np.float32) if sifted and len(d.weight) else np.ones(k, np.float32)
            case "percentile":
                return self._column(d.percentile if sifted else (), np.nan)
            case "model_version":
                versions = np.full(k, self.model_version, np.int64)
                if len(self._prior):  # the decision's version scored the others
                    versions[~np.isnan(self._column(self._prior, np.nan))] = 0
                return versions
            case "staleness":
                return np.full(k, self.model_step, np.int64)
            case "unsifted":
                return np.full(k, not sifted)
            case "epochs":
                return np.full(k, self._epoch, np.int64)
        raise KeyError(name)

    def _column(self, values: Any, fill: float) -> Array:
        if not len(values):
            return np.full(self.rows, fill, np.float32)
        whole = np.asarray(values, np.float32)
        return whole if self._kept is None else whole[self._kept]


class Span(Mapping[str, Array]):
    """Rows [begin, end) of one candidate batch's info. `model_version`: of what scored them all; 0 = nothing did."""

    __slots__ = ("begin", "end", "info", "model_step", "model_version")

    def __init__(self, info: Mapping[str, Array], begin: int, end: int) -> None:
        self.info, self.begin, self.end = info, begin, end
        self.model_version: int
        self.model_step: int
        if isinstance(info, RowInfo | Span):
            self.model_version, self.model_step = info.model_version, info.model_step
        else:  # from a state
            self.model_version = int(info["model_version"][begin]) if end > begin else 0
            self.model_step = int(info["staleness"][begin]) if end > begin else 0

    def __getitem__(self, name: str) -> Array:
        return self.info[name][self.begin : self.end]

    def __iter__(self) -> Iterator[str]:
        return iter(INFO_FIELDS)

    def __len__(self) -> int:
        return len(INFO_FIELDS)


class NativeSpan:
    """Rows [begin, end) of a batch of the compiled client, all of one candidate batch. Stands where Span does."""

    __slots__ = ("_batch", "_epoch", "_unsifted", "begin", "end", "model_step", "model_version")

    def __init__(
        self, batch: Any, begin: int, end: int, epoch: int, model_version: int, model_step: int, unsifted: bool
    ) -> None:
        self._batch, self.begin, self.end = batch, begin, end
        self._epoch, self._unsifted = epoch, unsifted
        self.model_version, self.model_step = min(model_version, _MOST), min(model_step, _MOST)

    def __getitem__(self, name: str) -> Array:
        rows = self.end - self.begin
        match name:
            case "model_version":
                return np.full(rows, self.model_version, np.int64)
            case "staleness":
                return np.full(rows, self.model_step, np.int64)
            case "unsifted":
                return np.full(rows, self._unsifted)
            case "epochs":
                return np.full(rows, self._epoch, np.int64)
        column: Array = getattr(self._batch, name)
        return column[self.begin : self.end]
