# SPDX-License-Identifier: Apache-2.0
"""siftd.compat.smart_sifting: configuration, environment, arguments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

import siftd
from siftd._loop import distributed
from siftd.compat.smart_sifting import exceptions
from siftd.compat.smart_sifting._environment import workers_wanted
from siftd.compat.smart_sifting._schedule import batches_per_epoch, kept_batches
from siftd.compat.smart_sifting.dataloader import sift_dataloader
from siftd.compat.smart_sifting.dataloader.sift_dataloader import (
    LossImplementationNotProvidedException,
    SiftingDataloader,
    UnsupportedDataFormatException,
)
from siftd.compat.smart_sifting.loss.abstract_sift_loss_module import Loss, loss_method
from siftd.compat.smart_sifting.sift_config.sift_configs import (
    LossConfig,
    RelativeProbabilisticSiftConfig,
    SiftConfigValidationException,
    SiftingBaseConfig,
)
from siftd.policy import LossCdf, Modifiers
from support import Rows


class RowLoss(Loss):
    def loss(self, model: Any, transformed_batch: Any, original_batch: Any = None) -> torch.Tensor:
        return nn.functional.cross_entropy(model(original_batch[0]), original_batch[1], reduction="none")


def config(**changes: Any) -> dict[str, Any]:
    return {"beta_value": 1, "loss_history_length": 500} | changes


# ------------------------------------------------------------ configuration
def test_config_takes_objects_and_dicts_at_each_level() -> None:
    objects = RelativeProbabilisticSiftConfig(
        beta_value=3,
        loss_history_length=500,
        loss_based_sift_config=LossConfig(sift_config=SiftingBaseConfig(sift_delay=10, repeat_delay_per_epoch=True)),
    )
    base = {"sift_delay": 10, "repeat_delay_per_epoch": True}
    assert RelativeProbabilisticSiftConfig(3, 500, {"sift_config": base}) == objects  # type: ignore[arg-type]
    assert RelativeProbabilisticSiftConfig(3, 500, LossConfig(base)) == objects  # type: ignore[arg-type]
    assert objects.policy() == LossCdf(
        beta=3, loss_history_length=500, modifiers=Modifiers(sift_delay=10, repeat_delay_per_epoch=True)
    )


def test_config_defaults_are_sagemakers() -> None:
    made = RelativeProbabilisticSiftConfig(beta_value=0.5, loss_history_length=500)
    assert (made.base.sift_delay, made.base.repeat_delay_per_epoch) == (1000, False)


@pytest.mark.parametrize(("beta", "percent"), [(0.1, 90.91), (0.25, 80), (0.5, 66.67), (1, 50), (3, 25), (100, 0.99)])
def test_config_keeps_the_share_of_sagemakers_table(beta: float, percent: float) -> None:
    made = RelativeProbabilisticSiftConfig(beta, 500)
    assert round(100 * made.keep, 2) == percent
    assert made.policy().requested_keep == made.keep


def test_config_takes_a_history_of_one_as_the_shortest_there_is() -> None:
    assert RelativeProbabilisticSiftConfig(1, 1).policy().loss_history_length == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (config(beta_value=0), "beta_value"),
        (config(beta_value=-1), "beta_value"),
        (config(beta_value=math.nan), "beta_value"),
        (config(beta_value=math.inf), "beta_value"),
        (config(beta_value=True), "beta_value"),
        (config(beta_value="1"), "beta_value"),
        (config(loss_history_length=0), "loss_history_length"),
        (config(loss_history_length=2.5), "loss_history_length"),
        (config(loss_history_length=True), "loss_history_length"),
        (config(loss_based_sift_config=3), "loss_based_sift_config"),
        (config(loss_based_sift_config={"sift_config": {"sift_delay": -1}}), "sift_delay"),
        (config(loss_based_sift_config={"sift_config": {"repeat_delay_per_epoch": 1}}), "repeat_delay_per_epoch"),
        (config(loss_based_sift_config={"sift_config": {"delay": 1}}), "delay"),
        (config(loss_based_sift_config={"sift_conf": {}}), "sift_conf"),
    ],
)
def test_config_refuses_by_name(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(SiftConfigValidationException, match=named) as caught:
        RelativeProbabilisticSiftConfig(**arguments)
    assert isinstance(caught.value, siftd.ConfigError)


def test_exceptions_are_siftds_own_too() -> None:
    assert issubclass(exceptions.UnsupportedDataFormatException, siftd.StructureError)
    assert issubclass(LossImplementationNotProvidedException, siftd.ConfigError)
    assert UnsupportedDataFormatException is exceptions.UnsupportedDataFormatException


# ------------------------------------------------------------ SiftingDataloader's arguments
def loader(**changes: Any) -> SiftingDataloader:
    arguments: dict[str, Any] = {
        "sift_config": config(),
        "orig_dataloader": DataLoader(Rows(64), batch_size=8),
        "loss_impl": RowLoss(),
        "model": nn.Linear(8, 5),
    }
    return SiftingDataloader(**(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"loss_impl": None}, LossImplementationNotProvidedException, "loss_impl"),
        ({"loss_impl": nn.CrossEntropyLoss()}, LossImplementationNotProvidedException, "loss_impl"),
        ({"model": None}, SiftConfigValidationException, "model"),
        ({"batch_transforms": object()}, SiftConfigValidationException, "batch_transforms"),
        ({"batch_format_index": 2}, SiftConfigValidationException, "batch_format_index"),
        ({"sift_config": {"beta": 1}}, SiftConfigValidationException, "beta_value"),
        ({"sift_config": {"beta_value": 1}}, SiftConfigValidationException, "loss_history_length"),
        ({"sift_config": None}, SiftConfigValidationException, "sift_config"),
        ({"beta": 2}, siftd.ConfigError, "beta"),
        ({"epochs": 2}, siftd.ConfigError, "epochs"),
    ],
)
def test_dataloader_refuses_by_name(changes: dict[str, Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        loader(**changes)


def test_dataloader_needs_no_loss_class_of_ours() -> None:
    class Duck:
        def __init__(self) -> None:
            self.loss = nn.CrossEntropyLoss(reduction="none")  # over the method's name, as in SageMaker's guide

        def loss(self, model: Any, transformed_batch: Any, original_batch: Any = None) -> str:  # noqa: F811
            return "mine"

    assert loss_method(Duck())(None, None) == "mine"
    loader(loss_impl=Duck())


def test_dataloader_has_no_length_and_no_dataset() -> None:
    sifting = loader(workers="inline")
    with pytest.raises(TypeError, match="length"):
        len(sifting)
    assert bool(sifting)
    assert not hasattr(sifting, "dataset")
    assert isinstance(sifting.loader, siftd.SiftingDataLoader)


def test_dataloader_does_not_warn_of_the_beta_that_was_asked_for(recwarn: pytest.WarningsRecorder) -> None:
    assert loader(sift_config=config(beta_value=3), workers="inline").loader is not None
    assert not [w for w in recwarn if "beta" in str(w.message)]


# ------------------------------------------------------------ environment
def test_environment_says_where_samples_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIFTD_WORKERS", raising=False)
    monkeypatch.delenv("SIFTD_INLINE", raising=False)
    assert workers_wanted() == "auto"
    monkeypatch.setenv("SIFTD_INLINE", "1")
    assert workers_wanted() == "inline"
    monkeypatch.setenv("SIFTD_INLINE", "0")
    monkeypatch.setenv("SIFTD_WORKERS", "tcp://gpu-1:7777, ipc:///run/siftd.sock")
    assert workers_wanted() == ["tcp://gpu-1:7777", "ipc:///run/siftd.sock"]


@pytest.mark.parametrize(
    ("workers", "inline", "named"),
    [
        ("tcp://a:1", "1", "SIFTD_WORKERS, SIFTD_INLINE"),
        ("a:1", "", "SIFTD_WORKERS"),
        ("tcp://a", "", "SIFTD_WORKERS"),
        ("tcp://:1", "", "SIFTD_WORKERS"),
        ("tcp://a:70000", "", "SIFTD_WORKERS"),
        ("tcp://a:1,", "", "SIFTD_WORKERS"),
        ("ipc://", "", "SIFTD_WORKERS"),
        ("", "perhaps", "SIFTD_INLINE"),
    ],
)
def test_environment_refuses_by_name(monkeypatch: pytest.MonkeyPatch, workers: str, inline: str, named: str) -> None:
    monkeypatch.setenv("SIFTD_WORKERS", workers)
    monkeypatch.setenv("SIFTD_INLINE", inline)
    with pytest.raises(siftd.ConfigError, match=named):
        loader()


# ------------------------------------------------------------ batches of an epoch, where they must be known
@pytest.mark.parametrize(
    ("batches", "delayed", "beta", "expected"),
    [(100, 0, 1, 50), (101, 0, 1, 51), (100, 0, 0.1, 91), (9, 0, 2, 3), (100, 40, 1, 70), (1, 0, 100, 1)],
)
def test_epoch_has_what_a_pass_keeps(batches: int, delayed: int, beta: float, expected: int) -> None:
    assert kept_batches(batches, delayed, 1 / (1 + beta)) == expected


def test_rank_takes_its_share_unless_the_data_is_split_already(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sift_dataloader, distributed):
        monkeypatch.setattr(module, "rank_and_world", lambda: (1, 2))
    options: dict[str, Any] = {}
    share = loader(orig_dataloader=DataLoader(Rows(101), batch_size=10))._share(options)
    assert len(share.sampler) == 50 and options == {"steps_per_epoch": 3}
    own = DataLoader(Rows(101), batch_size=10, sampler=DistributedSampler(Rows(101), 2, 1))
    options = {"steps_per_epoch": 4}
    assert loader(orig_dataloader=own)._share(options) is own
    assert options == {"steps_per_epoch": 4}
    stream = [(torch.ones(4, 8), torch.ones(4))]  # whoever gives a length has split it
    assert loader(orig_dataloader=stream, steps_per_epoch=4)._share({"steps_per_epoch": 4}) is stream
    with pytest.raises(siftd.ConfigError, match="can't be split"):
        loader(orig_dataloader=stream)._share({})


def test_epoch_counts_the_largest_share_and_a_repeated_delay() -> None:
    source = DataLoader(Rows(101), batch_size=10)  # 51 and 50 rows on two ranks: 6 and 5 batches
    plain = RelativeProbabilisticSiftConfig(1, 500, {"sift_config": {"sift_delay": 4}})  # type: ignore[arg-type]
    repeated = RelativeProbabilisticSiftConfig(
        1,
        500,
        {"sift_config": {"sift_delay": 4, "repeat_delay_per_epoch": True}},  # type: ignore[arg-type]
    )
    assert batches_per_epoch(source, plain, 2) == 3
    assert batches_per_epoch(source, repeated, 2) == 5
    with pytest.raises(siftd.ConfigError, match="orig_dataloader"):
        batches_per_epoch((b for b in source), plain, 1)
