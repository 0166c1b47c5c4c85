# SPDX-License-Identifier: Apache-2.0
"""rescore_every with real workers: what is scored is counted, and what is not is decided by its last score."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from test_stream import spawn, streaming
from torch import nn
from torch.utils.data import DataLoader

import siftd
from support import Rows, Worker, eager_losses, toy_model, wait_until

ROWS, EVERY, EPOCHS = 1200, 4, 6
KEEP_ALL = siftd.LossCdf(beta=1.0, floor=1.0)
SHARE = 5 * math.sqrt(ROWS / EVERY * (1 - 1 / EVERY))  # five sigma of the rows that one pass scores


def scored(pool: list[Worker]) -> int:
    return sum(int(w.status()["scored"]) for w in pool)


def nudge(model: nn.Module, epoch: int) -> None:
    """Other weights, so that a row that is scored again has another score."""
    generator = torch.Generator().manual_seed(epoch)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))


@pytest.mark.parametrize("inline", [False, True])
def test_later_epochs_score_an_nth_and_decide_the_others_by_their_last_score(pool: list[Worker], inline: bool) -> None:
    model, data = toy_model(), Rows(ROWS)
    decided: dict[int, float] = {}

    def on_decision(scores: Any, kept: Any, ids: Any) -> None:
        assert len(kept) == len(ids)
        decided.update(zip(ids.tolist(), scores.tolist(), strict=True))

    before: dict[int, float] = {}
    with siftd.SiftingDataLoader(
        DataLoader(data, 32, shuffle=True), workers="inline" if inline else [w.endpoint for w in pool], model=model,
        policy=KEEP_ALL, seed=7, sync_every=1, prefetch=1, rescore_every=EVERY, on_decision=on_decision,
    ) as loader:  # fmt: skip
        for epoch in range(EPOCHS):
            counted = 0 if inline else scored(pool)
            handed: dict[int, tuple[float, int]] = {}
            for _ in loader:
                info = loader.last_batch_info
                assert info is not None
                rows = zip(info.ids.tolist(), info.scores.tolist(), info.model_version.tolist(), strict=True)
                handed.update({i: (score, version) for i, score, version in rows})
            assert len(handed) == ROWS
            assert {i: score for i, (score, _) in handed.items()} == decided
            fresh = [i for i in decided if decided[i] != before.get(i)]
            if not inline:
                assert scored(pool) - counted == len(fresh)
            assert len(fresh) == ROWS if epoch == 0 else abs(len(fresh) - ROWS / EVERY) < SHARE
            assert all((version == 0) == (decided[i] == before.get(i)) for i, (_, version) in handed.items())
            want = eager_losses(model, data.x[fresh], data.y[fresh]).numpy()
            np.testing.assert_allclose([decided[i] for i in fresh], want, rtol=1e-4, atol=1e-6)
            before = dict(decided)
            nudge(model, epoch)
            loader.step(model)
            version = loader.stats().model_versions
            if not inline:
                for w in pool:
                    wait_until("the version in force", lambda w=w, v=version: int(w.status()["model_version"]) == v)
        stats = loader.stats()
    assert stats.decided == stats.scored_rows == ROWS * EPOCHS
    assert abs(stats.prior_scores - ROWS * (EPOCHS - 1) * (1 - 1 / EVERY)) < EPOCHS * SHARE


LOADER = """
import json, sys, torch, siftd
from torch.utils.data import DataLoader
from support import Rows
endpoints, rows, epochs, every = json.loads(sys.argv[1]), *map(int, sys.argv[2:5])
torch.set_num_threads(1)
loader = DataLoader(Rows(rows), 32, shuffle=True, generator=torch.Generator())
siftd.CandidateLoader(endpoints, loader, epochs=epochs, rescore_every=every).run()
"""


def test_a_streams_loader_keeps_the_scores_too(pool: list[Worker]) -> None:
    """A sample meets either worker: its score comes back by Settled, and goes with it to the next."""
    decided: list[float] = []
    process = spawn(LOADER, json.dumps([w.endpoint for w in pool]), ROWS, EPOCHS, EVERY)
    try:
        with streaming(
            pool, policy=KEEP_ALL, loader_count=1, on_decision=lambda s, k, i: decided.extend(s.tolist())
        ) as loader:
            scores: dict[int, float] = {}
            for _ in range(EPOCHS):
                for _ in loader:
                    info = loader.last_batch_info
                    assert info is not None
                    # The weights stay as they are, so a row's score does, whoever gave it.
                    for i, score in zip(info.ids.tolist(), info.scores.tolist(), strict=True):
                        assert scores.setdefault(i, score) == pytest.approx(score, rel=1e-4)
            # A pass may begin before the last scores of the one before are back: those rows are scored once more.
            assert abs(scored(pool) - ROWS - (EPOCHS - 1) * ROWS / EVERY) < EPOCHS * SHARE
            loader.close()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
    assert len(decided) == ROWS * EPOCHS
    assert set(scores) == set(range(ROWS))


def test_a_new_loader_scores_all_again(worker: Worker) -> None:
    """The scores are not part of a state: what resumes scores each row once more."""
    options: dict[str, Any] = {"workers": [worker.endpoint], "policy": KEEP_ALL, "seed": 7, "rescore_every": EVERY}
    state: dict[str, Any] = {}
    for _ in range(2):
        counted = scored([worker])
        with siftd.SiftingDataLoader(DataLoader(Rows(128), 32, shuffle=True), model=toy_model(), **options) as loader:
            loader.load_state_dict(state)
            for _ in loader:
                pass
            state = loader.state_dict()
        assert scored([worker]) - counted == 128
