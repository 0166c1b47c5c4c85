# SPDX-License-Identifier: Apache-2.0
"""The demo's arms with the drop-in: the README's three-line change around an ordinary DataLoader."""

from __future__ import annotations

from collections import deque

import torch
from torch.utils.data import DataLoader

import siftd

from .data import AugmentedDigits
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
        on_decision=None if isinstance(policy, siftd.Uniform) else observe_losses(arm, policy),
    )
    late: deque[tuple[int, int]] = deque(maxlen=20)
    before = siftd.Stats()

    def observe(epoch: int) -> str:
        nonlocal before
        info = loader.last_batch_info
        assert info is not None
        arm.trained_ids.update((epoch, i) for i in info.ids.tolist())
        scored = info.staleness[info.staleness >= 0]
        if len(scored):
            arm.staleness.append(int(scored.mean()))
        now = loader.stats()
        arm.queue.append(now.ready)
        if now.decided > before.decided:
            late.append((now.decided - before.decided, now.kept - before.kept))
        before = now
        share = sum(k for _, k in late) / max(1, sum(d for d, _ in late))
        arm.keep_curve.append((now.batches, share))
        return loader.progress_line()

    with loader:
        train(arm, setting, model, lambda epoch: loader, lambda: loader.step(model), observe, data[2:])
        stats = loader.stats()
        assert loader.policy is not None
        arm.policy = str(loader.policy)
        arm.keep_fraction_requested = loader.policy.requested_keep
    arm.candidates, arm.decided, arm.kept = stats.candidates, stats.decided, stats.kept
    arm.model_versions = stats.model_versions
    arm.finish()
    return arm


def observe_losses(arm: Arm, policy: siftd.Policy | str):  # type: ignore[no-untyped-def]
    """Losses of kept and dropped rows. A policy that reads the confidence gives -ln(p_max), the loss of a right guess."""
    confidence = not isinstance(policy, siftd.LossCdf)

    def on_decision(scores, kept):  # type: ignore[no-untyped-def]
        arm.saw_losses(-torch.from_numpy(scores).clamp(1e-12, 1).log().numpy() if confidence else scores, kept)

    return on_decision


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
