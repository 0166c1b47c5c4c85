# SPDX-License-Identifier: Apache-2.0
"""A sifted loader in accelerate's hands, alone and on two ranks (CPU, gloo)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from launch import launch


def flat(trained: list[list[int]]) -> Counter[int]:
    return Counter(row for rows in trained for row in rows)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_loop_loses_and_repeats_nothing(tmp_path: Path, ranks: int) -> None:
    common: dict[str, Any] = {"ranks": ranks, "workers": 1, "folder": str(tmp_path / "state")}
    whole = launch("accelerate_run.py", tmp_path / "whole", **common)
    broken = launch("accelerate_run.py", tmp_path / "broken", save=4, die=6, dies=True, **common)
    rest = launch("accelerate_run.py", tmp_path / "rest", resume=True, **common)
    for rank in range(ranks):
        # Steps of two batches of 8; the step that the rest begins with is the fifth.
        assert [len(rows) for rows in whole[rank]["trained"]] == [16] * 9
        assert len(rest[rank]["trained"]) == 5 and rest[rank]["steps"] == 9
        assert flat(broken[rank]["trained"][:4] + rest[rank]["trained"]) == flat(whole[rank]["trained"])
    if ranks > 1:
        first = [flat(rank["trained"][:3]) for rank in whole]  # of the first pass: shards of their own
        assert not first[0] & first[1]
