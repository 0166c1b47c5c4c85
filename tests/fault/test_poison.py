# SPDX-License-Identifier: Apache-2.0
"""Rows of the matrix: batches that kill whoever scores them."""

from __future__ import annotations

from collections.abc import Callable

from harness import FaultJob

MakeJob = Callable[..., FaultJob]
POISON = 37  # sample id


def poisoned(job: FaultJob) -> int:
    """Runs it with workers that die of the sample and are started again; how often one died."""
    flags = ("--poison", str(POISON))
    for name in ("w0", "w1"):
        job.worker(name, *flags)
    job.supervise(("w0", "w1"), *flags)
    job.trainer()
    job.loaders()
    job.finish()
    return sum(p.popen.returncode == -9 for name in ("w0", "w1") for p in job.lives[name])


def key_of_poison(job: FaultJob) -> set[tuple[int, int, int]]:
    offers = [e for p in job.lives["loader0"] for e in p.events.of("offer") if POISON in e["ids"]]
    return {(e["key"][0], e["key"][1], e["key"][2]) for e in offers}


def test_a_batch_that_kills_its_worker_is_quarantined(make_job: MakeJob) -> None:
    """After its deaths among others it is scored alone; two of those that are known, and it is passed on unscored.

    A death is known when the worker is back, so each of two workers may die twice before, and one of them once more.
    """
    job = make_job(loaders=1, epochs=1)
    deaths = poisoned(job)
    job.figures["deaths"] = deaths
    assert 2 <= deaths <= 5
    assert job.verdict().unsifted == key_of_poison(job), "it alone is passed on unscored"
    told = [e["text"] for e in job.current("loader0").events.of("log")]
    assert any("is quarantined: a worker died twice scoring it alone" in text for text in told)


def test_other_loaders_batches_are_not_blamed(make_job: MakeJob) -> None:
    """Two loaders with batches in the worker that dies: those of the other one are scored in the end."""
    job = make_job(loaders=2, epochs=1, rows=320)
    flags = ("--poison", "36")  # of loader 0
    for name in ("w0", "w1"):
        job.worker(name, *flags)
    job.supervise(("w0", "w1"), *flags)
    job.trainer()
    job.loaders()
    job.finish()
    unsifted = job.verdict().unsifted
    poison = {tuple(e["key"]) for e in job.current("loader0").events.of("offer") if 36 in e["ids"]}
    assert unsifted == poison
