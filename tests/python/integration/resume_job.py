# SPDX-License-Identifier: Apache-2.0
"""A trainer that saves checkpoints, resumes from the newest, and dies by SIGKILL where it is told, for test_resume.py.

usage: resume_job.py MODE FOLDER POLICY ENDPOINT...; MODE: dropin, stream. DIE=POINT:N dies at the N-th passage of
POINT: next (before a batch is asked for), trained (after the optimizer step), stepped (before the checkpoint is made),
state (inside state_dict), write (half of the checkpoint is on disk), saved. What was trained stands in the checkpoint
itself, as (epoch, sample id): so after the last run it is that of the lineage. EVERY: steps between two checkpoints, 5;
1: each epoch's end is saved, too. DROP_LAST=1: an epoch's remainder goes into the next one.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import siftd
from siftd._delivery.ledger import Ledger
from support import Rows

EPOCHS, EVERY = 3, int(os.environ.get("EVERY", "5"))
DROP_LAST = os.environ.get("DROP_LAST") == "1"
passed: Counter[str] = Counter()
POLICIES = {
    "uniform": siftd.Uniform(0.5),
    "confidence": siftd.Confidence(0.9, 0.1),
    "loss_cdf": siftd.LossCdf(beta=1, loss_history_length=50),
}


def point(name: str) -> None:
    passed[name] += 1
    if os.environ.get("DIE") == f"{name}:{passed[name]}":
        os.kill(os.getpid(), signal.SIGKILL)


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Whole or not at all."""
    file = io.BytesIO()
    torch.save(checkpoint, file)
    partial, content = path.with_suffix(".partial"), file.getvalue()
    with open(partial, "wb") as out:
        out.write(content[: len(content) // 2])
        out.flush()
        point("write")
        out.write(content[len(content) // 2 :])
    partial.replace(path)
    point("saved")


def make(mode: str, policy: str, endpoints: list[str], model: torch.nn.Module) -> Any:
    if mode == "dropin":
        plain = DataLoader(Rows(600), 16, shuffle=True, generator=torch.Generator().manual_seed(5))
        return siftd.SiftingDataLoader(
            plain, model=model, workers=endpoints, policy=POLICIES[policy], seed=7, sync_every=4,
            drop_last=DROP_LAST,
        )  # fmt: skip
    data = Rows(64)
    return siftd.StreamLoader(
        endpoints, 16, model=model, example_batch=(data.x[:16], data.y[:16]), policy=POLICIES[policy], seed=7,
        loader_count=2, sync_every=4, drop_last=DROP_LAST,
    )  # fmt: skip


def main() -> None:
    mode, folder, policy, *endpoints = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))  # takes an epoch's last batch of one row, too
    opt = torch.optim.SGD(model.parameters(), 0.01)
    path = Path(folder, "checkpoint.pt")
    loader = make(mode, policy, endpoints, model)
    trained: list[tuple[int, int]] = []
    epoch = 0
    if path.exists():
        checkpoint = torch.load(path, weights_only=True)
        model.load_state_dict(checkpoint["model"])
        opt.load_state_dict(checkpoint["opt"])
        loader.load_state_dict(checkpoint["loader"])
        trained, epoch = checkpoint["trained"], checkpoint["epoch"]
    inside = Ledger.half_trained

    def half_trained(ledger: Ledger) -> Any:
        point("state")
        return inside(ledger)

    Ledger.half_trained = half_trained  # type: ignore[method-assign]
    steps = 0
    steps_of: list[int] = []

    def checkpoint_now() -> None:
        point("stepped")
        state = {"loader": loader.state_dict(), "model": model.state_dict(), "opt": opt.state_dict()}
        save(path, state | {"trained": trained, "epoch": epoch})

    while epoch < EPOCHS:
        batches = iter(loader)
        while True:
            point("next")
            batch = next(batches, None)
            if batch is None:
                break
            loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
            opt.zero_grad()
            loss.backward()
            opt.step()
            point("trained")
            loader.step(model)
            info = loader.last_batch_info
            trained += zip(info.epochs.tolist(), info.ids.tolist(), strict=True)
            steps += 1
            if steps % EVERY == 0:
                checkpoint_now()
        epoch += 1
        steps_of.append(steps - sum(steps_of))
        if EVERY == 1:
            checkpoint_now()
    torch.save(trained, Path(folder, "end.pt"))
    torch.save(steps_of, Path(folder, "steps.pt"))
    loader.close()


if __name__ == "__main__":
    main()
