# SPDX-License-Identifier: Apache-2.0
"""Scoring in the training loop's own process: what it decides, and that the training does not feel it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import siftd
from siftd._batches import structure
from siftd._batches.source import PassState, Source
from siftd._delivery.loader_core import Lease
from siftd._loop.engine import Engine, EngineOptions
from siftd._loop.inline import InlineCore, InlineIo
from siftd._scorer.module import build_scorer_module
from siftd._select.recent_scores import length_for
from siftd._select.selector import Selector
from siftd._wire.codec import wire_pb2
from siftd.errors import ConfigError, StructureError
from support import Rows, eager_losses, toy_model

SEED = 11
BATCH = 16


def core_of(model: nn.Module, policy: siftd.Policy | None = None, **options: Any) -> InlineCore:
    built = build_scorer_module(model, "cross_entropy", some_rows(), copy=False)
    return InlineCore(built.module, built.fields, policy or siftd.Uniform(0.5), SEED, **options)


def lease(x: torch.Tensor, y: torch.Tensor, seq: int = 0) -> Lease:
    flat = structure.flatten((x, y))
    return Lease((0, seq), 0, range(100 * seq, 100 * seq + flat.rows), [], [], context=flat)


def decision_of(core: InlineCore, x: torch.Tensor, y: torch.Tensor) -> Any:
    core.offer(lease(x, y), 0.0)
    assert core.decide()
    return core.verdicts.pop().decision


def some_rows(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    data = Rows(n)
    return data.x, data.y


@contextmanager
def a_pass(core: InlineCore, policy: siftd.Policy, rows: int) -> Iterator[tuple[Engine, InlineIo]]:
    """An engine in the middle of a pass over `rows` rows, as the drop-in wires it; nothing else turns it."""
    options = EngineOptions(
        batch_size=BATCH,
        prefetch=1,
        starve_timeout=math.inf,
        fields=(),
        drop_last=False,
        endless=False,
        history_length=length_for(policy),
    )
    engine = Engine(options, core, {})  # type: ignore[arg-type]
    io = InlineIo(engine, core)
    io.start()
    source = Source(DataLoader(Rows(rows), BATCH, shuffle=True, generator=torch.Generator().manual_seed(1)), None)
    feed = engine.begin_pass(0, 0, source.begin(PassState(0, 0), None), io.wake)
    try:
        yield engine, io
    finally:
        io.stop()
        feed.close()


def next_item(engine: Engine, io: InlineIo) -> Any:
    for _ in range(100):
        item = engine.take()
        if item is not None:
            return item
        io.drive(0.5)
    raise AssertionError("no batch")


# ------------------------------------------------------------------ what it decides
def test_a_pass_decides_every_row_once_with_the_weights_of_the_moment() -> None:
    model, policy = toy_model(), siftd.LossCdf()
    core = core_of(model, policy)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    twin = Selector(policy, SEED)
    seen: list[tuple[Lease, Any, np.ndarray[Any, Any]]] = []
    decide = core.decide

    def recorded() -> bool:
        waiting = core.oldest()
        if waiting is not None:
            losses = eager_losses(model, *waiting.context.tensors.values()).numpy()
        decided = decide()
        if decided and waiting is not None:
            seen.append((waiting, core.verdicts[-1].decision, losses))
        return decided

    core.decide = recorded  # type: ignore[method-assign]
    trained: list[int] = []
    with a_pass(core, policy, 300) as (engine, io):
        while (item := next_item(engine, io)).flat is not None:
            x, y = item.flat.tensors.values()
            trained += item.info.ids.astype(int).tolist()
            assert item.info.staleness.max() <= 1  # a remainder scored before the last step at most
            assert torch.equal(x, Rows(300).x[item.info.ids.astype(int)])
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            engine.steps += 1
        assert item.error is None
    decided = [i for waiting, _, _ in seen for i in waiting.sample_ids]
    assert sorted(decided) == list(range(300))
    kept: list[int] = []
    for waiting, decision, losses in seen:
        assert np.array_equal(np.float32(decision.score), losses)
        assert decision.model_version == decision.model_step + 1
        replay = twin.select(waiting.key, 0, waiting.sample_ids, (), {"loss": losses}, decision.model_step)
        assert list(replay.kept) == list(decision.kept)
        assert decision.score_seconds > 0
        kept += [waiting.sample_ids[i] for i in decision.kept]
    assert trained == kept
    assert 0 < len(kept) < 300
    assert max(decision.model_step for _, decision, _ in seen) > 3


def test_the_history_given_and_the_run_length_reach_the_policy() -> None:
    policy = siftd.LossCdf(modifiers=siftd.Modifiers(end=0.5))
    core = core_of(toy_model(), policy, total_steps=10, history=[-1.0] * 1000)
    x, y = some_rows()
    assert min(decision_of(core, x, y).percentile) > 0.9
    core.step = 5
    assert decision_of(core, x, y).outcome == wire_pb2.OUTCOME_UNSIFTED


# ------------------------------------------------------------------ nothing is felt
class Overridden(nn.Linear):
    """Merges something when its mode changes, as adapters do."""

    def train(self, mode: bool = True) -> Any:
        raise AssertionError("the mode was changed by a call")


def test_flags_statistics_gradients_and_random_state_stay_as_they_were() -> None:
    class Drawing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.rand(3)  # uses the random state also in eval mode
            return x

    model = nn.Sequential(Overridden(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), Drawing(), nn.Linear(16, 5))
    model[1].training = False  # frozen statistics
    flags = [m.training for m in model.modules()]
    assert not all(flags) and any(flags)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    rng, x, y = torch.get_rng_state(), *some_rows()
    core = core_of(model)
    assert torch.equal(torch.get_rng_state(), rng)
    first = decision_of(core, x, y)
    assert first.outcome == wire_pb2.OUTCOME_DECIDED, first.text
    assert first.score == decision_of(core, x, y).score  # no dropout
    assert [m.training for m in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


class Caching(nn.Module):
    """Keeps a tensor of its first forward for all later ones, as rotary embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.table = nn.Linear(8, 5), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            self.table = torch.cos(x[0])
        return self.linear(x * self.table)


def test_what_the_model_caches_while_it_is_scored_can_be_trained_on() -> None:
    model, (x, y) = Caching(), some_rows()
    assert decision_of(core_of(model), x, y).outcome == wire_pb2.OUTCOME_DECIDED
    F.cross_entropy(model(x.clone().requires_grad_()), y).backward()
    assert model.linear.weight.grad is not None


@pytest.mark.parametrize("around", [True, False], ids=["autocast-around-the-loop", "plain"])
def test_gradients_are_those_of_a_loop_that_scores_nothing(around: bool) -> None:
    """An autocast region keeps the weights that it cast; those cast without gradients must not get there."""
    x, y = some_rows()
    gradients, dtypes = [], []
    for scored in (True, False):
        model = toy_model().train()
        core = core_of(model)
        torch.manual_seed(4)
        with torch.autocast("cpu", torch.bfloat16) if around else nullcontext():
            if scored:
                handle = model[0].register_forward_hook(lambda m, i, out: dtypes.append(out.dtype))
                decision_of(core, x, y)
                handle.remove()
                assert dtypes == [torch.bfloat16 if around else torch.float32]  # autocast is as it was
                assert torch.is_autocast_cache_enabled()
            F.cross_entropy(model(x), y).backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert a is not None and torch.equal(a, b)


def test_weights_that_an_autocast_region_cast_before_a_step_are_not_scored_with() -> None:
    x, y = some_rows()
    model = nn.Linear(8, 5)
    with torch.autocast("cpu", torch.bfloat16):
        model(x)  # the region keeps the cast weights until it ends
        with torch.no_grad():
            model.weight.mul_(3.0)
        decision = decision_of(core_of(model), x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(np.float32(decision.score), eager_losses(model, x, y).numpy())


def test_rows_go_to_the_models_device() -> None:
    class Telling(nn.Module):
        columns = ("loss",)

        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(8, 5, device="meta")
            self.devices: list[str] = []

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
            self.devices += [x.device.type, y.device.type]
            return (torch.zeros(len(x)),)

    module: Any = Telling()
    decision_of(InlineCore(module, ("0", "1"), siftd.Uniform(0.5), SEED), *some_rows())
    assert module.devices == ["meta", "meta"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_random_state_stays_and_the_seconds_are_the_devices() -> None:
    model = toy_model().cuda()
    x, y = some_rows()
    rng = torch.cuda.get_rng_state()
    decision = decision_of(core_of(model), x, y)
    torch.testing.assert_close(torch.tensor(decision.score), eager_losses(model, x.cuda(), y.cuda()).cpu())
    assert torch.equal(torch.cuda.get_rng_state(), rng)
    assert decision.score_seconds > 0


# ------------------------------------------------------------------ failures
def test_a_forward_that_fails_rejects_the_batch_by_its_text_and_restores_the_flags() -> None:
    model = toy_model().train()
    core, (x, y) = core_of(model), some_rows()
    decision = decision_of(core, x[:, :3], y)
    assert (decision.outcome, decision.code) == (wire_pb2.OUTCOME_REJECTED, wire_pb2.SCORING_FAILED)
    assert decision.text.startswith("the model or loss failed: RuntimeError: ")
    assert not decision.kept
    assert all(m.training for m in model.modules())
    assert torch.is_autocast_cache_enabled()
    assert decision_of(core, x, y).outcome == wire_pb2.OUTCOME_DECIDED


def test_batches_that_could_not_be_scored_are_trained_unsifted() -> None:
    model, policy = toy_model(), siftd.Uniform(0.5)
    core = core_of(model, policy)
    model.append(nn.Linear(3, 3))  # takes no five classes
    with a_pass(core, policy, 40) as (engine, io):
        rows = []
        while (item := next_item(engine, io)).flat is not None:
            rows += item.info.ids.astype(int).tolist()
            assert item.info.unsifted.all()
    assert sorted(rows) == list(range(40))
    assert engine.stats.rejected_batches == 3


def test_a_batch_that_lacks_a_field_is_told_and_kept() -> None:
    core = core_of(toy_model())
    core._fields = ("0", "mask")
    core.offer(lease(*some_rows()), 0.0)
    with pytest.raises(StructureError, match="lacks field 'mask'"):
        core.decide()
    assert core.outstanding == 1


def test_a_model_that_is_sharded_over_processes_is_refused() -> None:
    from torch.distributed.tensor import DeviceMesh, DTensor, Replicate

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = toy_model()
        built = build_scorer_module(model, "cross_entropy", some_rows(), copy=False)
        sharded = DTensor.from_local(torch.zeros(16), DeviceMesh("cpu", [0]), [Replicate()])
        model[0].bias = nn.Parameter(sharded)
        with pytest.raises(ConfigError, match="workers is 'inline'.*sharded"):
            InlineCore(built.module, built.fields, siftd.Uniform(0.5), SEED)
    finally:
        torch.distributed.destroy_process_group()


# ------------------------------------------------------------------ leases and the turn
def test_leases_are_given_up_as_a_loaders_are() -> None:
    core, rows = core_of(toy_model()), some_rows()
    assert not core.decide()
    leases = [lease(*rows, seq) for seq in range(3)]
    for one in leases:
        core.offer(one, 0.0)
    assert core.outstanding == 3
    assert core.oldest() is leases[0]
    core.close_lease(leases[0])
    assert core.oldest() is leases[1]
    assert core.cancel() == 2
    assert core.oldest() is None
    assert not core.decide()


class Turns:
    """An engine that a candidate reaches when its turn is told to bring one."""

    def __init__(self, core: InlineCore) -> None:
        self.core, self.ready, self.count = core, [], 0  # type: ignore[var-annotated]
        self.offered: list[Lease] = []
        self.turned = threading.Event()

    def turn(self, now: float) -> None:
        self.count += 1
        self.ready += self.core.verdicts
        self.core.verdicts = []
        while self.offered:
            self.core.offer(self.offered.pop(), now)
        self.turned.set()


def test_the_loop_waits_for_a_candidate_and_is_woken_by_it() -> None:
    core = core_of(toy_model())
    engine = Turns(core)
    io = InlineIo(engine, core)  # type: ignore[arg-type]

    def bring() -> None:
        assert engine.turned.wait(30)
        engine.offered.append(lease(*some_rows()))
        io.wake()

    bringing = threading.Thread(target=bring)
    bringing.start()
    io.drive(60.0)
    bringing.join(30)
    assert len(engine.ready) == 1
    assert engine.count <= 4  # it did not spin


def test_the_loop_comes_back_at_its_deadline_and_when_it_is_stopped() -> None:
    core = core_of(toy_model())
    engine = Turns(core)
    io = InlineIo(engine, core)  # type: ignore[arg-type]
    io.drive(0.0)
    assert engine.count == 1
    engine.offered.append(lease(*some_rows()))
    io.drive(0.0)  # what it decided is not left behind
    assert len(engine.ready) == 1
    io.stop()
    assert not io.alive
    io.drive(60.0)
    assert engine.count == 3
