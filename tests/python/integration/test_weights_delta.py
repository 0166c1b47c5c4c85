# SPDX-License-Identifier: Apache-2.0
"""Models with a frozen part and real workers: what is sent, and that every score is of the model as it was."""

from __future__ import annotations

import copy
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import siftd
from siftd._weights.publisher import PublisherCore
from siftd._wire.codec import wire_pb2
from support import Rows, Worker, eager_losses, toy_model, wait_until

FULL, DELTA, ARTIFACT = wire_pb2.MODEL_KIND_FULL, wire_pb2.MODEL_KIND_DELTA, wire_pb2.MODEL_KIND_ARTIFACT
KEEP_ALL = siftd.LossCdf(beta=1.0, floor=1.0)


class Lora(nn.Module):
    """A frozen linear layer and a trained low-rank change of it (Hu et al., arXiv 2106.09685)."""

    def __init__(self, layer: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.a = nn.Parameter(0.1 * torch.randn(rank, layer.in_features))
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x) + x @ self.a.T @ self.b.T
        return out


def frozen_trunk() -> nn.Sequential:
    model = toy_model()
    assert isinstance(model, nn.Sequential)
    model[0].requires_grad_(False)
    return model


def lora() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Lora(nn.Linear(8, 64)), nn.ReLU(), Lora(nn.Linear(64, 5)))


class Sent:
    """What publishers sent, by endpoint."""

    def __init__(self) -> None:
        self.versions: dict[str, list[tuple[int, int]]] = {}  # (kind, version)
        self.bytes: Counter[tuple[str, int]] = Counter()  # of the chunks, by endpoint and version

    def to(self, worker: Worker | str) -> list[tuple[int, int]]:
        endpoint = worker if isinstance(worker, str) else worker.endpoint
        return [v for v in self.versions.get(endpoint, []) if v[0] != ARTIFACT]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    record, send = Sent(), PublisherCore.send

    def watch(self: PublisherCore, worker: int, message: Any, payload: Any, now: float) -> None:
        if isinstance(message, wire_pb2.ModelBegin):
            record.versions.setdefault(self.names[worker], []).append((message.kind, message.version))
        elif isinstance(message, wire_pb2.ModelChunk):
            record.bytes[self.names[worker], message.version] += sum(len(p) for p in payload)
        send(self, worker, message, payload, now)

    monkeypatch.setattr(PublisherCore, "send", watch)
    return record


class Training:
    """Steps over a loader whose scores are all kept, each with the model as it was when its version was taken."""

    def __init__(self, model: nn.Module, endpoints: list[str], **options: Any) -> None:
        self.model, self.data = model, Rows(64)
        self.loader = siftd.SiftingDataLoader(
            DataLoader(self.data, 16),
            model=model,
            workers=endpoints,
            policy=KEEP_ALL,
            sync_every=1,
            prefetch=1,
            **options,
        )
        self.was = {1: copy.deepcopy(model)}
        self.version = 1
        self.seen: list[tuple[int, float, int]] = []  # row, score, version
        self.random = torch.Generator().manual_seed(5)

    def epoch(self) -> None:
        for _ in self.loader:
            info = self.loader.last_batch_info
            assert info is not None
            self.seen += zip(info.ids.tolist(), info.scores.tolist(), info.model_version.tolist(), strict=True)

    def step(self, *workers: Worker) -> None:
        """Everything that trains changes, and the buffers; the workers have it when this returns."""
        with torch.no_grad():
            for p in self.model.parameters():
                if p.requires_grad:
                    p.add_(0.1 * torch.randn(p.shape, generator=self.random))
            for name, b in self.model.named_buffers():
                if name.endswith("running_mean"):
                    b.add_(0.05)
        self.loader.step(self.model)
        self.version += 1
        self.was[self.version] = copy.deepcopy(self.model)
        for w in workers:
            self.await_version(w)

    def await_version(self, worker: Worker) -> None:
        wait_until(f"version {self.version} in force", lambda: int(worker.status()["model_version"]) == self.version)

    def check(self, versions: set[int]) -> None:
        """Every score is the eager loss of the version that it names."""
        assert versions <= {v for _, _, v in self.seen}
        for i, score, version in self.seen:
            expected = eager_losses(self.was[version], self.data.x[i : i + 1], self.data.y[i : i + 1])
            torch.testing.assert_close(torch.tensor([score]), expected, rtol=1e-5, atol=1e-6)


def trained_bytes(scorer: siftd.Scorer, model: nn.Module) -> int:
    """Of the entries of the scorer that require grad or are buffers."""
    tensors = {**dict(model.named_buffers()), **{n: p for n, p in model.named_parameters() if p.requires_grad}}
    return sum(tensors[e.name].nbytes for e in scorer.state if e.name in tensors)


@pytest.mark.parametrize("make", [frozen_trunk, lora])
def test_scores_are_of_the_base_and_the_newest_delta(
    worker: Worker, sent: Sent, make: Callable[[], nn.Sequential]
) -> None:
    training = Training(make(), [worker.endpoint])
    with training.loader as loader:
        for _ in range(4):
            training.epoch()
            training.step(worker)
        training.epoch()
        assert isinstance(loader.scorer, siftd.Scorer)
        small = trained_bytes(loader.scorer, training.model)
    assert sent.to(worker) == [(FULL, 1), *((DELTA, v) for v in range(2, 6))]
    assert {sent.bytes[worker.endpoint, v] for v in range(2, 6)} == {small}
    assert 0 < small < sum(p.nbytes for p in training.model.parameters())
    training.check({1, 2, 3, 4, 5})


def test_versions_that_a_worker_skipped_are_not_missed(worker: Worker) -> None:
    training = Training(frozen_trunk(), [worker.endpoint])
    with training.loader:
        training.epoch()
        for _ in range(3):
            for _ in range(7):
                training.step()  # a worker that is still taking one gets the newest only
            training.await_version(worker)
            training.epoch()
    training.check({1, 8, 15, 22})


def test_a_worker_that_joins_late_scores_with_base_and_delta(tmp_path: Path, worker: Worker, sent: Sent) -> None:
    address = f"ipc://{tmp_path}/late.sock"
    training = Training(frozen_trunk(), [worker.endpoint, address])
    with training.loader:
        training.epoch()
        for _ in range(2):
            training.step(worker)
        with Worker(tmp_path, "--endpoint", address, name="late") as late:
            training.await_version(late)
            training.epoch()
            for _ in range(2):
                training.step(worker, late)
                training.epoch()
            wait_until("the late one decided, too", lambda: training.epoch() or int(late.status()["decided_batches"]))
            assert int(late.status()["model_refused"]) == 0
    assert sent.to(worker) == [(FULL, 1), *((DELTA, v) for v in range(2, 6))]
    assert sent.to(address) == [(FULL, 3), (DELTA, 4), (DELTA, 5)]
    training.check({1, 3, 4, 5})


def test_a_worker_that_is_restarted_gets_it_whole(tmp_path: Path, worker: Worker, sent: Sent) -> None:
    address = f"ipc://{tmp_path}/w.sock"
    with Worker(tmp_path, "--endpoint", address, name="first") as first:
        training = Training(frozen_trunk(), [worker.endpoint, address])
        with training.loader:
            training.epoch()
            training.await_version(first)
            training.step(worker, first)
            first.signal(signal.SIGKILL)
            with Worker(tmp_path, "--endpoint", address, name="second") as second:
                training.await_version(second)
                training.step(worker, second)
                training.epoch()
    assert sent.to(address) == [(FULL, 1), (DELTA, 2), (FULL, 2), (DELTA, 3)]
    training.check({1, 3})


def test_unfreezing_makes_a_new_base(worker: Worker, sent: Sent) -> None:
    model = frozen_trunk()
    training = Training(model, [worker.endpoint])
    with training.loader:
        training.epoch()
        training.step(worker)
        model[0].weight.requires_grad_(True)
        for _ in range(2):
            training.step(worker)
            training.epoch()
        model[0].bias.requires_grad_(True)
        for _ in range(2):
            training.step(worker)
            training.epoch()
    kinds = [FULL, DELTA, FULL, DELTA, FULL, FULL]
    assert sent.to(worker) == [(kind, v + 1) for v, kind in enumerate(kinds)]
    training.check({1, 3, 4, 5, 6})


def test_a_delta_that_holds_nan_is_refused_and_the_next_one_is_taken(worker: Worker, sent: Sent) -> None:
    model = frozen_trunk()
    training = Training(model, [worker.endpoint])
    with training.loader as loader:
        training.epoch()
        training.step(worker)
        good = model[4].bias.detach().clone()
        with torch.no_grad():
            model[4].bias.fill_(torch.nan)
        loader.step(model)
        training.version += 1
        wait_until("the refusal", lambda: int(worker.status()["model_refused"]))
        training.epoch()  # with version 2
        with torch.no_grad():
            model[4].bias.copy_(good)
        training.step(worker)
        training.epoch()
    assert sent.to(worker) == [(FULL, 1), (DELTA, 2), (DELTA, 3), (DELTA, 4)]
    training.check({1, 2, 4})
