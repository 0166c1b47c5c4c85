# SPDX-License-Identifier: Apache-2.0
"""A progress bar over a sifting loader (tqdm)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from siftd._loop.sifted import Sifted
from siftd.errors import ConfigError

REFRESH_EVERY = 0.5  # seconds between two readings of the loader's figures


def progress(loader: Sifted, **bar: Any) -> Iterator[Any]:
    """The loader's batches behind a tqdm bar that shows kept share, staleness and waits.

        for x, y in siftd.progress(loader, desc=f"epoch {epoch}"):

    `bar`: arguments of tqdm. Raises ConfigError where tqdm is not installed.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ConfigError("tqdm", "not installed", "pip install tqdm; or print loader.progress_line()") from error
    with contextlib.suppress(TypeError):  # without steps_per_epoch nobody knows
        bar.setdefault("total", len(loader))
    with tqdm(**bar) as shown:
        told = 0.0
        for batch in loader:
            yield batch
            if time.monotonic() - told > REFRESH_EVERY:
                told = time.monotonic()
                shown.set_postfix_str(loader.progress_line(), refresh=False)
            shown.update()
        shown.set_postfix_str(loader.progress_line())
