# SPDX-License-Identifier: Apache-2.0
"""Composer's SelectiveBackprop as a policy, against its published rule; the callback's part in a training run.

The Trainer here is a stand-in with the events, their order and the signatures of Composer 0.32;
tests/frameworks/test_composer_trainer.py runs the real one where it is installed.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import types
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

import siftd
import siftd.composer
from siftd._select.selector import Selector
from siftd._wire.codec import wire_pb2
from siftd.composer import SelectiveBackprop
from siftd.errors import ConfigError


# ------------------------------------------------------------------ the published rule
def in_window(progress: float, batch_idx: int, start: float, end: float, interrupt: int) -> bool:
    return start <= progress < end and (interrupt == 0 or (batch_idx + 1) % interrupt != 0)


def drawn(losses: np.ndarray[Any, Any], keep: float, rng: np.random.RandomState) -> np.ndarray[Any, Any]:
    """Rows kept of a batch, in no order."""
    n = len(losses)
    weights = (np.arange(0.5, n, 1) / n) ** (1.0 / keep - 1.0)
    ranks = rng.choice(n, int(keep * n), replace=False, p=weights / weights.sum())
    return np.argsort(losses)[ranks]


def selector(rule: SelectiveBackprop, seed: int = 3, total_steps: int = 100) -> Selector:
    options = rule.loader_options(total_steps)
    return Selector(options["policy"], seed, options["total_steps"])


def test_arguments_and_defaults_are_composers() -> None:
    names = inspect.signature(SelectiveBackprop).parameters
    defaults = {name: p.default for name, p in names.items()}
    assert defaults == {"start": 0.5, "end": 0.9, "keep": 0.5, "scale_factor": 1.0, "interrupt": 2}


@pytest.mark.parametrize(
    ("start", "end", "interrupt"), [(0.5, 0.9, 2), (0.0, 1.0, 0), (0.25, 0.3, 3), (0.1, 0.7, 7), (0.57, 0.58, 0)]
)
def test_the_window_is_composers_at_every_step_and_batch(start: float, end: float, interrupt: int) -> None:
    rule = SelectiveBackprop(start=start, end=end, interrupt=interrupt)
    total = 100
    decide = selector(rule, total_steps=total)
    column = {"loss": np.float32([2, 1])}
    seen = set()
    for step in range(total + 3):
        for batch in range(15):
            decision = decide.select((0, batch), 0, [1, 2], (), column, step)
            sifted = decision.outcome == wire_pb2.OUTCOME_DECIDED
            assert sifted == in_window(step / total, batch, start, end, interrupt), (step, batch)
            assert len(decision.kept) == (1 if sifted else 2)
            seen.add(sifted)
    assert seen == {True, False}


@pytest.mark.parametrize("keep", [0.1, 0.33, 0.5, 0.75, 0.999, 1.0])
def test_exactly_int_keep_n_rows_are_kept(keep: float) -> None:
    decide = selector(SelectiveBackprop(start=0.0, keep=keep, interrupt=0))
    rng = np.random.RandomState(0)
    for n in range(1, 65):
        losses = rng.rand(n).astype(np.float32)
        decision = decide.select((0, n), 0, range(n), (), {"loss": losses}, 0)
        assert len(set(decision.kept)) == len(drawn(losses, keep, rng))
        assert not decision.weight  # as there: the loss is a plain mean


@pytest.mark.parametrize(("n", "keep"), [(12, 0.5), (16, 0.25), (10, 0.8)])
def test_each_rank_is_drawn_as_often_as_by_composer(n: int, keep: float) -> None:
    """Two samples of indicator vectors [draws, n] with the same mean: Hotelling's statistic is chi-square with n - 1
    degrees of freedom (each vector sums to int(keep * n))."""
    draws = 2500
    rng = np.random.RandomState(7)
    rule = SelectiveBackprop(start=0.0, keep=keep, interrupt=0)
    decide = selector(rule)
    losses = rng.rand(n).astype(np.float32)
    rank = np.argsort(np.argsort(losses))
    ours, theirs = np.zeros((2, draws, n))
    for t in range(draws):
        kept = decide.select((0, t), 0, range(n * t, n * (t + 1)), (), {"loss": losses}, 0).kept
        ours[t, rank[list(kept)]] = 1
        theirs[t, rank[drawn(losses, keep, rng)]] = 1
    apart = ours.mean(0) - theirs.mean(0)
    spread = (np.cov(ours, rowvar=False) + np.cov(theirs, rowvar=False)) / draws
    statistic = apart @ np.linalg.pinv(spread, rcond=1e-9, hermitian=True) @ apart
    assert statistic < stats.chi2.ppf(1 - 1e-4, n - 1)
    assert ours.mean(0)[-1] > 1.2 * ours.mean(0)[0]  # and the highest losses are drawn more


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"keep": 0.0}, "keep is 0.0"),
        ({"keep": 1.5}, "keep is 1.5"),
        ({"start": 0.9}, "start is 0.9"),
        ({"end": 1.5}, "end is 1.5"),
        ({"interrupt": 1}, "interrupt is 1"),
        ({"interrupt": -2}, "interrupt is -2"),
        ({"scale_factor": 1.5}, "scale_factor is 1.5"),
        ({"scale_factor": 0.0}, "scale_factor is 0.0"),
    ],
)
def test_what_could_only_fail_later_is_refused_at_once(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        SelectiveBackprop(**wrong)


def test_the_options_are_those_of_the_loader() -> None:
    options = SelectiveBackprop(scale_factor=0.5).loader_options(1000)
    assert set(options) <= set(inspect.signature(siftd.SiftingDataLoader).parameters)
    assert (options["total_steps"], options["scale_factor"]) == (1000, 0.5)


def test_the_loss_of_a_composer_model_is_taken_row_by_row() -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 3)

        def forward(self, batch: Any) -> torch.Tensor:
            return self.net(batch[0])

        def loss(self, outputs: torch.Tensor, batch: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            return F.cross_entropy(outputs, batch[1], *args, **kwargs)

    model, batch = Classifier(), (torch.randn(6, 4), torch.arange(6) % 3)
    losses = siftd.composer.batch_loss().fn(model, batch)
    assert losses.shape == (6,)
    torch.testing.assert_close(losses.mean(), model.loss(model(batch), batch))


# ------------------------------------------------------------------ the callback
class Callback:
    """Composer's base as far as it matters: an event calls the method of its name."""

    def run_event(self, event: str, state: Any, logger: Any) -> None:
        getattr(self, event, lambda state, logger: None)(state, logger)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """siftd.composer as it is where Composer is installed."""
    core = types.ModuleType("composer.core")
    core.Callback = Callback  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "composer", types.ModuleType("composer"))
    monkeypatch.setitem(sys.modules, "composer.core", core)
    spec = importlib.util.spec_from_file_location("siftd_composer_with_core", siftd.composer.__file__)
    assert spec is not None and spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, fresh)  # dataclasses look their module up
    spec.loader.exec_module(fresh)
    return fresh


class Loader:
    """Counts what is asked of it."""

    def __init__(self, batches: int) -> None:
        self.batches, self.handed, self.steps, self.closed = batches, 0, 0, False
        self.loaded: dict[str, Any] = {}

    def __iter__(self) -> Any:
        for _ in range(self.batches):
            self.handed += 1
            yield self.handed

    def step(self) -> None:
        self.steps += 1

    def metrics(self) -> dict[str, float]:
        return {"sifting/kept": float(self.steps)}

    def state_dict(self) -> dict[str, Any]:
        return {} if self.closed else {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state

    def close(self) -> None:
        self.closed = True


class Trainer:
    """fit() with the events of composer.trainer.Trainer in their order, and its spinning."""

    def __init__(
        self,
        loader: Any,
        callback: Any,
        epoch: int = 0,
        batch_in_epoch: int = 0,
        length: int | None = None,
        algorithms: tuple[Any, ...] = (),
    ) -> None:
        self.state = SimpleNamespace(
            dataloader=loader,
            dataloader_label="train",
            dataloader_len=length,
            set_dataloader=self._set_dataloader,
            algorithms=algorithms,
            dataset_resumption={},
            timestamp=SimpleNamespace(batch=0, batch_in_epoch=batch_in_epoch, epoch=epoch),
        )
        self.callback, self.checkpoints, self.logged = callback, [], []  # type: ignore[var-annotated]

    def _set_dataloader(self, dataloader: Any, dataloader_label: str, dataloader_len: int) -> None:
        self.state.dataloader, self.state.dataloader_len = dataloader, dataloader_len

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append((self.state.timestamp.batch, metrics))

    def _run(self, event: str) -> None:
        self.callback.run_event(event, self.state, self)

    def fit(self) -> None:
        self._run("fit_start")
        if "train" not in self.state.dataset_resumption:
            for _ in range(self.state.timestamp.epoch):
                for _ in self.state.dataloader:
                    break
        for _ in self.state.dataloader:
            self.state.timestamp.batch += 1
            self._run("batch_end")
            self._run("batch_checkpoint")
            self.checkpoints.append(self.callback.state_dict())
        self._run("epoch_end")
        self._run("fit_end")
        self.checkpoints.append(self.callback.state_dict())

    def close(self) -> None:
        self._run("close")


def test_each_batch_is_a_step_before_the_checkpoint_and_the_loader_ends_with_fit(module: Any) -> None:
    loader = Loader(5)
    trainer = Trainer(loader, module.SiftingCallback(loader, log_every=2))
    trainer.fit()
    assert loader.steps == 5
    assert [c["loader"]["steps"] for c in trainer.checkpoints] == [1, 2, 3, 4, 5, 5]  # the last: after the end
    assert loader.closed
    assert trainer.logged == [(2, {"sifting/kept": 2.0}), (4, {"sifting/kept": 4.0}), (5, {"sifting/kept": 5.0})]


def test_the_loader_is_not_spun_when_a_run_resumes(module: Any) -> None:
    loader = Loader(3)
    callback = module.SiftingCallback(loader)
    callback.load_state_dict({"loader": {"steps": 7}})
    assert loader.loaded == {"steps": 7}
    Trainer(loader, callback, epoch=2).fit()
    assert loader.handed == loader.steps == 3


def test_after_a_checkpoint_of_the_last_batch_of_an_epoch_the_rest_of_that_epoch_is_empty(module: Any) -> None:
    loader = Loader(3)
    trainer = Trainer(loader, module.SiftingCallback(loader, close_after_fit=False), batch_in_epoch=3, length=3)
    trainer.fit()
    assert loader.handed == 0
    trainer.state.timestamp.batch_in_epoch = 0
    trainer.fit()
    assert loader.handed == loader.steps == 3


def test_several_fits_keep_the_loader_until_the_trainer_is_closed(module: Any) -> None:
    loader = Loader(2)
    trainer = Trainer(loader, module.SiftingCallback(loader, close_after_fit=False, log_every=0))
    trainer.fit()
    trainer.fit()
    assert (loader.steps, loader.closed, trainer.logged) == (4, False, [])
    trainer.close()
    assert loader.closed


def test_another_loader_or_composers_own_algorithm_is_refused(module: Any) -> None:
    loader = Loader(2)
    with pytest.raises(ConfigError, match="train_dataloader is 'list'"):
        Trainer([1, 2], module.SiftingCallback(loader)).fit()
    own = type("SelectiveBackprop", (), {})()
    with pytest.raises(ConfigError, match="algorithms is 'SelectiveBackprop'"):
        Trainer(loader, module.SiftingCallback(loader), algorithms=(own,)).fit()
    with pytest.raises(ConfigError, match="log_every is -1"):
        module.SiftingCallback(loader, log_every=-1)


def test_without_composer_the_rule_works_and_the_callback_says_what_to_install(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "composer.core", None)
    spec = importlib.util.spec_from_file_location("siftd_composer_without", siftd.composer.__file__)
    assert spec is not None and spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, fresh)
    spec.loader.exec_module(fresh)
    assert fresh.SelectiveBackprop(keep=0.25).policy.keep == 0.25
    with pytest.raises(ImportError, match="pip install mosaicml"):
        fresh.SiftingCallback(Loader(1))
