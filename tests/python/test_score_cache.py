# SPDX-License-Identifier: Apache-2.0
"""The last scores of samples, kept by a loader (its C++ twin: tests/unit/delivery/score_cache_test.cc)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from siftd._delivery.score_cache import ScoreCache
from siftd._wire.codec import wire_pb2
from test_delivery import lease, loader_core, sent, tell

HASHED = 1 << 40  # ids beyond the size of the data


def one_pass(cache: ScoreCache, ids: Any, value: float) -> int:
    """Rows that are scored; each then has this score."""
    scored = 0
    for part in np.array_split(ids, 50):
        prior = cache.visit(part.tolist())
        cache.take(part.tolist(), prior, np.full(len(part), value, np.float32))
        scored += int(np.isnan(prior).sum())
    return scored


@pytest.mark.parametrize("first", [0, HASHED])
def test_each_pass_but_the_first_scores_an_nth(first: int) -> None:
    cache, ids = ScoreCache(4, 20_000), np.arange(20_000) + first
    assert one_pass(cache, ids, 0) == 20_000
    for number in range(1, 10):
        assert abs(one_pass(cache, ids, number) - 5000) < 500, number


@pytest.mark.parametrize("first", [0, HASHED])
def test_the_last_score_decides_for_at_most_n_minus_one_further_visits(first: int) -> None:
    rng = np.random.default_rng(1)
    cache, ids = ScoreCache(3, 1000), np.arange(1000) + first
    last, age = np.full(1000, np.nan, np.float32), np.zeros(1000)
    for number in range(12):
        for part in np.array_split(rng.permutation(1000), 8):
            prior = cache.visit(ids[part].tolist())
            known = ~np.isnan(prior)
            assert np.array_equal(prior[known], last[part][known])
            age[part] = np.where(known, age[part] + 1, 0)
            score = np.where(known, prior, rng.random(len(part)) + number).astype(np.float32)
            cache.take(ids[part].tolist(), prior, score)
            last[part] = score
        assert age.max() <= 2


def test_the_hash_is_splitmix64() -> None:
    """As in C++: the same ids are due."""
    cache = ScoreCache(4)
    ids = list(range(16))
    cache.take(ids, cache.visit(ids), np.zeros(16, np.float32))
    assert np.flatnonzero(np.isnan(cache.visit(ids))).tolist() == [1, 3, 5, 7, 8, 12, 14]


def test_what_is_no_number_is_scored_again() -> None:
    cache = ScoreCache(254, 10)
    cache.take([1, 2, 3], cache.visit([1, 2, 3]), np.array([np.nan, np.inf, -np.inf], np.float32))
    assert np.isnan(cache.visit([1, 2, 3])).all()


def test_a_batch_without_scores_leaves_it_as_it_is() -> None:
    cache = ScoreCache(254, 10)
    cache.take([1, 2], cache.visit([1, 2]), np.empty(0, np.float32))
    assert np.isnan(cache.visit([1, 2])).all()


def test_ids_made_up_for_a_batch_name_no_sample() -> None:
    assert len(ScoreCache(4, 10).visit(range(1 << 62, (1 << 62) + 3))) == 0


def test_an_id_twice_in_a_batch() -> None:
    for cache in (ScoreCache(254, 10), ScoreCache(254)):
        cache.take([7, 7, 8], cache.visit([7, 7, 8]), np.array([1, 1, 2], np.float32))
        assert cache.visit([8, 7, 7]).tolist() == [2, 1, 1]


def test_memory_is_bounded() -> None:
    cache = ScoreCache(254, most=100)
    ids = np.arange(1000) + HASHED
    one_pass(cache, ids, 0)
    assert one_pass(cache, ids, 0) >= 900
    assert len(cache._ids) * 13 <= 100 * 39 or len(cache._ids) == 1024


def test_the_largest_ids() -> None:
    cache = ScoreCache(254)
    ids = [(1 << 64) - 1, (1 << 64) - 2, 0]
    cache.take(ids, cache.visit(ids), np.array([1, 2, 3], np.float32))
    assert cache.visit(ids).tolist() == [1, 2, 3]


# ------------------------------------------------------------ in the loader's core
def offered(core: Any, number: int, ids: list[int]) -> list[float]:
    batch = lease(0)
    batch.key, batch.sample_ids = (number, 0), ids
    core.offer(batch, 0.0)
    ((_, message),) = sent(core, wire_pb2.Candidates)
    return list(message.prior_score)


def test_verdicts_bring_the_scores_of_the_next_visits() -> None:
    core = loader_core(rescore_every=254)
    tell(core, 0, wire_pb2.Credit(batches=10, bytes=1 << 20))
    assert np.isnan(offered(core, 0, [1, 2])).all()
    decision = wire_pb2.Decision(outcome=wire_pb2.OUTCOME_DECIDED, rows=2, score=[0.5, 0.25])
    verdict = wire_pb2.Verdict(run=5, decision=decision)
    verdict.key.seq = 0
    tell(core, 0, verdict)
    priors = offered(core, 1, [2, 3, 1])
    assert priors[0] == 0.25 and np.isnan(priors[1]) and priors[2] == 0.5


def test_settled_brings_the_scores_of_the_next_visits() -> None:
    core = loader_core(rescore_every=254)
    core.options.mode = wire_pb2.MODE_SAMPLES
    tell(core, 0, wire_pb2.Credit(batches=10, bytes=1 << 20))
    offered(core, 0, [1, 2])
    settled = wire_pb2.Settled(run=5, kept=[0, 1], rows=[0, 2], score=[0.5, 0.25])
    for seq in (9, 0):  # the first is none of its leases
        settled.keys.loader.append(0)
        getattr(settled.keys, "pass").append(0)
        settled.keys.seq.append(seq)
    tell(core, 0, settled)
    assert offered(core, 1, [2, 1]) == [0.25, 0.5]


def test_a_batch_that_is_sent_again_has_the_same_priors() -> None:
    core = loader_core(workers=2, rescore_every=254)
    core._scores.take([1, 2], np.full(2, np.nan, np.float32), np.array([3, 4], np.float32))
    for worker in (0, 1):
        tell(core, worker, wire_pb2.Credit(batches=1, bytes=100))
    first = offered(core, 0, [1, 2])
    core.on_link_lost(0, "cut", 1.0)
    ((_, again),) = sent(core, wire_pb2.Candidates)
    assert list(again.prior_score) == first == [3, 4]


def test_without_it_no_priors_are_sent() -> None:
    core = loader_core()
    tell(core, 0, wire_pb2.Credit(batches=10, bytes=1 << 20))
    assert offered(core, 0, [1, 2]) == []
