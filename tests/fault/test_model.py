# SPDX-License-Identifier: Apache-2.0
"""Rows of the matrix: what happens to weights on their way."""

from __future__ import annotations

import signal
from collections.abc import Callable

from harness import FaultJob, passage
from process import Process, wait_until
from proxy import UP
from raw_publisher import RawPublisher

MakeJob = Callable[..., FaultJob]
FLOATS = 5 << 20  # 20 MiB: five chunks


def versions(worker: Process) -> list[int]:
    return [int(e["version"]) for e in worker.events.of("update")]


def test_publisher_dies_in_mid_push(make_job: MakeJob) -> None:
    """Half of a version is there: it is dropped, and the version in force goes on until the next run's."""
    job = make_job(weight_floats=FLOATS)
    workers = [job.worker("w0"), job.worker("w1")]
    state = ("--state", str(job.folder / "state"))
    first = job.trainer(*state, fault=f"push_chunk:{passage(17, 18)}:kill", gated=5)
    job.loaders()
    assert first.wait_end() == -signal.SIGKILL
    assert "fault point push_chunk" in first.log_text()
    second = job.trainer(*state)
    job.finish()
    run = second.events.of("start")[0]["run"]
    assert any(e["run"] == run for w in workers for e in w.events.of("update"))


def test_damaged_chunk(make_job: MakeJob) -> None:
    """One bit on the way: the worker refuses the version, the publisher sends it again on a new connection."""
    job = make_job(weight_floats=FLOATS)
    damaged, _ = job.worker("w0"), job.worker("w1")
    way = job.proxy("w0")
    way.flip(UP, 2_000_000)
    trainer = job.trainer("--publish-endpoint", way.endpoint, "--publish-endpoint", job.endpoint("w1"), gated=0)
    job.loaders()
    way.wait_flip(UP)
    trainer.wait_text("model version 1 was damaged on its way")
    assert "CRC-32 of chunk 0 differs" in damaged.log_text()
    damaged.wait_event("update")
    job.open_gate()
    job.finish()


def test_cut_in_the_middle_of_a_version(make_job: MakeJob) -> None:
    job = make_job(weight_floats=FLOATS)
    cut, _ = job.worker("w0"), job.worker("w1")
    way = job.proxy("w0")
    way.cut_inside(UP, 9_000_000)
    job.trainer("--publish-endpoint", way.endpoint, "--publish-endpoint", job.endpoint("w1"), gated=0)
    job.loaders()
    way.wait_cut(UP)
    cut.wait_event("update")
    job.open_gate()
    job.finish()


def test_nan_weights(make_job: MakeJob) -> None:
    """Refused unless the worker was told to take them; the version before stays in force."""
    job = make_job()
    strict, lenient = job.worker("w0"), job.worker("w1", "--accept-non-finite-weights")
    trainer = job.trainer("--bad", "2:nan", gated=5)  # version 2 is published after step 5
    job.loaders()
    wait_until("w0 refuses", lambda: "model version 2 refused: weights 'weight' hold NaN" in strict.log_text())
    lenient.wait_event("update", 2)
    job.allow(10)
    strict.wait_event("update", 2)  # version 3
    job.open_gate()
    job.finish()
    assert versions(strict)[:2] == [1, 3]
    assert versions(lenient)[:2] == [1, 2]
    refusals = [e["text"] for e in trainer.events.of("refusal")]
    assert refusals and all(job.endpoint("w0") in text and "NaN or infinity" in text for text in refusals)


def test_wrong_weights(make_job: MakeJob) -> None:
    """Shape, type or name that the scorer does not have: refused with both sides' words, the old version stays."""
    job = make_job()
    worker = job.worker("w0")
    trainer = job.trainer("--bad", "2:shape", "--bad", "3:dtype", "--bad", "4:name", gated=5)
    job.loaders()
    expected = {
        2: "model version 2 refused: weights hold weight float32 [65]; the scorer takes weight float32 [64]",
        3: "model version 3 refused: weights hold weight int32 [64]; the scorer takes weight float32 [64]",
        4: "model version 4 refused: weights hold 'other', which the scorer does not have",
    }
    for version, text in expected.items():
        wait_until(text, lambda text=text: text in worker.log_text())
        job.allow(5 * version)
    worker.wait_event("update", 2)
    job.open_gate()
    job.finish()
    assert versions(worker)[:2] == [1, 5]
    refusals = " ".join(e["text"] for e in trainer.events.of("refusal"))
    assert all(part in refusals for part in ("float32 [65]", "int32 [64]", "'other'"))


def test_wrong_digest_and_versions_out_of_order(make_job: MakeJob) -> None:
    """A publisher that breaks the protocol's rules, before the job: each fault has its answer; the job then runs."""
    job = make_job()
    worker = job.worker("w0")
    with RawPublisher(job.endpoint("w0"), run=1) as raw:
        assert raw.push(1, [1.0] * 64, sha256=bytes(32)) == ("MODEL_CORRUPT", "SHA-256 of version 1 differs")
        assert raw.push(2, [2.0] * 64) is None
        code, text = raw.push(1, [1.0] * 64) or ("", "")
        assert (code, text) == ("MODEL_MISMATCH", "version is 1; allowed: above the one in force, 2")
        code, text = raw.push(3, [3.0] * 64, crc32=7) or ("", "")
        assert (code, text) == ("MODEL_CORRUPT", "CRC-32 of chunk 0 differs")
        code, text = raw.push(4, [4.0] * 64, skip_chunk=True) or ("", "")
        assert (code, text) == ("MODEL_CORRUPT", "commit after 0 of 1 chunks")
        assert raw.push(5, [5.0] * 64) is None
    assert versions(worker) == [2, 5]
    job.trainer()
    job.loaders()
    job.finish()


def test_update_during_a_forward(make_job: MakeJob) -> None:
    """Versions come while batches are being scored: each batch has one version, the one it began with."""
    job = make_job(rows=320)
    workers = [job.worker("w0", cost_us=20000), job.worker("w1", cost_us=20000)]
    job.trainer("--sync-every", "1")
    job.loaders()
    job.finish()
    during = 0
    for worker in workers:
        began: dict[tuple[int, ...], int] = {}
        applied = 0
        for e in worker.events.read():
            if e["event"] == "update":
                applied = e["version"]
            elif e["event"] == "scoring":
                began[tuple(e["key"])] = applied
            elif e["event"] == "scored":
                begin = began[tuple(e["key"])]
                assert begin - 1 <= e["version"] <= begin + 1
                during += applied > begin
    assert during > 0, "no version came during a forward"
