# SPDX-License-Identifier: Apache-2.0
"""The demo's arms with the drop-in: the README's three-line change around an ordinary DataLoader."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader

import siftd

from .data import AugmentedDigits
from .observe import Watcher, observe_losses
from .record import Arm
from .training import Setting, fresh_model, train

Data = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def loader_of(data: Data, setting: Setting) -> DataLoader[tuple[torch.Tensor, int]]:
    generator = torch.Generator().manual_seed(setting.seed)
    return DataLoader(AugmentedDigits(data[0], data[1]), setting.batch_size, shuffle=True, generator=generator)


def run_sifted(name: str, policy: siftd.Policy | str, data: Data, setting: Setting) -> Arm:
    model = fresh_model(setting.seed)
    arm = Arm(name, str(policy))
    loader = siftd.SiftingDataLoader(
        loader_of(data, setting),
        model=model,
        loss="cross_entropy",
        workers=setting.workers,
        policy=policy,
        sync_every=setting.sync_every,
        seed=setting.seed,
        on_decision=observe_losses(arm, policy),
    )
    watch = Watcher(arm, loader)
    with loader:
        train(arm, setting, model, lambda epoch: loader, lambda: loader.step(model), watch, data[2:])
        watch.finish()
        assert loader.policy is not None
        arm.policy = str(loader.policy)
        arm.keep_fraction_requested = loader.policy.requested_keep
    arm.finish()
    return arm


def run_plain(data: Data, setting: Setting) -> Arm:
    """No sifting: the same candidates, all trained."""
    model = fresh_model(setting.seed)
    arm = Arm("no sifting", "none", keep_fraction_requested=1.0)
    loader = loader_of(data, setting)
    rows = 0
    seen = iter(range(1 << 62))

    def batches(epoch: int):  # type: ignore[no-untyped-def]
        nonlocal rows
        for x, y in loader:
            rows += len(y)
            arm.trained_ids.update((epoch, next(seen)) for _ in range(len(y)))
            yield x, y

    train(arm, setting, model, batches, lambda: None, lambda epoch: "", data[2:])
    arm.candidates = arm.decided = arm.kept = rows
    arm.finish()
    return arm
