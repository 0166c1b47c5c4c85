# SPDX-License-Identifier: Apache-2.0
"""The user's loader as a stream of numbered candidate batches with sample ids.

RNG: `iter(loader)` and the first `next` run on the caller's thread, as without siftd; forks of DataLoader workers
happen there too, before any thread of ours. A background thread pulls the rest.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from siftd._batches import structure
from siftd._net.threads import step_aside
from siftd.errors import ConfigError, StateError

AHEAD = 4  # candidates loaded before they are taken
_FOREIGN_ID = 1 << 62  # ids made here lie above every dataset index


@dataclass
class Candidate:
    """One batch of the user's loader."""

    seq: int
    flat: structure.Flat
    sample_ids: Sequence[int]
    occurrence: Sequence[int]


@dataclass
class End:
    """The pass is over: `batches` keys were used. `error`: the user's loader raised."""

    batches: int
    error: BaseException | None = None


@dataclass
class PassState:
    """What it takes to repeat a pass: kept in the loader's state."""

    number: int
    epoch: int
    rng: torch.Tensor | None = None
    generators: list[torch.Tensor] = field(default_factory=list)


class _RecordingBatchSampler:
    """Hands on the user's index batches, remembers them, and leaves out those to skip without loading them."""

    def __init__(self, inner: Iterable[Any]) -> None:
        self.inner = inner
        self.skip: Callable[[int], bool] = lambda seq: False
        self.seen: deque[tuple[int, list[Any]]] = deque()

    def __iter__(self) -> Iterator[Any]:
        for seq, indices in enumerate(self.inner):
            if not self.skip(seq):
                self.seen.append((seq, list(indices)))
                yield indices

    def __len__(self) -> int:
        return len(self.inner)  # type: ignore[arg-type]


class Source:
    """The user's loader. Owned by the caller's thread; `Feed` pulls from what `begin` gives."""

    def __init__(self, loader: Iterable[Any], ids: Callable[[Any], Sequence[int]] | None) -> None:
        self.loader = loader
        self._ids = ids
        self._recorder: _RecordingBatchSampler | None = None
        self._iterable: Iterable[Any] = loader
        self.may_repeat_ids = True
        self.adapt: Callable[[Any], Any] | None = None  # makes of the user's batch one that can be taken apart
        if type(loader) is DataLoader and not isinstance(loader.dataset, IterableDataset):
            if loader.batch_sampler is not None:
                self._recorder = _RecordingBatchSampler(loader.batch_sampler)
                self._iterable = _with_batch_sampler(loader, self._recorder)
            sampler = loader.sampler
            once = isinstance(sampler, SequentialSampler | DistributedSampler) or (
                isinstance(sampler, RandomSampler) and not sampler.replacement
            )
            self.may_repeat_ids = not once

    @property
    def collate_fn(self) -> Any:
        return getattr(self.loader, "collate_fn", None)

    @property
    def batch_size(self) -> int | None:
        size = getattr(self.loader, "batch_size", None) or getattr(
            getattr(self.loader, "batch_sampler", None), "batch_size", None
        )
        return size if isinstance(size, int) else None

    @property
    def drop_last(self) -> bool:
        return bool(getattr(self.loader, "drop_last", False))

    @property
    def dataset(self) -> Any:
        return getattr(self.loader, "dataset", None)

    @property
    def data_size(self) -> int:
        try:
            return len(self.dataset)
        except TypeError:
            return 0

    def check_rescoring(self, every: int) -> None:
        """Raises ConfigError where scores are to be kept by sample, and no id names one."""
        if every > 1 and self._recorder is None and self._ids is None:
            raise ConfigError("rescore_every", every, "1 for a loader that shows no dataset indices; or ids=...")

    def set_epoch(self, epoch: int) -> None:
        """Whoever of the user's loader wants to know: samplers, and streaming datasets that shuffle by epoch."""
        sampler, batches = getattr(self.loader, "sampler", None), getattr(self.loader, "batch_sampler", None)
        told: list[Any] = []
        for owner in (self.loader, sampler, batches, getattr(batches, "sampler", None), self.dataset):
            announce = getattr(owner, "set_epoch", None)
            if announce is not None and not any(owner is other for other in told):
                told.append(owner)
                announce(epoch)

    def generators(self) -> list[torch.Generator]:
        batch_sampler = getattr(self.loader, "batch_sampler", None)
        owners = [self.loader, getattr(self.loader, "sampler", None), getattr(batch_sampler, "sampler", None)]
        found: list[torch.Generator] = []
        for owner in owners:
            g = getattr(owner, "generator", None)
            if isinstance(g, torch.Generator) and all(g is not other for other in found):
                found.append(g)
        return found

    def begin(self, state: PassState, trained: Callable[[int], bool] | None) -> Iterator[Candidate]:
        """Begins a pass on the caller's thread. `trained`: repeats an earlier pass and leaves these seq out."""
        kept_rng = None
        if trained is not None and state.rng is not None:
            kept_rng = torch.get_rng_state()
            torch.set_rng_state(state.rng)
            saved = self.generators()
            if len(saved) != len(state.generators):
                raise StateError(
                    f"the state holds {len(state.generators)} generators, the loader has {len(saved)}; resume with the "
                    "loader that the state was saved with"
                )
            for generator, was in zip(saved, state.generators, strict=True):
                generator.set_state(was)
        else:
            state.rng = torch.get_rng_state()
            state.generators = [g.get_state() for g in self.generators()]
        try:
            if self._recorder is not None:
                self._recorder.seen.clear()
                self._recorder.skip = trained or (lambda seq: False)
            iterator = self._candidates(iter(self._iterable), trained)
            return _first_now(iterator)
        finally:
            if kept_rng is not None:
                torch.set_rng_state(kept_rng)

    def _candidates(self, batches: Iterator[Any], trained: Callable[[int], bool] | None) -> Iterator[Candidate]:
        uses: Counter[int] = Counter()
        for at, batch in enumerate(batches):
            seq, indices = at, None
            if self._recorder is not None:
                seq, indices = self._recorder.seen.popleft()
            elif trained is not None and trained(seq):
                continue  # loaded and dropped: this loader can't skip
            flat = structure.flatten(batch if self.adapt is None else self.adapt(batch))
            ids = self._sample_ids(batch, seq, indices, flat.rows)
            yield Candidate(seq, flat, ids, _occurrences(ids, uses) if self.may_repeat_ids else ())

    def _sample_ids(self, batch: Any, seq: int, indices: list[Any] | None, rows: int) -> Sequence[int]:
        if self._ids is not None:
            ids = [int(i) for i in self._ids(batch)]
            if len(ids) != rows:
                raise StateError(f"ids gave {len(ids)} sample ids for a batch of {rows} rows")
            return ids
        if indices is not None and len(indices) == rows and all(isinstance(i, int) and i >= 0 for i in indices):
            return indices
        return range(_FOREIGN_ID + seq * (1 << 20), _FOREIGN_ID + seq * (1 << 20) + rows)


def _occurrences(ids: Sequence[int], uses: Counter[int]) -> Sequence[int]:
    if isinstance(ids, range):
        return ()
    out = []
    for i in ids:
        out.append(uses[i])
        uses[i] += 1
    return out if any(out) else ()


def _first_now(iterator: Iterator[Candidate]) -> Iterator[Candidate]:
    """Pulls the first batch at once; the rest, and the first's exception, when asked for."""
    first: Candidate | None = None
    error: BaseException | None = None
    try:
        first = next(iterator, None)
    except Exception as e:
        error = e

    def rest() -> Iterator[Candidate]:
        if error is not None:
            raise error
        if first is not None:
            yield first
            yield from iterator

    return rest()


def _with_batch_sampler(loader: DataLoader[Any], sampler: _RecordingBatchSampler) -> DataLoader[Any]:
    """The same DataLoader around a recording batch sampler. The order of its RNG draws is the same."""
    return DataLoader(
        loader.dataset,
        batch_sampler=sampler,  # type: ignore[arg-type]
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )


class Feed:
    """Pulls a pass on a background thread, AHEAD candidates ahead. take, go_on: the I/O thread; close: any."""

    def __init__(self, candidates: Iterator[Candidate], start: int, wake: Callable[[], None]) -> None:
        self._ready: deque[Candidate | End] = deque()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()  # one entry for each candidate that may be loaded
        for _ in range(AHEAD):
            self._room.put(None)
        self._taken = 0  # since go_on
        self._hungry = False  # the I/O thread found nothing: it is woken for the next one
        self._candidates = candidates
        self._wake = wake
        self._closed = threading.Event()
        self._next_seq = start
        self._thread = threading.Thread(target=self._run, name="siftd-feed", daemon=True)
        self._thread.start()

    def take(self) -> Candidate | End | None:
        if not self._ready:
            self._hungry = True  # before the second look: who comes after it wakes
            if not self._ready:
                return None
            self._hungry = False
        self._taken += 1
        return self._ready.popleft()

    def go_on(self) -> None:
        """As many as were taken are loaded: told together, so that the thread wakes up once."""
        while self._taken > 0:
            self._taken -= 1
            self._room.put(None)

    def close(self, timeout: float = 5.0) -> None:
        """Ends the thread after the batch that it is loading; the user's iterator is let go of on that thread."""
        self._closed.set()
        self._ready.clear()
        self._room.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        end = End(self._next_seq)
        step_aside()
        try:
            for candidate in self._candidates:
                if not self._put(candidate):
                    return
                end.batches = candidate.seq + 1
        except BaseException as error:
            end.error = error
        finally:
            close = getattr(self._candidates, "close", None)
            self._candidates = iter(())
            if close is not None:
                close()
        self._put(end)

    def _put(self, item: Candidate | End) -> bool:
        self._room.get()
        if self._closed.is_set():
            return False
        self._ready.append(item)
        if self._hungry:
            self._hungry = False
            self._wake()
        return True
