# SPDX-License-Identifier: Apache-2.0
"""A feeder process: the user's loader is pulled outside of the training process' GIL; batches come by shared memory.

Forked on the caller's thread. It ends with the pass, or with the process that made it.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.multiprocessing as mp

from siftd._batches.source import Candidate, PassState, Source
from siftd.errors import SiftdTimeoutError, WorkerError

AHEAD = 4  # batches in shared memory
FIRST_DEADLINE = 600.0  # seconds for the loader's first batch


class FeederProcess:
    """The candidates of one pass, in order. begin: the caller's thread; the iterator and close: any one thread."""

    def __init__(self, source: Source, state: PassState, trained: Callable[[int], bool] | None) -> None:
        context = mp.get_context("fork")
        self._queue: Any = context.Queue(AHEAD)
        read, self._alive = os.pipe()
        if trained is None:
            state.rng = torch.get_rng_state()
            state.generators = [g.get_state() for g in source.generators()]
        seed = int(torch.empty((), dtype=torch.int64).random_())  # the parent's RNG moves on with each pass
        self._process = context.Process(
            target=_run, args=(source, state, trained, seed, self._queue, read, self._alive), name="siftd-feeder"
        )
        self._process.start()
        os.close(read)
        self._source = source
        self._closed = False

    def __iter__(self) -> Iterator[Candidate]:
        try:
            first = True
            while True:
                item = self._get(first)
                if first and isinstance(item, list):
                    # The order of the next pass follows from where the child's generators got to.
                    for generator, state in zip(self._source.generators(), item, strict=True):
                        generator.set_state(state)
                    first = False
                    continue
                if isinstance(item, Candidate):
                    yield item
                elif item is None:
                    return
                else:
                    raise item
        finally:
            self.close()

    def _get(self, first: bool) -> Any:
        import queue

        waited = 0.0
        while True:
            try:
                return self._queue.get(timeout=0.5)
            except queue.Empty:
                waited += 0.5
                if self._closed:
                    return None
                if not self._process.is_alive():
                    raise WorkerError(
                        f"the feeder process ended with code {self._process.exitcode}; run without feeder_process to "
                        "see the loader's own error"
                    ) from None
                if first and waited > FIRST_DEADLINE:
                    raise SiftdTimeoutError(
                        "the feeder process", "loading the first batch", FIRST_DEADLINE, "Look into the dataset"
                    ) from None

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        os.close(self._alive)  # the child sees it and ends
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(5)
        self._queue.close()
        self._queue.cancel_join_thread()


def _run(
    source: Source,
    state: PassState,
    trained: Callable[[int], bool] | None,
    seed: int,
    out: Any,
    alive: int,
    parents_end: int,
) -> None:
    os.close(parents_end)
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
    torch.set_num_threads(1)
    try:
        if trained is None:
            torch.manual_seed(seed)
            state.rng = torch.get_rng_state()
        candidates = source.begin(state, trained)
        out.put([g.get_state() for g in source.generators()])
        for candidate in candidates:
            out.put(candidate)
        out.put(None)
    except Exception as error:
        out.put(_portable(error))
    out.close()
    out.join_thread()
    # Shared memory is handed over by this process: it stays until the parent has taken everything.
    os.read(alive, 1)


def _end_with_parent(alive: int) -> None:
    os.read(alive, 1)
    os._exit(0)


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
