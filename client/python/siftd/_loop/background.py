# SPDX-License-Identifier: Apache-2.0
"""What runs a drop-in's engine: the compiled client where it was built, else the one in Python, or the loop itself."""

from __future__ import annotations

from collections.abc import Sequence

from siftd._batches import structure
from siftd._batches.rounds import Rounds
from siftd._delivery.loader_core import LoaderCore, LoaderOptions
from siftd._delivery.native_loader import NativeIo, NativeLoaderCore, available
from siftd._delivery.session import new_incarnation
from siftd._loop.engine import Engine, EngineOptions
from siftd._loop.exact_engine import ExactEngine
from siftd._loop.inline import InlineCore, InlineIo
from siftd._loop.native_engine import NativeBatchIo, NativeEngine, takes
from siftd._net.keys import KeyFiles
from siftd._net.transport import IoThread

AnyEngine = Engine | NativeEngine
Io = IoThread | NativeIo | NativeBatchIo | InlineIo

THREAD = "siftd-loader"


def inline(
    core: InlineCore, options: EngineOptions, pad: structure.Pad, history: Sequence[float]
) -> tuple[AnyEngine, Io]:
    engine = Engine(options, core, pad, history)
    return engine, InlineIo(engine, core)


def exact(
    options: EngineOptions,
    loader: LoaderOptions,
    endpoints: Sequence[str],
    pad: structure.Pad,
    rounds: Rounds,
    history: Sequence[float],
    keys: KeyFiles | None = None,
) -> tuple[AnyEngine, Io]:
    """Deterministic mode, in Python. Not started."""
    core = LoaderCore(loader, new_incarnation())
    engine = ExactEngine(options, core, pad, rounds, history)
    return engine, IoThread(THREAD, endpoints, core, engine.turn, keys)


def with_workers(
    options: EngineOptions,
    loader: LoaderOptions,
    endpoints: Sequence[str],
    example: structure.Flat,
    pad: structure.Pad,
    history: Sequence[float],
    keys: KeyFiles | None = None,
) -> tuple[AnyEngine, Io]:
    """Not started. Raises ConfigError for an endpoint that is none."""
    incarnation = new_incarnation()
    if not available():
        core = LoaderCore(loader, incarnation)
        engine = Engine(options, core, pad, history)
        return engine, IoThread(THREAD, endpoints, core, engine.turn, keys)
    if options.on_decision is None and loader.rescore_every == 1 and takes(example, pad):
        whole = NativeEngine(options, loader, endpoints, incarnation, example, history, keys)
        return whole, NativeBatchIo(whole.link)
    compiled = NativeLoaderCore(loader, incarnation, endpoints, keys)
    engine = Engine(options, compiled, pad, history)
    return engine, NativeIo(THREAD, compiled, engine.turn)
