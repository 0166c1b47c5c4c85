# SPDX-License-Identifier: Apache-2.0
"""NativeEngine: Engine over the compiled client. Candidates go to it as they are loaded, whole batches come back;
between the two no Python runs. For batches of plain CPU tensors of one shape; Engine takes all others.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from siftd._batches import structure
from siftd._batches.assembler import own_copy
from siftd._batches.handed import Ready
from siftd._batches.native_info import Layout, fields_of, known_of
from siftd._batches.piece import Piece
from siftd._batches.source import Candidate
from siftd._batches.state import PieceParts
from siftd._delivery.ledger import IntervalSet
from siftd._delivery.loader_core import LoaderOptions
from siftd._delivery.native_loader import hello_frames, key_arguments, native
from siftd._loop.engine import EngineOptions
from siftd._loop.native_outbox import NativeOutbox
from siftd._net.keys import KeyFiles
from siftd._net.threads import step_aside
from siftd._wire.tensor import dtype_number
from siftd.errors import StructureError


def takes(example: structure.Flat, pad: structure.Pad) -> bool:
    """Batches like this one can be put together by the compiled client."""
    return not (example.listed or example.whole or pad) and len(example.arrays()) == len(example.tensors)


def _as_uint64(ids: Sequence[int]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    if isinstance(ids, range):
        return np.arange(ids.start, ids.stop, dtype=np.uint64)
    return np.frombuffer(array("Q", ids), np.uint64)  # 2 us for 128 ids, where asarray takes 5


class NativeEngine(NativeOutbox):
    """begin_pass, restore, cancel, take, wait, stats: the training loop's thread. No other thread is here but the one
    that loads."""

    def __init__(
        self,
        options: EngineOptions,
        loader: LoaderOptions,
        endpoints: Sequence[str],
        incarnation: int,
        example: structure.Flat,
        history: Sequence[float] = (),
        keys: KeyFiles | None = None,
    ) -> None:
        """Raises ConfigError for an endpoint that is none."""
        super().__init__(options.batch_size, Layout(example.spec), stream=False)
        self._spec, self._names = example.spec, list(example.tensors)
        self._one = own_copy(example.slice(0, 1))  # its row's shapes are those of all
        self._row_shapes = {name: tuple(t.shape[1:]) for name, t in example.tensors.items()}
        self._scored = [self._names.index(name) for name in options.fields if name in self._names]
        self._lacking = [name for name in options.fields if name not in self._names]
        self._numbers: dict[torch.dtype, int] = {}
        self._errors: dict[int, BaseException] = {}  # of the user's loader, by pass
        self._cancelled = 0  # rows that were taken back and not handed out again
        self.pass_number = -1
        self.link = native().BatchLink(
            list(endpoints),
            hello_frames(loader, incarnation, endpoints),
            batch_size=options.batch_size,
            prefetch=options.prefetch,
            carry=options.drop_last or options.endless,
            history_length=options.history_length,
            history=list(history),
            starve_timeout=min(options.starve_timeout, 1e9),
            **key_arguments(keys),
        )

    # ------------------------------------------------------------ passes
    def begin_pass(self, number: int, epoch: int, candidates: Iterator[Candidate], wake: Any) -> _Feed:
        self.pass_number = number
        self.link.begin(number)
        return _Feed(self, number, epoch, candidates)

    def restore(self, number: int, trained: IntervalSet, rows: list[Piece]) -> None:
        """From a state: what is trained of the pass, and rows that go first."""
        self.ledger.trained[number] = trained
        for piece in rows:
            if piece.key[0] == number:
                self.ledger.resume_half(piece.key, piece.rows)
            else:
                self.ledger.decided(piece.key, piece.rows)
            epoch, ids, about = known_of(piece)
            self.link.restore(*piece.key, epoch, ids, fields_of(piece), about)

    def cancel(self) -> None:
        """Gives the pass up; the caller closes the feed."""
        self.link.cancel()
        self._errors.clear()
        self._cancelled += sum(r.flat.rows for r in self.ready if r.flat is not None)
        self.ready.clear()
        self.ledger.close_pass(self.pass_number)
        self.handed.close_pass(self.pass_number)

    def rows_to_save(self, now: int | None, pad: structure.Pad) -> list[dict[str, Any]]:
        """As Engine's."""
        wanted, parts = self.repeats_not(now), PieceParts()
        self.add_waiting(parts, wanted)
        for batch in self.link.untaken():
            parts.add_batch(self._flat(batch), self._info(batch), wanted)
        return parts.saved(pad)

    def _ended(self, number: int) -> Ready:
        return Ready(None, end_of=number, error=self._errors.pop(number, None))

    def _failed(self, error: StructureError) -> Ready:
        self.link.cancel()
        return Ready(None, end_of=self.pass_number, error=error)

    # ------------------------------------------------------------ the thread that loads
    def fields(self, flat: structure.Flat) -> list[tuple[str, int, tuple[int, ...], Any]]:
        """Name, the wire's type, shape and memory of each field. Raises StructureError for a batch of other fields."""
        if flat.spec != self._spec or flat.listed or flat.whole:
            raise StructureError(
                f"a batch has other parts than the first one ({sorted(flat.tensors)}, {sorted(flat.listed)}, "
                f"{sorted(flat.whole)}; the first: {self._names}); give batches of one structure"
            )
        if self._lacking:
            raise StructureError(f"a batch lacks field {self._lacking[0]!r}, which the scorer reads")
        found, arrays = [], flat.arrays()
        for name, tensor in flat.tensors.items():
            memory = arrays.get(name)
            if memory is None:
                memory = structure.as_array(tensor.detach().cpu().contiguous())
                if memory is None:
                    raise StructureError(f"field {name!r} is no plain tensor: {tensor.dtype}, {tensor.layout}")
            if memory.shape[1:] != self._row_shapes[name]:
                structure.concat([self._one, flat.slice(0, 1)], {})  # raises; says how such batches are padded
            number = self._numbers.get(tensor.dtype)
            if number is None:
                number = self._numbers[tensor.dtype] = dtype_number(tensor)
            found.append((name, number, memory.shape, memory))
        return found

    def offer(self, number: int, epoch: int, c: Candidate) -> bool:
        """Waits for room. False: the pass was given up."""
        ids, fields = _as_uint64(c.sample_ids), self.fields(c.flat)
        return bool(self.link.offer(number, c.seq, epoch, ids, c.occurrence, fields, self._scored))

    def end_pass(self, number: int, error: BaseException | None) -> None:
        if error is not None:
            self._errors[number] = error
        self.link.end(number, error is not None)

    # ------------------------------------------------------------ what it tells
    def sync(self) -> None:
        super().sync()
        self.stats.cancelled += self._cancelled

    @property
    def breaker_open(self) -> bool:
        return bool(self.link.state()[2])

    @property
    def failure(self) -> str:
        return str(self.link.state()[3])

    @property
    def outstanding(self) -> int:
        return int(self.link.state()[1])

    @property
    def workers(self) -> int:
        return int(self.link.state()[0])


class _Feed:
    """Pulls a pass on a background thread, which waits where the compiled client has enough."""

    def __init__(self, engine: NativeEngine, number: int, epoch: int, candidates: Iterator[Candidate]) -> None:
        self._engine, self._number, self._epoch, self._candidates = engine, number, epoch, candidates
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="siftd-feed", daemon=True)
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Ends the thread after the batch that it is loading. REQUIRES: the pass is at its end, or was given up."""
        self._closed = True
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        error: BaseException | None = None
        step_aside()
        try:
            for candidate in self._candidates:
                if self._closed or not self._engine.offer(self._number, self._epoch, candidate):
                    return
        except BaseException as e:
            error = e
        finally:
            close = getattr(self._candidates, "close", None)
            self._candidates = iter(())
            if close is not None:
                close()
        self._engine.end_pass(self._number, error)


class NativeBatchIo:
    """Stands where IoThread does: the compiled client has its own thread."""

    def __init__(self, link: Any) -> None:
        self._link = link
        self.alive = True
        self.error: BaseException | None = None

    def start(self) -> None:
        self._link.start()

    def wake(self) -> None:
        """It wakes itself."""

    def stop(self, timeout: float = 5.0, goodbye: bool = True) -> None:
        self.alive = False
        self._link.stop(goodbye)
