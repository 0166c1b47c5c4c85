# SPDX-License-Identifier: Apache-2.0
"""What must hold over the logs of a job, whatever was done to its processes.

The policy is uniform, so the coin alone says which rows of which epoch have to be trained: every other row and every
second training of a row is a violation, and so is each one that is missing at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from events import Event, Key, key_of
from siftd._select.coin import coins

UNSIFTED = 2  # Outcome


@dataclass(frozen=True)
class Job:
    """What the job was told."""

    rows: int
    batch: int
    epochs: int
    loaders: int = 1
    seed: int = 0
    keep: float = 0.5
    world: int = 1
    steps_per_epoch: int = 0
    finished: bool = True  # it was left to come to its end


@dataclass
class Logs:
    """Events by process. Trainers: by rank, the lives of the rank in their order. Workers: one list for each life."""

    loaders: list[list[Event]] = field(default_factory=list)
    trainers: dict[int, list[list[Event]]] = field(default_factory=dict)
    workers: dict[str, list[Event]] = field(default_factory=dict)


@dataclass
class Verdict:
    """`lost`, `repeated`: (epoch, sample id). `violations`: sentences."""

    lost: list[tuple[int, int]] = field(default_factory=list)
    repeated: list[tuple[int, int]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    trained: int = 0  # rows
    unsifted: set[Key] = field(default_factory=set)
    duplicates: int = 0  # deliveries of decided keys, which the trainer dropped

    def texts(self) -> list[str]:
        found = list(self.violations)
        if self.lost:
            found.append(f"{len(self.lost)} rows are lost, (epoch, id) {self.lost[:5]}")
        if self.repeated:
            found.append(f"{len(self.repeated)} rows were trained twice, (epoch, id) {self.repeated[:5]}")
        return found


def lineage(lives: Sequence[list[Event]]) -> list[Event]:
    """The events of a rank that its last state stands on: each life goes on at the step of the state it read."""
    kept: list[Event] = []
    for life in lives:
        started = next((e for e in life if e["event"] == "start"), None)
        if started is None:
            continue
        at = int(started["step"])
        # The state of step `at` was taken before an epoch's end of the same step was handed out.
        kept = [e for e in kept if e["step"] < at or (e["step"] == at and e["event"] != "epoch")]
        kept += [e for e in life if e["event"] in {"take", "step", "epoch"}]
    return kept


def trained_batches(events: Iterable[Event]) -> list[Event]:
    """`take` events whose step was made."""
    events = list(events)
    made = {e["step"] for e in events if e["event"] == "step"}
    return [e for e in events if e["event"] == "take" and e["step"] in made]


def check(job: Job, logs: Logs) -> Verdict:
    verdict = Verdict()
    offers = _offers(job, logs, verdict)
    kept: dict[tuple[int, int], bool] = {}  # (epoch, id) -> the coin keeps it
    for key, (epoch, ids) in offers.items():
        for i, u in zip(ids, coins(job.seed, epoch, ids), strict=True):
            kept[epoch, i] = bool(u < job.keep)
        if job.loaders and key[0] >= job.loaders:
            verdict.violations.append(f"key {key} is of no loader of the job")
    trained: Counter[tuple[int, int]] = Counter()
    by_rank: dict[int, Counter[tuple[int, int]]] = {}
    for rank, lives in sorted(logs.trainers.items()):
        events = lineage(lives)
        mine = by_rank.setdefault(rank, Counter())
        for take in trained_batches(events):
            _count(job, rank, take, offers, kept, mine, verdict)
        trained += mine
        if job.world == 1:
            _check_epochs(job, events, verdict)
        for life in lives:
            verdict.duplicates += sum(int(e["duplicates"]) for e in life if e["event"] == "over")
    verdict.trained = sum(trained.values())
    verdict.repeated = sorted(row for row, n in trained.items() if n > 1)
    if job.finished and job.world == 1:
        verdict.lost = sorted(row for row, wanted in kept.items() if wanted and row not in trained)
    if job.finished and job.world > 1:
        _check_equal_steps(job, logs, verdict)
    for name, events in logs.workers.items():
        _check_versions(name, events, verdict)
    return verdict


def _offers(job: Job, logs: Logs, verdict: Verdict) -> dict[Key, tuple[int, list[int]]]:
    """Epoch and ids of each key that was offered; a key always names the same samples."""
    offers: dict[Key, tuple[int, list[int]]] = {}
    for events in logs.loaders:
        for e in events:
            if e["event"] != "offer":
                continue
            key, value = key_of(e), (int(e["epoch"]), list(e["ids"]))
            if offers.setdefault(key, value) != value:
                verdict.violations.append(f"key {key} named other samples when it was offered again")
    if job.finished and job.world == 1:
        for epoch in range(job.epochs):
            seen = Counter(i for e, ids in offers.values() if e == epoch for i in ids)
            if seen != Counter(range(job.rows)):
                verdict.violations.append(f"epoch {epoch}: {len(seen)} of {job.rows} rows were offered")
    return offers


def _count(
    job: Job,
    rank: int,
    take: Event,
    offers: dict[Key, tuple[int, list[int]]],
    kept: dict[tuple[int, int], bool],
    trained: Counter[tuple[int, int]],
    verdict: Verdict,
) -> None:
    ids = take["ids"]
    at = 0
    for loader, number, seq, epoch, rows, outcome, _version, _last in take["spans"]:
        key = (loader, number, seq)
        if loader % job.world != rank:
            verdict.violations.append(f"key {key} went to rank {rank}")
        offered = offers.get(key)
        if offered is None or offered[0] != epoch:
            verdict.violations.append(f"rows of key {key}, epoch {epoch}, which was not offered")
            return
        if outcome == UNSIFTED and key not in verdict.unsifted:
            verdict.unsifted.add(key)
            kept.update({(epoch, i): True for i in offered[1]})
        for i in ids[at : at + rows]:
            if i not in offered[1]:
                verdict.violations.append(f"row {i} is not of key {key}")
            elif not kept[epoch, i]:
                verdict.violations.append(f"row {i} of epoch {epoch} was trained against the coin")
            trained[epoch, i] += 1
        at += rows
    if at != len(ids):
        verdict.violations.append(f"step {take['step']} has {len(ids)} rows; its keys have {at}")


def _check_epochs(job: Job, events: list[Event], verdict: Verdict) -> None:
    """World 1: an epoch's rows come between the end before and its own."""
    now = 0
    made = {e["step"] for e in events if e["event"] == "step"}
    for e in events:
        if e["event"] == "epoch":
            if e["epoch"] != now:
                verdict.violations.append(f"the end of epoch {e['epoch']} came in place of {now}'s")
            now += 1
        elif e["event"] == "take" and e["step"] in made:
            verdict.violations += [
                f"a row of epoch {span[3]} was trained in epoch {now}" for span in e["spans"] if span[3] != now
            ]
    if job.finished and now != job.epochs:
        verdict.violations.append(f"{now} epochs ended; the job has {job.epochs}")


def _check_equal_steps(job: Job, logs: Logs, verdict: Verdict) -> None:
    steps = {r: len(trained_batches(lineage(lives))) for r, lives in logs.trainers.items()}
    wanted = job.epochs * job.steps_per_epoch
    if set(steps) != set(range(job.world)) or set(steps.values()) != {wanted}:
        verdict.violations.append(f"steps by rank are {steps}; each of {job.world} should make {wanted}")


def _check_versions(name: str, events: list[Event], verdict: Verdict) -> None:
    """In one life of a worker runs and the versions of a run ascend, and a batch is scored on its own run's weights."""
    run = applied = scored = 0
    for e in events:
        if e["event"] == "update":
            if not e["whole"]:
                verdict.violations.append(f"{name}: version {e['version']} was torn")
            if e["run"] != run:
                applied = scored = 0
            if e["run"] < run or e["version"] <= applied:
                verdict.violations.append(f"{name}: version {e['version']} of run {e['run']} after {applied} of {run}")
            run, applied = e["run"], e["version"]
        elif e["event"] == "scored":
            if e["run"] > run:
                verdict.violations.append(f"{name}: a batch of run {e['run']} was scored on weights of run {run}")
            if e["run"] != run:
                continue  # of an older run: its decision is dropped
            if not scored <= e["version"] <= applied:
                verdict.violations.append(f"{name}: scored on version {e['version']} after {scored}")
            scored = e["version"]
