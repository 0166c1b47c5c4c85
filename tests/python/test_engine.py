# SPDX-License-Identifier: Apache-2.0
"""Engine driven by hand: what a cancelled pass leaves behind."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import torch

from siftd._batches import structure
from siftd._batches.source import Candidate
from siftd._delivery.loader_core import Lease, LoaderCore, LoaderOptions, Verdicted
from siftd._delivery.session import new_incarnation
from siftd._loop.engine import Engine, EngineOptions
from siftd._wire.codec import wire_pb2


def engine() -> Engine:
    core = LoaderCore(LoaderOptions(mode=wire_pb2.MODE_VERDICTS, run=1), new_incarnation())
    options = EngineOptions(4, 2, 5.0, ("0",), drop_last=False, endless=False, history_length=0)
    return Engine(options, core, {})


def lease(number: int, seq: int) -> Lease:
    return Lease((number, seq), number, range(4), [], [], context=structure.flatten(torch.zeros(4, 2)))


def verdict(of: Lease) -> Verdicted:
    return Verdicted(of, wire_pb2.Decision(outcome=wire_pb2.OUTCOME_DECIDED, rows=4, kept=range(4)), 0.0, 0)


def begin(e: Engine, number: int) -> None:
    """A pass whose loader never gives a batch."""
    never: SimpleQueue[Candidate] = SimpleQueue()
    e.begin_pass(number, number, iter(never.get, None), lambda: None)


def test_a_verdict_of_a_cancelled_pass_gives_no_batch() -> None:
    e = engine()
    begin(e, 0)
    e.core.offer(lease(0, 1), 0.0)
    e.core.verdicts.append(verdict(lease(0, 0)))
    e.cancel()
    e.turn(1.0)
    assert not e.ready
    assert (e.core.outstanding, e.stats.cancelled) == (0, 8)


def test_a_cancel_while_verdicts_are_gathered_wins(monkeypatch: Any) -> None:
    """Bug: rows of the pass given up came out in the next one."""
    e = engine()
    begin(e, 0)
    e.core.verdicts.append(verdict(lease(0, 0)))
    gather = e._piece

    def cancelled_meanwhile(v: Verdicted) -> Any:
        piece = gather(v)
        e.cancel()
        begin(e, 1)
        return piece

    monkeypatch.setattr(e, "_piece", cancelled_meanwhile)
    e.turn(1.0)
    monkeypatch.undo()
    e.turn(2.0)
    assert not e.ready
    assert e.stats.cancelled == 4
    e.core.verdicts.append(verdict(lease(1, 0)))
    e.turn(3.0)
    assert [r.info.keys for r in e.ready if r.info is not None] == [[(1, 0, 4)]]
