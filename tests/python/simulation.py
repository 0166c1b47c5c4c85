# SPDX-License-Identifier: Apache-2.0
"""The Python cores of loaders and a trainer rank, driven in one process through seeded schedules of cuts and deaths.

Workers are modelled: sessions, credit, relaying, holding of kept rows until they are acked, purging on a newer run.
Messages of a link arrive in order; links are served in random order. Time is virtual.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from siftd._delivery.client_core import ClientCore
from siftd._delivery.loader_core import Lease, LoaderCore, LoaderOptions
from siftd._delivery.trainer_core import EpochMark, TrainerCore, TrainerOptions
from siftd._net.transport import Actions
from siftd._wire.codec import wire_pb2

ROWS = 4  # of a batch
LOADER_WINDOW = 2


@dataclass
class Link:
    """One client's connection to one worker."""

    to_worker: deque[Any] = field(default_factory=deque)
    to_client: deque[Any] = field(default_factory=deque)
    session: Any = None  # as the worker knows it


def kept_of(key: tuple[int, int, int]) -> list[int]:
    """Rows that every worker keeps of a batch; none of some batches."""
    return [r for r in range(ROWS) if (key[0] * 7 + key[1] * 5 + key[2] * 3 + r) % 3 == 0]


def full_key(key: Any) -> tuple[int, int, int]:
    return key.loader, getattr(key, "pass"), key.seq


class ModelWorker:
    """What a worker does, without sockets, scores and deadlines."""

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.run = 0
        self.trainer: Link | None = None
        self.loaders: dict[int, Link] = {}
        self.positioned: set[int] = set()
        self.held: dict[tuple[int, int, int], Any] = {}  # Selected that are not acked
        self.unsent: list[tuple[int, int, int]] = []
        self.credit = 0  # of the trainer's session
        self.sent = 0
        self.ends: dict[tuple[int, int], Any] = {}
        self.granted: Counter[int] = Counter()
        self.received: Counter[int] = Counter()

    def reply(self, link: Link, message: Any) -> None:
        message.session.CopyFrom(link.session)
        link.to_client.append(message)

    def purge(self, run: int) -> None:
        self.run = run
        self.held.clear()
        self.unsent.clear()
        self.ends.clear()
        self.positioned.clear()

    def forget(self, link: Link) -> None:
        if self.trainer is link:
            self.trainer = None
        for index in [i for i, other in self.loaders.items() if other is link]:
            del self.loaders[index]
            self.positioned.discard(index)

    def on_message(self, link: Link, m: Any) -> None:
        if isinstance(m, wire_pb2.Hello):
            self.on_hello(link, m)
            return
        if link.session is None or m.session != link.session:
            error = wire_pb2.Error(code=wire_pb2.HELLO_REQUIRED, fatal=True)
            error.session.CopyFrom(m.session)
            link.to_client.append(error)
            return
        if isinstance(m, wire_pb2.Heartbeat):
            self.reply(link, wire_pb2.Heartbeat())
        if getattr(m, "run", self.run) != self.run:
            return
        match m:
            case wire_pb2.Candidates():
                self.received[m.key.loader] += 1
                assert self.received[m.key.loader] <= self.granted[m.key.loader], "sent without credit"
                self.decide(full_key(m.key), m)
            case wire_pb2.Credit():
                self.credit = max(self.credit, m.batches)
                self.flush()
            case wire_pb2.Ack():
                for loader, number, seq, kept in zip(
                    m.keys.loader, getattr(m.keys, "pass"), m.keys.seq, m.kept, strict=True
                ):
                    self.settle((loader, number, seq), kept)
            case wire_pb2.EpochEnd():
                self.ends[m.loader, getattr(m, "pass")] = m
                self.relay_end(m)
            case wire_pb2.EpochAck():
                self.ends.pop((m.loader, getattr(m, "pass")), None)
                self.to_loader(m.loader, m)
            case wire_pb2.Position():
                self.positioned.add(m.loader)
                self.to_loader(m.loader, m)
                self.grant(m.loader)
            case wire_pb2.Goodbye() if link is self.trainer:
                for index in list(self.loaders):
                    self.to_loader(index, m)

    def on_hello(self, link: Link, m: Any) -> None:
        link.session = wire_pb2.Session()
        link.session.CopyFrom(m.session)
        if m.role == wire_pb2.ROLE_TRAINER:
            if m.run > self.run:
                self.purge(m.run)
            self.trainer, self.credit, self.sent = link, 0, 0
            self.unsent = sorted(self.held)
        else:
            self.loaders[m.loader_index] = link
            self.positioned.discard(m.loader_index)
            self.granted[m.loader_index] = self.received[m.loader_index] = 0
        welcome = wire_pb2.Welcome(worker_incarnation=self.incarnation, heartbeat_ms=1000, liveness_ms=5000)
        self.reply(link, welcome)
        if self.trainer is not None:
            for index in self.loaders:
                if index not in self.positioned:
                    self.reply(self.trainer, wire_pb2.PositionRequest(run=self.run, loader=index))
            if m.role == wire_pb2.ROLE_TRAINER:
                for end in self.ends.values():
                    self.relay_end(end)

    def to_loader(self, index: int, m: Any) -> None:
        if index in self.loaders:
            copy = type(m)()
            copy.CopyFrom(m)
            self.reply(self.loaders[index], copy)

    def relay_end(self, end: Any) -> None:
        if self.trainer is not None:
            copy = wire_pb2.EpochEnd()
            copy.CopyFrom(end)
            self.reply(self.trainer, copy)

    def grant(self, index: int) -> None:
        if index not in self.positioned or index not in self.loaders:
            return
        mine = sum(key[0] == index for key in self.held)
        allowed = self.received[index] + max(0, LOADER_WINDOW - mine)
        if allowed > self.granted[index]:
            self.granted[index] = allowed
            self.reply(self.loaders[index], wire_pb2.Credit(batches=allowed, bytes=allowed * 1000))

    def decide(self, key: tuple[int, int, int], m: Any) -> None:
        if key not in self.held:
            selected = wire_pb2.Selected(run=self.run, epoch=m.epoch)
            selected.key.CopyFrom(m.key)
            selected.decision.outcome = wire_pb2.OUTCOME_DECIDED
            selected.decision.rows = ROWS
            selected.decision.kept.extend(kept_of(key))
            selected.sample_id.extend(m.sample_id[r] for r in kept_of(key))
            self.held[key] = selected
            self.unsent.append(key)
        self.flush()

    def flush(self) -> None:
        while self.trainer is not None and self.unsent and self.sent < self.credit:
            key = self.unsent.pop(0)
            copy = wire_pb2.Selected()
            copy.CopyFrom(self.held[key])
            self.reply(self.trainer, copy)
            self.sent += 1

    def settle(self, key: tuple[int, int, int], kept: int) -> None:
        if self.held.pop(key, None) is None:
            return
        settled = wire_pb2.Settled(run=self.run, kept=[kept])
        settled.keys.loader.append(key[0])
        getattr(settled.keys, "pass").append(key[1])
        settled.keys.seq.append(key[2])
        self.to_loader(key[0], settled)
        self.grant(key[0])


class Client:
    """A core and its links; the owner's part is the simulation's."""

    def __init__(self, core: ClientCore, workers: int) -> None:
        self.core = core
        self.links = [Link() for _ in range(workers)]
        for _ in range(workers):
            core.add_worker(0.0)

    def carry_out(self) -> list[Link]:
        """Sends what the core left; the links that it gave up."""
        actions, self.core.actions = self.core.actions, Actions()
        gone = []
        for w in actions.reconnect:
            gone.append(self.links[w])
            self.links[w] = Link()
        for w, message, _ in actions.sends:
            copy = type(message)()
            copy.CopyFrom(message)
            self.links[w].to_worker.append(copy)
        return gone


@dataclass
class LoaderProcess:
    client: Client
    core: LoaderCore
    number: int = 0  # pass in hand
    seq: int = 0  # next to be offered
    ended: bool = False
    started: bool = False
    skip: set[int] = field(default_factory=set)
    settled: Counter[tuple[int, int]] = field(default_factory=Counter)


class Simulation:
    def __init__(self, seed: int, workers: int = 2, loaders: int = 2, passes: int = 2, batches: int = 6) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.clock = 100  # incarnations
        self.passes, self.batches, self.count = passes, batches, loaders
        self.batch_size = self.random.choice([1, 8])  # 1: credit is scarce
        self.workers = [ModelWorker(self.tick_clock()) for _ in range(workers)]
        self.loaders: list[LoaderProcess] = []
        for index in range(loaders):
            options = LoaderOptions(mode=wire_pb2.MODE_SAMPLES, index=index, count=loaders)
            core = LoaderCore(options, self.tick_clock())
            self.loaders.append(LoaderProcess(Client(core, workers), core))
        self.accepted: Counter[tuple[int, int, int]] = Counter()  # over the lineage of checkpoints
        self.buffer: deque[tuple[tuple[int, int, int], int]] = deque()  # key, rows left
        self.rows_seen: Counter[int] = Counter()
        self.epochs: list[int] = []
        self.state: dict[str, Any] = {"next_pass": {}, "passes": {}, "epoch": 0}
        self.saved = self.snapshot()
        self.start_trainer()

    def tick_clock(self) -> int:
        self.clock += 1
        return self.clock

    # ---------------------------------------------------------------- trainer
    def start_trainer(self) -> None:
        run = self.tick_clock()
        options = TrainerOptions(
            job="default", name="t", run=run, rank=0, world=1, job_spec=wire_pb2.JobSpec(mode=wire_pb2.MODE_SAMPLES),
            batch_size=self.batch_size, loaders=self.count,
        )  # fmt: skip
        self.trainer = TrainerCore(options, self.tick_clock())
        self.trainer.restore(self.state["next_pass"], self.state["passes"], self.state["epoch"])
        self.trainer_client = Client(self.trainer, len(self.workers))

    def snapshot(self) -> Any:
        return Counter(self.accepted), Counter(self.rows_seen), list(self.epochs), dict(self.state)

    def checkpoint(self) -> None:
        """All that was accepted counts as trained."""
        self.take_rows(len(self.buffer))
        next_pass = {i: s.next_pass for i, s in self.trainer.loaders.items()}
        passes = {i: {n: v.pairs() for n, v in s.passes.items()} for i, s in self.trainer.loaders.items()}
        self.state = {"next_pass": next_pass, "passes": passes, "epoch": len(self.epochs)}
        self.saved = self.snapshot()

    def restart_trainer(self) -> None:
        """It dies: what came after the checkpoint never happened."""
        for link in self.trainer_client.links:
            self.cut(link)
        accepted, rows, epochs, self.state = self.saved
        self.accepted, self.rows_seen, self.epochs = Counter(accepted), Counter(rows), list(epochs)
        self.buffer.clear()
        self.start_trainer()

    def take_rows(self, batches: int) -> None:
        emptied = [self.buffer.popleft()[0] for _ in range(min(batches, len(self.buffer)))]
        self.trainer.consumed(emptied, sum(rows for _, rows in self.buffer), self.now)

    def take_in(self) -> None:
        accepted, self.trainer.accepted = self.trainer.accepted, []
        for item in accepted:
            if isinstance(item, EpochMark):
                self.epochs.append(item.epoch)
                wanted = {(i, item.epoch, s) for i in range(self.count) for s in range(self.batches)}
                got = {k for k in self.accepted if k[1] == item.epoch}
                assert got == wanted, f"epoch {item.epoch} ended with {len(got)} of {len(wanted)} keys"
                continue
            message = item[0]
            key = full_key(message.key)
            self.accepted[key] += 1
            assert self.accepted[key] == 1, f"{key} was accepted twice"
            for row in message.sample_id:
                self.rows_seen[row] += 1
            if message.decision.kept:
                self.buffer.append((key, len(message.decision.kept)))

    # ---------------------------------------------------------------- loaders
    def feed(self, process: LoaderProcess) -> None:
        core = process.core
        if core.position is not None:
            d, core.position = core.position.decided, None
            index = core.options.index
            process.number = d.next_pass[index] if index < len(d.next_pass) else 0
            self.begin_pass(process, d)
        if not process.started or process.number >= self.passes:
            return
        if process.ended:
            if process.number in core.acked_ends:
                process.number += 1
                self.begin_pass(process, None)
            return
        while len(core.pending) < 2 and process.seq < self.batches:
            seq, process.seq = process.seq, process.seq + 1
            if seq in process.skip:
                continue
            first = ((core.options.index * 100 + process.number) * 100 + seq) * 100
            lease = Lease((process.number, seq), process.number, range(first, first + ROWS), [], (), nbytes=10)
            core.offer(lease, self.now)
        if process.seq == self.batches and not core.pending:
            process.ended = True
            final = process.number + 1 == self.passes
            core.end_pass(process.number, process.number, self.batches, final, self.now)

    def begin_pass(self, process: LoaderProcess, decided: Any) -> None:
        process.started, process.seq, process.ended, process.skip = True, 0, False, set()
        if decided is None:
            return
        for i in range(len(decided.loader)):
            if decided.loader[i] == process.core.options.index and getattr(decided, "pass")[i] == process.number:
                process.skip |= set(range(decided.begin[i], decided.end[i]))

    # ---------------------------------------------------------------- faults
    def clients(self) -> list[Client]:
        return [self.trainer_client, *(p.client for p in self.loaders)]

    def cut(self, link: Link) -> None:
        link.to_worker.clear()
        link.to_client.clear()
        for worker in self.workers:
            worker.forget(link)

    def lose_link(self, client: Client, w: int) -> None:
        self.cut(client.links[w])
        client.links[w] = Link()
        client.core.on_link_lost(w, "cut", self.now)

    def kill_worker(self, w: int) -> None:
        self.workers[w] = ModelWorker(self.tick_clock())
        for client in self.clients():
            self.lose_link(client, w)

    def fault(self) -> None:
        draw = self.random.random()
        w = self.random.randrange(len(self.workers))
        if draw < 0.02:
            self.kill_worker(w)
        elif draw < 0.06:
            self.lose_link(self.random.choice(self.clients()), w)
        elif draw < 0.07:
            self.restart_trainer()
        elif draw < 0.10:
            self.checkpoint()

    # ---------------------------------------------------------------- run
    def step(self) -> None:
        self.now += 0.05
        for client in self.random.sample(self.clients(), len(self.clients())):
            client.core.on_tick(self.now)
            self.settle_actions(client)
            for w, link in enumerate(client.links):
                for _ in range(self.random.randrange(4)):
                    if link.to_worker and client.links[w] is link:
                        self.workers[w].on_message(link, link.to_worker.popleft())
                    if link.to_client and client.links[w] is link:
                        client.core.on_message(w, link.to_client.popleft(), [], self.now)
                        self.take_in()
                        self.settle_actions(client)
        for process in self.loaders:
            self.feed(process)
            self.settle_actions(process.client)
            for lease, kept in process.core.settled:
                key = (process.core.options.index, *lease.key)
                before = self.saved[0] if key in self.saved[0] else ()
                # A trainer that was started again does not know the counts of what was decided before.
                assert kept == len(kept_of(key)) or (kept == 0 and key in before), f"{key} settled with {kept}"
            process.core.settled.clear()
        if self.buffer and self.random.random() < 0.5:
            self.take_rows(1)
            self.settle_actions(self.trainer_client)

    def settle_actions(self, client: Client) -> None:
        for gone in client.carry_out():
            self.cut(gone)

    def finished(self) -> bool:
        return len(self.epochs) == self.passes and all(
            p.core.outstanding == 0 and p.number in p.core.acked_ends or p.number >= self.passes for p in self.loaders
        )

    def run_to_the_end(self, faulty_steps: int, most: int = 20_000) -> None:
        for step in range(most):
            if step < faulty_steps:
                self.fault()
            self.step()
            if self.finished():
                break
        else:
            raise AssertionError(f"not over after {most} steps: epochs {self.epochs}, {dict(self.accepted)}")
        assert self.epochs == list(range(self.passes))
        assert set(self.rows_seen.values()) == {1}
        kept = sum(
            len(kept_of((i, n, s))) for i in range(self.count) for n in range(self.passes) for s in range(self.batches)
        )
        assert sum(self.rows_seen.values()) == kept, "a kept row was lost"
