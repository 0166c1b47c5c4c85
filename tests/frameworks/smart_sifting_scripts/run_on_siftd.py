# SPDX-License-Identifier: Apache-2.0
"""Runs a script for SageMaker on siftd: one substitution in its text, then as the main program.

usage: run_on_siftd.py SCRIPT COPY [ARGUMENTS]; COPY is where the changed script is written. The last line on stdout is
what the sifting did, as JSON.
"""

from __future__ import annotations

import functools
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import torch

from siftd.dropin import SiftingDataLoader

plain_init = SiftingDataLoader.__init__
loaders: list[tuple[SiftingDataLoader, dict[str, torch.Tensor]]] = []


@functools.wraps(plain_init)
def remember(self: SiftingDataLoader, *args: Any, **kwargs: Any) -> None:
    plain_init(self, *args, **kwargs)
    loaders.append((self, {n: p.detach().clone() for n, p in kwargs["model"].named_parameters()}))


def on_siftd(script: str) -> str:
    return re.sub(r"\bsmart_sifting(?=[.\w]* import)", "siftd.compat.smart_sifting", script)


if __name__ == "__main__":
    script, copy, *arguments = sys.argv[1:]
    torch.set_num_threads(1)
    SiftingDataLoader.__init__ = remember  # type: ignore[method-assign]
    Path(copy).write_text(on_siftd(Path(script).read_text()))
    sys.argv = [copy, *arguments]
    runpy.run_path(copy, run_name="__main__")
    loader, before = loaders[-1]
    changed = [n for n, p in loader._model.named_parameters() if not torch.equal(p.detach().cpu(), before[n].cpu())]
    end = {"loaders": len(loaders), "scorer": type(loader.scorer).__name__, "changed": len(changed)}
    end |= {"parameters": len(before), "stats": loader.stats().__dict__}
    loader.close()
    print(json.dumps(end))
