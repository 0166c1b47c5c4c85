# SPDX-License-Identifier: Apache-2.0
"""The coin of whole batches, against the protocol's vectors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from siftd._select.coin import coins, philox4x32
from support import ROOT

VECTORS: dict[str, Any] = json.loads((ROOT / "tests" / "conformance" / "vectors" / "coin.json").read_text())


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def test_philox_gives_the_known_answers_all_in_one_call_where_the_key_is_the_same() -> None:
    for known in VECTORS["philox4x32_10"]:
        key = words(known["key"])
        counter = [np.array([word, 1], np.uint64) for word in words(known["counter"])]
        assert [int(c[0]) for c in philox4x32(counter, (key[0], key[1]))] == words(known["words"])


@pytest.mark.parametrize("known", VECTORS["coin"], ids=lambda v: f"{v['seed']}-{v['epoch']}-{v['sample_id']}")
def test_coins_are_the_protocols(known: dict[str, Any]) -> None:
    u = coins(int(known["seed"]), known["epoch"], [int(known["sample_id"])], [known["occurrence"]])
    assert u.dtype == np.float64
    assert u.tolist() == [known["u"]]
    assert int(u[0] * 2.0**53) == int(known["u_times_2_53"])


def test_a_batch_gets_each_rows_own_coin() -> None:
    same = [v for v in VECTORS["coin"] if v["seed"] == "42" and v["epoch"] == 0]
    assert len(same) > 2
    u = coins(42, 0, [int(v["sample_id"]) for v in same], [v["occurrence"] for v in same])
    assert u.tolist() == [v["u"] for v in same]


def test_occurrence_left_out_is_zero_and_ids_may_be_a_range_above_2_to_62() -> None:
    ids = range((1 << 62) + 5, (1 << 62) + 9)
    assert coins(7, 3, ids).tolist() == coins(7, 3, np.array(ids, np.uint64), [0] * 4).tolist()
    assert len(set(coins(7, 3, ids).tolist())) == 4
    assert coins(7, 3, []).tolist() == []
