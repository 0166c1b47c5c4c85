# SPDX-License-Identifier: Apache-2.0
"""A loop written with accelerate around a sifted loader, as its own process or a rank; see `run` for the settings."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

import siftd
import siftd.accelerate
from support import Rows, toy_model

LENGTH = 6  # steps_per_epoch


def run(
    out: str, folder: str, workers: Any, epochs: int = 3, save: int = 0, die: int = 0, resume: bool = False
) -> None:
    """`save`, `die`: optimizer steps after which to save, and to die. `workers`: of siftd."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    here = Path(f"{out}.{accelerator.process_index}")
    model = toy_model()
    plain = siftd.distributed_loader(DataLoader(Rows(240), 8, shuffle=True), seed=4)
    made = siftd.SiftingDataLoader(
        plain, model=model, workers=workers, policy=siftd.Uniform(0.5), seed=7, steps_per_epoch=LENGTH,
        device=accelerator.device,
    )  # fmt: skip
    model, optimizer, loader = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1), made)
    assert loader is made
    accelerator.register_for_checkpointing(siftd.accelerate.Checkpoint(loader))
    if resume:
        accelerator.load_state(folder)
    steps, trained, pending = 0, [], []
    begun = json.loads(Path(folder, "steps").read_text()) if resume else 0
    for _ in range(begun * 2 // LENGTH, epochs):
        for x, y in loader:
            pending += loader.last_batch_info.ids.tolist()
            with accelerator.accumulate(model):
                accelerator.backward(torch.nn.functional.cross_entropy(model(x), y))
                optimizer.step()
                optimizer.zero_grad()
            siftd.accelerate.step(accelerator, loader, model)
            if not accelerator.sync_gradients:
                continue
            steps += 1
            trained.append(pending)
            pending = []
            if steps == save:
                accelerator.save_state(folder)
                Path(folder, "steps").write_text(json.dumps(steps))
            if die and steps == die:
                here.write_text(json.dumps({"trained": trained}))
                accelerator.wait_for_everyone()
                os._exit(9)
    here.write_text(json.dumps({"trained": trained, "steps": loader.stats().steps}))
    loader.close()


if __name__ == "__main__":
    run(**json.loads(sys.argv[1]))
