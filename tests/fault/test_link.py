# SPDX-License-Identifier: Apache-2.0
"""Rows of the matrix: what happens to links. Each client has a way of its own to worker w0; w1 is reached directly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness import LIVENESS, FaultJob
from process import Process
from proxy import DOWN, UP, Proxy

MakeJob = Callable[..., FaultJob]
LARGE: dict[str, Any] = {"rows": 160, "loaders": 1, "floats": 16384}  # candidate batches of 1 MiB


class Linked:
    """A job whose trainer and whose loaders reach w0 through a proxy each; `alone`: there is no w1."""

    def __init__(self, job: FaultJob, gated: int = -1, alone: bool = False) -> None:
        self.job = job
        self.alone = alone
        self.w0 = job.worker("w0")
        if not alone:
            job.worker("w1")
        self.to_trainer, self.to_loaders = job.proxy("w0"), job.proxy("w0")
        self.trainer = job.trainer(endpoints=self.ways(self.to_trainer), gated=gated)
        self.loaders: list[Process] = []

    def ways(self, proxy: Proxy) -> list[str]:
        return [proxy.endpoint] if self.alone else [proxy.endpoint, self.job.endpoint("w1")]

    def start_loaders(self) -> None:
        self.loaders = self.job.loaders(endpoints=self.ways(self.to_loaders))

    def hold(self) -> None:
        """Until all peers have w0, and the trainer waits at its gate with rows of it to come."""
        for peer in (self.trainer, *self.loaders):
            peer.wait_text("is 'w0'")
        self.trainer.wait_event("gate")
        self.w0.wait_event("scored", 4)

    def lost(self, peer: Process, proxy: Proxy) -> str:
        """What the peer says once it gave the proxied worker up."""
        return str(peer.wait_text(f"{proxy.endpoint} lost")["text"])


def test_cut_in_the_middle_of_a_batch(make_job: MakeJob) -> None:
    on = Linked(make_job(**LARGE), alone=True)
    on.to_loaders.cut_inside(UP, 2_500_000)
    on.start_loaders()
    on.to_loaders.wait_cut(UP)
    on.lost(on.loaders[0], on.to_loaders)
    on.job.finish()


def test_cut_in_the_middle_of_kept_rows(make_job: MakeJob) -> None:
    on = Linked(make_job(**LARGE), alone=True)
    on.to_trainer.cut_inside(DOWN, 700_000)
    on.start_loaders()
    on.to_trainer.wait_cut(DOWN)
    on.lost(on.trainer, on.to_trainer)
    on.job.finish()


def test_cut_again_and_again(make_job: MakeJob) -> None:
    """The only worker, and both links break inside a message: what came over them whole counts, and nothing else."""
    on = Linked(make_job(**LARGE | {"rows": 320}), alone=True)
    for turn in range(4):
        on.to_loaders.cut_inside(UP, 1_600_000)
        on.to_trainer.cut_inside(DOWN, 600_000)
        if turn == 0:
            on.start_loaders()
        on.to_loaders.wait_cut(UP, turn + 1)
        on.to_trainer.wait_cut(DOWN, turn + 1)
    on.job.finish()


def test_black_hole(make_job: MakeJob) -> None:
    """No reset, no end of file: silence alone tells."""
    on = Linked(make_job(), gated=6)
    on.start_loaders()
    on.hold()
    on.to_loaders.hole()
    on.to_trainer.hole()
    for peer, proxy in ((on.trainer, on.to_trainer), *((p, on.to_loaders) for p in on.loaders)):
        assert "silent for too long" in on.lost(peer, proxy)
    on.job.open_gate()
    on.job.finish()


def test_black_hole_that_ends(make_job: MakeJob) -> None:
    """What was under way arrives seconds later, on connections that nobody waits for any more."""
    on = Linked(make_job(), gated=6)
    on.start_loaders()
    on.hold()
    on.to_loaders.hole()
    on.to_trainer.hole()
    on.lost(on.trainer, on.to_trainer)
    for loader in on.loaders:
        on.lost(loader, on.to_loaders)
    on.to_loaders.mend()
    on.to_trainer.mend()
    for peer in (on.trainer, *on.loaders):
        peer.wait_text("is 'w0'", 2)
    on.job.open_gate()
    on.job.finish()


def test_half_open_to_the_loader(make_job: MakeJob) -> None:
    """The worker hears the loaders; they don't hear it."""
    on = Linked(make_job(), gated=6)
    on.start_loaders()
    on.hold()
    on.to_loaders.hole(DOWN)
    for loader in on.loaders:
        assert "silent for too long" in on.lost(loader, on.to_loaders)
    on.job.open_gate()
    on.job.finish()


def test_half_open_from_the_loader(make_job: MakeJob) -> None:
    """The loaders hear the worker; it doesn't hear them, and says so to nobody."""
    on = Linked(make_job(), gated=6)
    on.start_loaders()
    on.hold()
    on.to_loaders.hole(UP)
    for loader in on.loaders:
        on.lost(loader, on.to_loaders)
    on.job.open_gate()
    on.job.finish()


def test_slow_link(make_job: MakeJob) -> None:
    """Slower than the data, fast enough for one batch within liveness: it stays in use."""
    on = Linked(make_job(floats=1024))  # batches of 64 KiB
    on.to_loaders.throttle(500_000)
    on.start_loaders()
    on.job.finish()
    assert on.w0.events.of("scored"), "the slow worker had its share"
    assert not any("lost" in e["text"] for p in on.loaders for e in p.events.of("log"))


def test_link_slower_than_liveness(make_job: MakeJob) -> None:
    """A batch takes longer than the silence that a session bears: the other worker gets it."""
    on = Linked(make_job(**LARGE))
    on.to_loaders.throttle(2**20 / (3 * LIVENESS), UP)
    on.start_loaders()
    on.job.finish()


def test_reached_by_the_loader_alone(make_job: MakeJob) -> None:
    """What the worker decides reaches no trainer: it gives the batches back."""
    on = Linked(make_job(), gated=6)
    on.start_loaders()
    on.hold()
    on.to_trainer.hole()
    on.lost(on.trainer, on.to_trainer)
    on.job.open_gate()
    on.job.finish()


def test_reached_by_the_trainer_alone(make_job: MakeJob) -> None:
    """The loaders send their batches again elsewhere; what the worker decided of them still counts, once."""
    on = Linked(make_job(), gated=6)
    on.start_loaders()
    on.hold()
    on.to_loaders.hole()
    for loader in on.loaders:
        on.lost(loader, on.to_loaders)
    on.job.open_gate()
    assert on.job.finish().duplicates > 0


def test_copies_overtake_each_other(make_job: MakeJob) -> None:
    """The rows of w0 are under way while the same batches, sent again, come from w1."""
    on = Linked(make_job(), gated=2)
    on.to_trainer.delay(LIVENESS / 4, DOWN)
    on.start_loaders()
    on.w0.wait_event("scored", 6)
    on.to_loaders.retarget("")
    on.to_loaders.cut()
    for loader in on.loaders:
        on.lost(loader, on.to_loaders)
    on.job.open_gate()
    assert on.job.finish().duplicates > 0
