# SPDX-License-Identifier: Apache-2.0
"""One run of a sifted Trainer as its own process, or one of several under torchrun; see `run` for the settings.

python hf_run.py '{"folder": ..., "out": ..., "sifting": {...}, "options": {...}}'
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

import siftd
from hf_support import DieAt, make_trainer, write
from siftd.transformers import enable_sifting


def run(
    folder: str,
    out: str,
    sifting: dict[str, Any],
    options: dict[str, Any],
    rows: int = 120,
    die: int = 0,
    resume: bool = False,
) -> None:
    """`out`: file for what was trained, the rank is appended. `die`: global step to die at. `resume`: the last save."""
    torch.set_num_threads(1)
    here = Path(f"{out}.{os.environ.get('RANK', 0)}")
    trainer = make_trainer(Path(folder), rows=rows, **options)
    handle = enable_sifting(trainer, policy=siftd.Uniform(0.5), total_steps=None, **sifting)
    if die:
        trainer.add_callback(DieAt(trainer, die, here))
    trainer.train(resume_from_checkpoint=resume)
    stats = handle.loader.stats()
    write(trainer, here, state=trainer.state.epoch, candidates=stats.candidates, versions=stats.model_versions)


if __name__ == "__main__":
    run(**json.loads(sys.argv[1]))
