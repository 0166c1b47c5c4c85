# SPDX-License-Identifier: Apache-2.0
"""When weights are published, and by whom. Sharded models: integration/test_fsdp.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed.fsdp as fsdp
import torch.distributed.tensor  # noqa: F401  what is_sharded looks for
from torch import nn

from siftd._scorer.sharded import is_sharded, plain_name
from siftd._weights.sync import WeightsSync
from siftd._wire.codec import wire_pb2
from siftd._wire.tensor import dtype_number
from siftd.errors import ConfigError, SiftdTimeoutError
from siftd.v1 import artifact_pb2

NOWHERE = ["ipc:///nowhere/siftd.sock"]


class Exported:
    def __init__(self, model: nn.Module, archive: bytes = b"code") -> None:
        self.sha256 = ""
        self.archive = archive
        self.state = [
            artifact_pb2.StateEntry(name=n, dtype=dtype_number(t), shape=t.shape) for n, t in model.named_parameters()
        ]


def sync(model: nn.Module, endpoints: list[str], archive: bytes = b"code") -> WeightsSync:
    return WeightsSync(endpoints, "j", 7, Exported(model, archive), 4)


class Untouchable(nn.Linear):
    """Fails when its state is asked for."""

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, torch.Tensor]]:
        raise AssertionError("the weights were looked at")


def test_every_nth_step_is_due_on_ranks_with_and_without_workers() -> None:
    model = nn.Linear(3, 2)
    for endpoints in ([], NOWHERE):
        weights = sync(model, endpoints)
        assert [step for step in range(1, 13) if weights.due(step)] == [4, 8, 12]


def test_a_rank_without_workers_counts_versions_and_leaves_a_whole_model_alone() -> None:
    model = Untouchable(3, 2)
    weights = sync(nn.Linear(3, 2), [])
    assert weights.publisher is None
    weights.start(model, 0, [], timeout=0.0)
    weights.publish(model, 4, [])
    assert weights.version == 2
    with pytest.raises(AssertionError, match="looked at"):
        sync(nn.Linear(3, 2), NOWHERE).publish(model, 0, [])


def test_what_is_published_names_run_version_step_and_history() -> None:
    model = nn.Linear(3, 2)
    weights = sync(model, NOWHERE)
    for step in (0, 4):
        weights.publish(model, step, [0.25, 0.5])
    assert weights.publisher is not None
    offered = weights.publisher._offered
    assert offered is not None
    begin = offered.begin
    assert (begin.run, begin.version, begin.step, begin.kind) == (7, 2, 4, wire_pb2.MODEL_KIND_FULL)
    assert list(begin.history) == [0.25, 0.5]
    assert begin.total_bytes == 4 * (3 * 2 + 2)


def test_a_scorer_without_an_archive_has_no_artifact_to_send() -> None:
    model = nn.Linear(3, 2)
    for archive, sends in ((b"code", True), (b"", False)):
        weights = sync(model, NOWHERE, archive)
        assert weights.publisher is not None
        assert (weights.publisher.core.artifact is not None) is sends


def test_a_start_without_any_worker_ends_at_its_deadline_and_says_so() -> None:
    model = nn.Linear(3, 2)
    weights = sync(model, NOWHERE)
    try:
        with pytest.raises(SiftdTimeoutError, match="ipc:///nowhere/siftd.sock.*taking the first weights"):
            weights.start(model, 0, [], timeout=0.2)
    finally:
        assert weights.publisher is not None
        weights.publisher.close()


def test_plain_models_and_their_wrappers_are_not_sharded() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    for wrapped in (model, nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert not is_sharded(wrapped)


def test_fsdp1_is_refused_with_what_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrapped(nn.Module):
        pass

    monkeypatch.setattr(fsdp, "FullyShardedDataParallel", Wrapped)
    with pytest.raises(ConfigError, match="FSDP1.*fully_shard"):
        is_sharded(nn.Sequential(Wrapped()))


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("layers.0.weight", "layers.0.weight"),
        ("_orig_mod.layers.0._orig_mod.weight", "layers.0.weight"),
        ("layers.0._checkpoint_wrapped_module.attn.bias", "layers.0.attn.bias"),
        ("module.my_orig_mod.weight", "module.my_orig_mod.weight"),
    ],
)
def test_plain_names_leave_out_wrappers(name: str, plain: str) -> None:
    assert plain_name(name) == plain
