# SPDX-License-Identifier: Apache-2.0
"""Deterministic mode with real workers: the same rows, scores and weights, bit by bit, whatever the pool."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import siftd
from support import Rows, Worker, toy_model

POLICIES = {
    "confidence": siftd.Confidence(0.5, 0.05),
    "loss_cdf": siftd.LossCdf(beta=1, loss_history_length=100),
    "uniform": siftd.Uniform(0.5),
    "top_k": siftd.TopK(0.4),
}


def train(
    endpoints: list[str] | int, policy: siftd.Policy, epochs: int = 2, batches: int | None = None, **options: Any
) -> list[Any]:
    """What was trained, with what was known of it, and the weights at the end."""
    torch.manual_seed(11)
    torch.set_num_threads(1)
    model = toy_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(Rows(800), 32, shuffle=True, generator=torch.Generator().manual_seed(3))
    seen: list[Any] = []
    with siftd.SiftingDataLoader(
        loader, model=model, workers=endpoints, policy=policy, seed=5, batch_size=16, sync_every=4, deterministic=True,
        **options,
    ) as sifting:  # fmt: skip
        for _ in range(epochs):
            for n, (x, y) in enumerate(sifting):
                loss = nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                sifting.step(model)
                info = sifting.last_batch_info
                assert info is not None
                seen.append((info.ids.tobytes(), info.scores.tobytes(), info.model_version.tobytes()))
                if n + 1 == batches:
                    break
        stats = sifting.stats()
    assert stats.unsifted == 0
    assert stats.model_versions > 3
    seen += [p.detach().numpy().tobytes() for p in model.parameters()]
    return seen


@pytest.fixture(scope="module")
def pool4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Worker]]:
    folder = tmp_path_factory.mktemp("pool")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Worker(folder, name=f"w{i}")) for i in range(4)]


@pytest.mark.parametrize("name", POLICIES)
def test_one_two_and_four_workers_keep_the_same_rows(pool4: list[Worker], name: str) -> None:
    runs = [train([w.endpoint for w in pool4[:n]], POLICIES[name]) for n in (1, 2, 4, 4)]
    assert len(runs[0]) > 20
    assert all(run == runs[0] for run in runs)


def test_a_broken_off_epoch_does_not_change_what_follows(pool4: list[Worker]) -> None:
    runs = [train([w.endpoint for w in pool4[:n]], POLICIES["loss_cdf"], epochs=4, batches=7) for n in (1, 4)]
    assert runs[0] == runs[1]


def test_steps_of_several_batches(pool4: list[Worker]) -> None:
    """Three batches for each optimizer step: more than a round reckons with."""

    def ids(n: int) -> list[bytes]:
        torch.manual_seed(11)
        loader = DataLoader(Rows(1600), 32)
        with siftd.SiftingDataLoader(
            loader, model=toy_model(), workers=[w.endpoint for w in pool4[:n]], policy=siftd.Confidence(),
            batch_size=16, sync_every=4, deterministic=True, seed=5,
        ) as sifting:  # fmt: skip
            found = []
            for n, _ in enumerate(sifting):
                assert sifting.last_batch_info is not None
                found.append(sifting.last_batch_info.ids.tobytes())
                if n % 3 == 2:
                    sifting.step()
        return found

    assert ids(1) == ids(4)


def test_a_killed_worker_changes_nothing(tmp_path: Path, pool4: list[Worker]) -> None:
    expected = train([w.endpoint for w in pool4[:1]], POLICIES["loss_cdf"])
    with Worker(tmp_path, name="stays") as stays, Worker(tmp_path, name="dies") as dies:

        def kill(*_: Any) -> None:
            if dies.process.poll() is None:
                dies.kill()

        assert train([stays.endpoint, dies.endpoint], POLICIES["loss_cdf"], on_decision=kill) == expected
        assert dies.process.poll() is not None


def test_workers_that_it_starts_itself_have_one_thread_each(pool4: list[Worker]) -> None:
    expected = train([w.endpoint for w in pool4[:1]], POLICIES["confidence"], epochs=1)
    assert train(2, POLICIES["confidence"], epochs=1) == expected


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rescore_every": 2}, "rescore_every is 2; allowed: 1 where deterministic=True"),
        ({"max_staleness_steps": 9}, "max_staleness_steps is 9; allowed: 0 where deterministic=True"),
    ],
)
def test_what_cannot_be_repeated_exactly_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(siftd.ConfigError) as caught:
        siftd.SiftingDataLoader(DataLoader(Rows(64), 8), model=toy_model(), deterministic=True, **options)
    assert text in str(caught.value)
