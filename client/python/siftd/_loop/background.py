# SPDX-License-Identifier: Apache-2.0
"""What runs a drop-in's engine: the compiled client where it was built, else the one in Python, or the loop itself."""

from __future__ import annotations

from collections.abc import Sequence

from siftd._delivery.loader_core import LoaderCore, LoaderOptions
from siftd._delivery.native_loader import NativeIo, NativeLoaderCore, available
from siftd._delivery.session import new_incarnation
from siftd._loop.engine import Engine
from siftd._loop.inline import InlineCore, InlineIo
from siftd._net.transport import IoThread

Core = LoaderCore | NativeLoaderCore | InlineCore
Io = IoThread | NativeIo | InlineIo

THREAD = "siftd-loader"


def make_core(options: LoaderOptions, endpoints: Sequence[str]) -> Core:
    """Raises ConfigError for an endpoint that is none."""
    if available():
        return NativeLoaderCore(options, new_incarnation(), endpoints)
    return LoaderCore(options, new_incarnation())


def make_io(core: Core, engine: Engine, endpoints: Sequence[str]) -> Io:
    """Not started. `core` is the engine's."""
    if isinstance(core, InlineCore):
        return InlineIo(engine, core)
    if isinstance(core, NativeLoaderCore):
        return NativeIo(THREAD, core, engine.turn)
    return IoThread(THREAD, endpoints, core, engine.turn)
