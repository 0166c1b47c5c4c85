# SPDX-License-Identifier: Apache-2.0
"""Which devices local workers get, and frameworks that left each rank alone."""

from __future__ import annotations

import pytest
import torch

from siftd._loop import distributed
from siftd._loop.spawn import plan
from siftd.errors import ConfigError

CUDA = torch.device("cuda", 1)


def test_spare_devices_are_those_without_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [d for d, _ in plan("auto", CUDA)] == ["cuda:0", "cuda:2", "cuda:3"]
    assert [d for d, _ in plan("auto", CUDA, ranks=3)] == ["cuda:3"]
    assert [d for d, _ in plan("auto", CUDA, ranks=4)] == ["cpu"]


def test_ranks_that_a_framework_left_alone_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed.check_world(1, "")
    monkeypatch.setattr(distributed, "rank_and_world", lambda: (0, 2))
    distributed.check_world(2, "")
    with pytest.raises(ConfigError, match="num_processes is 1; allowed: 2.*cpu=True"):
        distributed.check_world(1, "Accelerator(cpu=True)")
