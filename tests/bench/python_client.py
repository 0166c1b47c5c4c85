# SPDX-License-Identifier: Apache-2.0
"""The Python twin of client_bench.cc: each line in holds the same arguments, each line out the same figures.

Lines in: trainer|loader ENDPOINT BYTES ROWS BATCH MESSAGES
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

import torch

import siftd


class Clock:
    """After each message: seconds of wall and CPU from the end of the first tenth to the last one."""

    def __init__(self, messages: int) -> None:
        self._warm, self._count = messages // 10 + 1, 0
        self.messages = messages

    def received(self) -> bool:
        self._count += 1
        if self._count == self._warm:
            self.began, self.cpu = time.perf_counter(), time.process_time()
        if self._count == self.messages:
            self.wall, self.cpu = time.perf_counter() - self.began, time.process_time() - self.cpu
        return self._count < self.messages

    def line(self, nbytes: int) -> str:
        gigabytes = nbytes * (self.messages - self._warm) / 1e9
        return f"{gigabytes / self.wall:.6f} {self.cpu / gigabytes:.6f}"


class _Enough(Exception):
    pass


def train(endpoint: str, batch: int, clock: Clock) -> None:
    # A rank that does not publish: rank 1 of 2.
    loader = siftd.StreamLoader(
        [endpoint], batch, rank=1, world=2, loader_count=2, run=1, steps_per_epoch=clock.messages + 1, linger=0.0,
    )  # fmt: skip
    with loader:
        for x, _ in loader:
            assert len(x) == batch
            loader.step()
            if not clock.received():
                return


def load(endpoint: str, rows: int, nbytes: int, clock: Clock) -> None:
    batch = (torch.zeros(rows, nbytes // rows // 4),)

    class Batches:
        def __iter__(self) -> Iterator[tuple[torch.Tensor]]:
            while clock.received():
                yield batch
            raise _Enough

    with contextlib.suppress(_Enough):
        siftd.CandidateLoader([endpoint], Batches()).run()


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        role, endpoint, *numbers = line.split()
        nbytes, rows, batch, messages = map(int, numbers)
        clock = Clock(messages)
        if role == "trainer":
            nbytes = nbytes // rows * batch
            train(endpoint, batch, clock)
        else:
            load(endpoint, rows, nbytes, clock)
        print(clock.line(nbytes), flush=True)


if __name__ == "__main__":
    main()
