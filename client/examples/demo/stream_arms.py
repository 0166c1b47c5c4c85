# SPDX-License-Identifier: Apache-2.0
"""The demo's arms decoupled to the full: loader processes push candidates, workers stream the kept rows here."""

from __future__ import annotations

import multiprocessing
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

import siftd
from siftd._loop.spawn import LocalWorkers

from .data import AugmentedDigits, load_digits
from .observe import Watcher, observe_losses
from .record import Arm
from .training import Setting, fresh_model, train

LOADERS = 2


class Numbered(Dataset[Any]):
    """A shard of the digits whose batches carry the row's number, so that every row has an id of its own."""

    def __init__(self, inner: AugmentedDigits, index: int, count: int) -> None:
        self.inner, self.rows = inner, range(index, len(inner), count)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        rows = [self.rows[i] for i in indices]
        return [(x, y, r) for (x, y), r in zip(self.inner.__getitems__(rows), rows, strict=True)]


def feed(endpoints: list[str], index: int, setting: Setting) -> None:
    """A loader process."""
    torch.set_num_threads(1)
    images, labels, _, _ = load_digits()
    shard = DataLoader(
        Numbered(AugmentedDigits(images, labels), index, LOADERS),
        setting.batch_size,
        shuffle=True,
        generator=torch.Generator(),
    )
    siftd.CandidateLoader(
        endpoints,
        shard,
        loader_index=index,
        loader_count=LOADERS,
        epochs=setting.epochs,
        seed=setting.seed,
        ids=lambda batch: batch[2].tolist(),
    ).run()


def run_streamed(name: str, policy: siftd.Policy | str, data: Any, setting: Setting) -> Arm:
    model = fresh_model(setting.seed)
    arm = Arm(name, str(policy))
    example = (data[0][: setting.batch_size], data[1][: setting.batch_size])
    scorer = siftd.export_scorer(model, "cross_entropy", example)
    workers = LocalWorkers(scorer, [("cpu", 1)] * setting.workers)
    endpoints = workers.wait_ready()
    context = multiprocessing.get_context("spawn")
    loaders = [context.Process(target=feed, args=(endpoints, i, setting), daemon=True) for i in range(LOADERS)]
    for process in loaders:
        process.start()
    loader = siftd.StreamLoader(
        endpoints,
        setting.batch_size,
        loader_count=LOADERS,
        model=model,
        scorer=scorer,
        policy=policy,
        sync_every=setting.sync_every,
        seed=setting.seed,
        on_decision=observe_losses(arm, policy),
    )

    watch = Watcher(arm, loader)

    def batches(epoch: int) -> Any:
        for x, y, _ in loader:
            yield x, y

    with loader:
        loader.start()
        train(arm, setting, model, batches, lambda: loader.step(model), watch, data[2:])
        watch.finish()
        arm.policy, arm.keep_fraction_requested = str(loader.policy), loader.policy.requested_keep
    for process in loaders:
        process.join(20)
    workers.close()
    arm.finish()
    return arm
