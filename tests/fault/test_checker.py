# SPDX-License-Identifier: Apache-2.0
"""The checker against made-up logs: it accepts a job that is right, and names each thing that is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from checker import UNSIFTED, Job, Logs, check
from events import Event
from siftd._select.coin import coins

JOB = Job(rows=16, batch=4, epochs=2, loaders=2, seed=4, keep=0.5)
DECIDED = 1


def keep(epoch: int, ids: list[int]) -> list[int]:
    return [i for i, u in zip(ids, coins(JOB.seed, epoch, ids), strict=True) if u < JOB.keep]


def right() -> Logs:
    """One trainer that took a step for each batch, checkpointed at step 3, and one worker."""
    logs = Logs(loaders=[[], []], trainers={0: [[]]}, workers={"w": []})
    run, life, worker = 7, logs.trainers[0][0], logs.workers["w"]
    life.append({"event": "start", "step": 0, "run": run})
    worker.append({"event": "update", "run": run, "version": 1, "whole": 1})
    step = 0
    for epoch in range(JOB.epochs):
        for loader in range(JOB.loaders):
            shard = list(range(loader, JOB.rows, JOB.loaders))
            for seq in range(2):
                ids = shard[4 * seq : 4 * seq + 4]
                key = [loader, epoch, seq]
                logs.loaders[loader].append({"event": "offer", "key": key, "epoch": epoch, "ids": ids})
                worker.append({"event": "scored", "run": run, "version": 1, "key": key})
                kept = keep(epoch, ids)
                step += 1
                span = [*key, epoch, len(kept), DECIDED, 1, 1]
                life.append({"event": "take", "step": step, "ids": kept, "spans": [span]})
                life.append({"event": "step", "step": step})
        life.append({"event": "epoch", "epoch": epoch, "step": step})
    life.append({"event": "over", "duplicates": 0})
    return logs


def takes(logs: Logs) -> list[Event]:
    return [e for e in logs.trainers[0][-1] if e["event"] == "take" and e["ids"]]


def lose_a_row(logs: Logs) -> None:
    take = takes(logs)[0]
    take["ids"].pop()
    take["spans"][0][4] -= 1


def lose_a_step(logs: Logs) -> None:
    life = logs.trainers[0][0]
    life.remove(takes(logs)[1])


def never_step(logs: Logs) -> None:
    last = takes(logs)[-1]["step"]
    logs.trainers[0][0] = [e for e in logs.trainers[0][0] if not (e["event"] == "step" and e["step"] == last)]


def repeat_a_row(logs: Logs) -> None:
    take = takes(logs)[0]
    take["ids"].append(take["ids"][0])
    take["spans"][0][4] += 1


def repeat_a_batch(logs: Logs) -> None:
    life = logs.trainers[0][0]
    life.insert(len(life) - 2, takes(logs)[-1] | {"step": 99})
    life.insert(len(life) - 2, {"event": "step", "step": 99})


def against_the_coin(logs: Logs) -> None:
    take = takes(logs)[0]
    offer = next(e for e in logs.loaders[0] if e["key"] == take["spans"][0][:3])
    take["ids"].append(next(i for i in offer["ids"] if i not in take["ids"]))
    take["spans"][0][4] += 1


def foreign_row(logs: Logs) -> None:
    takes(logs)[0]["ids"][0] = 15


def unknown_key(logs: Logs) -> None:
    takes(logs)[0]["spans"][0][2] = 77


def other_samples(logs: Logs) -> None:
    again = copy.deepcopy(logs.loaders[0][0])
    again["ids"].reverse()
    logs.loaders[0].append(again)


def not_offered(logs: Logs) -> None:
    logs.loaders[1].pop()
    last = takes(logs)[-1]
    logs.trainers[0][0].remove(last)


def epoch_mixed(logs: Logs) -> None:
    life = logs.trainers[0][0]
    at = next(i for i, e in enumerate(life) if e["event"] == "epoch")
    life.insert(at - 2, life.pop(at))


def epoch_missing(logs: Logs) -> None:
    logs.trainers[0][0] = [e for e in logs.trainers[0][0] if e.get("epoch") != 1 or e["event"] != "epoch"]


def version_back(logs: Logs) -> None:
    logs.workers["w"].insert(4, {"event": "update", "run": 7, "version": 3, "whole": 1})
    logs.workers["w"][5]["version"] = 3


def version_twice(logs: Logs) -> None:
    logs.workers["w"].append({"event": "update", "run": 7, "version": 1, "whole": 1})


def version_torn(logs: Logs) -> None:
    logs.workers["w"][0]["whole"] = 0


def other_run(logs: Logs) -> None:
    logs.workers["w"][2]["run"] = 8


def wrong_rank(logs: Logs) -> None:
    logs.trainers[1] = logs.trainers.pop(0)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lose_a_row, "1 rows are lost"),
        (lose_a_step, "rows are lost"),
        (never_step, "rows are lost"),
        (repeat_a_row, "1 rows were trained twice"),
        (repeat_a_batch, "rows were trained twice"),
        (against_the_coin, "was trained against the coin"),
        (foreign_row, "row 15 is not of key"),
        (unknown_key, "which was not offered"),
        (other_samples, "named other samples when it was offered again"),
        (not_offered, "epoch 1: 12 of 16 rows were offered"),
        (epoch_mixed, "a row of epoch 0 was trained in epoch 1"),
        (epoch_missing, "1 epochs ended; the job has 2"),
        (version_back, "scored on version 1 after 3"),
        (version_twice, "version 1 of run 7 after 1 of 7"),
        (version_torn, "version 1 was torn"),
        (other_run, "a batch of run 8 was scored on weights of run 7"),
        (wrong_rank, "went to rank 1"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_each_violation_is_reported(spoil: Callable[[Logs], None], says: str) -> None:
    logs = right()
    spoil(logs)
    found = check(JOB, logs).texts()
    assert any(says in text for text in found), found


def test_a_right_job_is_accepted() -> None:
    verdict = check(JOB, right())
    assert not verdict.texts()
    assert verdict.trained == sum(len(keep(e, list(range(JOB.rows)))) for e in range(JOB.epochs))


def test_only_the_lineage_of_checkpoints_counts() -> None:
    """A life that went on from a state: what the earlier one did after it is void, and done again."""
    logs = right()
    first = logs.trainers[0][0]
    second = [{"event": "start", "step": 3, "run": 8}] + [e for e in first if e.get("step", 99) > 3]
    died = [e for e in first if e.get("step", 99) <= 5 and e["event"] != "epoch"]
    logs.trainers[0] = [died, second]
    assert not check(JOB, logs).texts()
    logs.trainers[0] = [died, [second[0] | {"step": 4}, *second[1:]]]  # it read a later state, and repeats step 4
    assert any("trained twice" in text for text in check(JOB, logs).texts())


def test_a_quarantined_batch_keeps_all_its_rows() -> None:
    logs = right()
    take = takes(logs)[0]
    offer = next(e for e in logs.loaders[0] if e["key"] == take["spans"][0][:3])
    take["spans"][0][5] = UNSIFTED
    assert any("rows are lost" in text for text in check(JOB, logs).texts())
    take["ids"], take["spans"][0][4] = list(offer["ids"]), len(offer["ids"])
    verdict = check(JOB, logs)
    assert not verdict.texts()
    assert verdict.unsifted == {tuple(offer["key"])}


def test_unequal_steps_of_ranks() -> None:
    job = Job(rows=16, batch=4, epochs=1, loaders=2, seed=4, world=2, steps_per_epoch=2)
    logs = right()
    mine = {r: [e for e in logs.trainers[0][0] if e["event"] == "start"] for r in range(2)}
    for take in takes(logs)[:4]:
        life = mine[take["spans"][0][0]]
        life += [take | {"step": len(life)}, {"event": "step", "step": len(life)}]
    made = {r: sum(e["event"] == "take" for e in life) for r, life in mine.items()}
    assert made == {0: 2, 1: 2}
    logs.trainers = {r: [life] for r, life in mine.items()}
    assert not check(job, logs).texts()
    mine[1].pop()
    assert any("steps by rank are {0: 2, 1: 1}" in text for text in check(job, logs).texts())
