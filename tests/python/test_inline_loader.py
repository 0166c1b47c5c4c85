# SPDX-License-Identifier: Apache-2.0
"""workers="inline": the drop-in without workers keeps its promises, and decides as a worker does."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils.data import DataLoader

import siftd
from support import Rows, Worker, eager_losses, toy_model


def sifting(workers: Any, **options: Any) -> siftd.SiftingDataLoader:
    generator = torch.Generator().manual_seed(5)
    options = {"policy": siftd.Uniform(0.5), "seed": 3, "model": toy_model(), **options}
    return siftd.SiftingDataLoader(
        DataLoader(Rows(320), 16, shuffle=True, generator=generator), workers=workers, **options
    )


def kept_ids(loader: siftd.SiftingDataLoader) -> list[int]:
    with loader:
        return [int(i) for _ in loader for i in loader.last_batch_info.ids]  # type: ignore[union-attr]


def test_inline_keeps_the_rows_that_a_worker_keeps(worker: Worker) -> None:
    for policy in (siftd.Uniform(0.5), siftd.LossCdf(beta=2.0), siftd.Confidence(), siftd.ComposerRank(0.4)):
        assert kept_ids(sifting("inline", policy=policy)) == kept_ids(sifting([worker.endpoint], policy=policy)), policy


def test_inline_scores_are_the_live_models(worker: Worker) -> None:
    model, data = toy_model(), Rows(320)
    opt = torch.optim.SGD(model.parameters(), 0.5)
    with sifting("inline", model=model, policy=siftd.LossCdf(beta=1.0, floor=1.0), prefetch=1) as loader:
        for x, y in loader:
            info = loader.last_batch_info
            assert info is not None
            ids = info.ids.astype("int64")
            expected = eager_losses(model, data.x[ids], data.y[ids])
            assert model.training
            torch.testing.assert_close(torch.from_numpy(info.scores), expected, rtol=1e-4, atol=1e-5)
            assert (info.staleness == 0).all()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            opt.step()
            loader.step(model)
        stats = loader.stats()
    assert (stats.decided, stats.breaker_opened, stats.workers) == (320, 0, 1)


def test_inline_resumes_without_loss_or_repeat() -> None:
    whole = Counter(kept_ids(sifting("inline")))
    seen: list[int] = []
    first = sifting("inline")
    for n, _ in enumerate(first):
        assert first.last_batch_info is not None
        seen += first.last_batch_info.ids.tolist()
        if n == 3:
            state = first.state_dict()
            break
    first.close()
    second = sifting("inline")
    second.load_state_dict(state)
    assert Counter(seen + kept_ids(second)) == whole


def test_a_loop_that_breaks_and_begins_again() -> None:
    with sifting("inline") as loader:
        next(iter(loader))
        assert len(list(loader)) > 5
        assert loader.stats().cancelled > 0
