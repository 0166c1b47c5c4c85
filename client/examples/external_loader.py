# SPDX-License-Identifier: Apache-2.0
"""A loader written against the protocol alone: pyzmq and the code that protoc makes of proto/, nothing of siftd.

It feeds the rows of a CSV file (numbers; the last column is the class) to a pool of workers, as proto/README.md,
section "Loader, mode SAMPLES", asks for; the numbers in the comments are that section's. Port it to your language.

    protoc -Iproto --python_out=generated proto/siftd/v1/*.proto      # once; or give --proto proto
    python external_loader.py --csv digits.csv --endpoint tcp://127.0.0.1:7070 --epochs 3 --proto proto

Workers with keys are reached by --keys alice.key_secret (siftd keygen client) and --worker-key worker.key.
"""

from __future__ import annotations

import argparse
import array
import csv
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import zmq
import zmq.auth
from zmq.utils.monitor import parse_monitor_message

wire: Any = None  # siftd.v1.wire_pb2, set by main
MAGIC = b"SFTD\x01"


def generate(proto: Path) -> None:
    """Runs protoc into a temporary folder and imports the result from there."""
    global wire
    folder = Path(tempfile.mkdtemp(prefix="siftd-proto-"))
    files = sorted(map(str, (proto / "siftd" / "v1").glob("*.proto")))
    subprocess.run(["protoc", f"-I{proto}", f"--python_out={folder}", *files], check=True)
    for package in ("siftd", "siftd/v1"):
        (folder / package / "__init__.py").touch()
    sys.path.insert(0, str(folder))
    from siftd.v1 import wire_pb2

    wire = wire_pb2


class Link:
    """A DEALER to one worker and its session."""

    def __init__(
        self, context: zmq.Context[Any], endpoint: str, incarnation: int, keys: tuple[bytes, bytes, bytes] | None
    ) -> None:
        """`keys`: own public, own secret, the worker's public; None: not encrypted."""
        self.context, self.endpoint, self.keys = context, endpoint, keys
        self.incarnation, self.counter = incarnation, 0
        self.worker_incarnation = 0
        self.drained = False
        self.backoff = 0.1
        self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self.connect()

    def connect(self) -> None:
        """A fresh socket and session; nothing of the old one counts."""
        self.socket.disable_monitor()
        self.socket.close(linger=0)
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger, self.socket.immediate = 0, True
        self.socket.maxmsgsize = 256 << 20
        if self.keys is not None:
            self.socket.curve_publickey, self.socket.curve_secretkey, self.socket.curve_serverkey = self.keys
        # Its own address: libzmq lets go of the one before when it likes.
        self.handshakes = self.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
            f"inproc://{id(self)}-{self.counter}",
        )
        self.socket.connect(self.endpoint)
        self.counter += 1
        self.welcome: Any = None
        self.said_hello = False
        self.sent_batches = self.sent_bytes = self.granted_batches = self.granted_bytes = 0
        self.heard = self.sent = time.monotonic()
        self.retry_at = self.heard + self.backoff
        self.backoff = min(5.0, 2 * self.backoff)

    def refused(self) -> bool:
        """The worker turned the handshake down; a new socket would fare no better."""
        try:
            return parse_monitor_message(self.handshakes.recv_multipart(zmq.DONTWAIT)) is not None
        except zmq.Again:
            return False

    @property
    def free(self) -> int:
        if self.welcome is None or self.sent_bytes >= self.granted_bytes:
            return 0
        return self.granted_batches - self.sent_batches

    def send(self, message: Any, payload: list[bytes]) -> bool:
        message.session.incarnation, message.session.counter = self.incarnation, self.counter
        name = type(message).__name__
        kind = wire.MessageType.Value("".join("_" + c if c.isupper() else c for c in name).lstrip("_").upper())
        frames = [MAGIC + bytes([kind, 0, 0]), message.SerializeToString(), *payload]
        try:
            self.socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            return False
        self.sent = time.monotonic()
        return True

    def receive(self) -> Any:
        """The next message of this session, or None."""
        while True:
            try:
                preamble, header = self.socket.recv_multipart(zmq.DONTWAIT)[:2]
            except zmq.Again:
                return None
            name = wire.MessageType.Name(preamble[5])
            message = getattr(wire, "".join(part.capitalize() for part in name.split("_")))()
            message.ParseFromString(header)
            if (message.session.incarnation, message.session.counter) == (self.incarnation, self.counter):
                self.heard = time.monotonic()
                return message


class Loader:
    """Passes over the rows; leases until they are settled."""

    def __init__(self, args: argparse.Namespace, rows: list[list[float]]) -> None:
        self.args, self.rows = args, rows
        context = zmq.Context(1)
        incarnation = time.time_ns()
        keys = None
        if args.keys:
            public, secret = zmq.auth.load_certificate(args.keys)
            worker, _ = zmq.auth.load_certificate(args.worker_key or args.keys.parent / "worker.key")
            assert secret is not None, f"{args.keys} holds no secret key"
            keys = (public, secret, worker)
        self.links = [Link(context, endpoint, incarnation, keys) for endpoint in args.endpoint]
        self.position: Any = None  # of the newest run
        self.rewound = False
        self.leases: dict[tuple[int, int], dict[str, Any]] = {}  # (pass, seq) -> who has it, attempt
        self.end: Any = None  # EpochEnd that is not acked
        self.ended_on: set[tuple[str, int]] = set()  # sessions that were told of it
        self.orders: dict[int, list[int]] = {}  # of the pass in hand
        self.done_run = 0  # newest run that is said to be done
        self.settled = self.kept = 0

    # ---------------------------------------------------------------- what comes
    def turn(self) -> None:
        """Takes in what arrived, keeps the sessions alive, sends what may be sent."""
        poller = zmq.Poller()
        for link in self.links:
            poller.register(link.socket, zmq.POLLIN)
        poller.poll(50)
        for link in self.links:
            while (message := link.receive()) is not None:
                self.on_message(link, message)
        now = time.monotonic()
        for link in self.links:
            if link.welcome is None and link.refused():
                sys.exit(f"{link.endpoint} refuses the handshake: is this key in its client_keys, does it use keys?")
            if not link.said_hello:
                link.said_hello = link.send(self.hello(), [])
            if link.welcome is None:
                if now > link.retry_at + 5:
                    self.lose(link, "no Welcome")
            elif now - link.heard > link.welcome.liveness_ms / 1000:
                self.lose(link, "silent")
            elif now - link.sent > link.welcome.heartbeat_ms / 1000 / 2:
                run = self.position.run if self.position is not None else 0
                if not link.send(wire.Heartbeat(run=run), []):
                    self.lose(link, "takes nothing")
        self.pump()

    def hello(self) -> Any:
        a = self.args
        hello = wire.Hello(
            protocol_min=1, protocol_max=1, role=wire.ROLE_LOADER, job=a.job, name=f"external {a.index}",
            loader_index=a.index, loader_count=a.count, max_batch_bytes=a.batch * (4 * self.width + 8),
        )  # fmt: skip
        hello.fingerprint.data_size, hello.fingerprint.batch_size = len(self.rows), a.batch
        hello.fingerprint.seed = a.seed
        return hello

    @property
    def done(self) -> bool:
        """Without a position it is the end of a job before this one, which the workers still remember."""
        return self.position is not None and self.done_run >= self.position.run

    @property
    def width(self) -> int:
        return len(self.rows[0]) - 1

    def on_message(self, link: Link, m: Any) -> None:
        run = self.position.run if self.position is not None else 0
        if isinstance(m, wire.Welcome):
            died = link.worker_incarnation not in (0, m.worker_incarnation) and not link.drained
            link.welcome, link.worker_incarnation, link.drained, link.backoff = m, m.worker_incarnation, False, 0.1
            for lease in self.leases.values() if died else ():  # 6
                if lease["was"] is link:
                    lease["deaths"] += lease["suspect"]
                    lease["suspect"] = True
        elif isinstance(m, wire.Credit):
            link.granted_batches = max(link.granted_batches, m.batches)
            link.granted_bytes = max(link.granted_bytes, m.bytes)
        elif isinstance(m, wire.Position) and m.run > run:  # 2
            self.position, self.rewound = m, True
            self.leases.clear()
            self.end = None
        elif isinstance(m, wire.Settled) and m.run == run:  # 3
            for number, seq, kept in zip(getattr(m.keys, "pass"), m.keys.seq, m.kept, strict=True):
                if self.leases.pop((number, seq), None) is not None:
                    self.settled += 1
                    self.kept += kept
        elif isinstance(m, wire.Return) and m.run == run:  # 4
            for key in zip(getattr(m.keys, "pass"), m.keys.seq, strict=True):
                if key in self.leases and self.leases[key]["link"] is link:
                    self.take_back(self.leases[key])
                    if m.reason == wire.RETURN_LANE_HUNG:  # another suspect is there
                        self.leases[key].update(was=None, not_before=time.monotonic() + 0.05)
        elif isinstance(m, wire.EpochAck) and m.run == run:  # 5
            if self.end is not None and getattr(m, "pass") == getattr(self.end, "pass"):
                self.end = None
        elif isinstance(m, wire.Drain):
            link.drained = True
        elif isinstance(m, wire.Goodbye):
            if m.reason == wire.GOODBYE_DONE:  # 7
                self.done_run = max(self.done_run, m.run)
            else:
                link.drained = True
                self.lose(link, "it left")
        elif isinstance(m, wire.Error):
            self.on_error(link, m)

    def on_error(self, link: Link, e: Any) -> None:
        name = wire.ErrorCode.Name(e.code)
        if e.code == wire.SUPERSEDED and link.worker_incarnation == 0:
            for each in self.links:
                each.incarnation = max(each.incarnation, e.current + 1)
            self.lose(link, "another incarnation was here")
        elif e.code in (wire.SUPERSEDED, wire.JOB_MISMATCH, wire.PROTOCOL_VERSION, wire.BUDGET_TOO_SMALL) or (
            e.code == wire.NOT_ALLOWED and e.fatal  # not with this key
        ):
            sys.exit(f"{link.endpoint} refuses this loader: {name}: {e.text} {e.hint}")
        else:
            print(f"{link.endpoint} says {name}: {e.text} {e.hint}", file=sys.stderr)
            if e.fatal or e.code in (wire.HELLO_REQUIRED, wire.DRAINING):
                self.lose(link, name)

    def lose(self, link: Link, why: str) -> None:
        print(f"{link.endpoint}: {why}; connecting anew", file=sys.stderr)
        link.connect()
        for lease in self.leases.values():  # 4
            if lease["link"] is link:
                self.take_back(lease)

    @staticmethod
    def take_back(lease: dict[str, Any]) -> None:
        lease.update(link=None, was=lease["link"], attempt=lease["attempt"] + 1)

    # ---------------------------------------------------------------- what goes
    def pump(self) -> None:
        """Sends waiting leases, oldest first, to the worker with most credit left; and the end of the pass."""
        now = time.monotonic()
        waiting = (k for k, lease in self.leases.items() if lease["link"] is None and lease["not_before"] <= now)
        for key in sorted(waiting):
            best = max(self.links, key=lambda link: link.free)
            if best.free <= 0:
                break
            self.send_batch(best, key)
        if self.end is not None:
            for link in self.links:
                session = (link.endpoint, link.counter)
                if link.welcome is not None and session not in self.ended_on and link.send(self.end, []):
                    self.ended_on.add(session)

    def send_batch(self, link: Link, key: tuple[int, int]) -> None:
        lease, ids = self.leases[key], self.ids(*key)
        x = array.array("f", (v for i in ids for v in self.rows[i][:-1]))
        y = array.array("q", (int(self.rows[i][-1]) for i in ids))
        if sys.byteorder == "big":
            x.byteswap()
            y.byteswap()
        m = wire.Candidates(run=self.position.run, epoch=key[0], attempt=lease["attempt"], sample_id=ids)
        m.key.loader, m.key.seq = self.args.index, key[1]
        setattr(m.key, "pass", key[0])
        m.suspect, m.unscored = lease["suspect"], lease["deaths"] >= 2
        # A trainer's batch is a tuple (x, y): its fields are named "0" and "1".
        m.tensor.add(name="0", dtype="DTYPE_FLOAT32", shape=[len(ids), self.width], frame=0)
        m.tensor.add(name="1", dtype="DTYPE_INT64", shape=[len(ids)], frame=1)
        if not link.send(m, [x.tobytes(), y.tobytes()]):
            self.lose(link, "takes nothing")
            return
        lease["link"] = link
        link.sent_batches += 1
        link.sent_bytes += 4 * len(x) + 8 * len(y)

    # ---------------------------------------------------------------- the data
    def shard(self, number: int) -> list[int]:
        """The order is a function of (seed, pass) alone: 1."""
        if number not in self.orders:
            ids = list(range(self.args.index, len(self.rows), self.args.count))
            random.Random(self.args.seed * 1_000_003 + number).shuffle(ids)
            self.orders = {number: ids}
        return self.orders[number]

    def ids(self, number: int, seq: int) -> list[int]:
        return self.shard(number)[seq * self.args.batch : (seq + 1) * self.args.batch]

    def run(self) -> None:
        """Pass after pass; begins again wherever a new run stands."""
        number = 0
        deadline = time.monotonic() + self.args.timeout
        while not self.done:
            if self.rewound:
                self.rewound = False
                d = self.position.decided
                number = d.next_pass[self.args.index] if self.args.index < len(d.next_pass) else 0
            elif self.position is None:
                if time.monotonic() > deadline:
                    sys.exit("no position: are the workers and the trainer of this loader's rank running?")
                self.turn()
                continue
            if self.args.epochs and number >= self.args.epochs and not self.position.repeat:
                break
            self.run_pass(number)
            number += 1
        for link in self.links:
            if link.welcome is not None:
                run = self.position.run if self.position is not None else 0
                link.send(wire.Goodbye(reason=wire.GOODBYE_LEAVING, run=run), [])
            link.socket.close(linger=1000)

    def run_pass(self, number: int) -> None:
        d, batches = self.position.decided, -(-len(self.shard(number)) // self.args.batch)
        decided = {
            seq
            for i in range(len(d.loader))
            if d.loader[i] == self.args.index and getattr(d, "pass")[i] == number
            for seq in range(d.begin[i], d.end[i])
        }
        for seq in range(batches):
            while sum(lease["link"] is None for lease in self.leases.values()) >= 2:  # at most 2 that wait
                self.turn()
                if self.rewound or self.done:
                    return
            if seq not in decided:
                self.leases[number, seq] = {
                    "link": None, "was": None, "attempt": 0, "suspect": False, "deaths": 0, "not_before": 0.0,
                }  # fmt: skip
        final = bool(self.args.epochs) and number + 1 >= self.args.epochs and not self.position.repeat
        self.end = wire.EpochEnd(
            run=self.position.run, loader=self.args.index, epoch=number, batches=batches, final=final
        )
        setattr(self.end, "pass", number)
        self.ended_on.clear()
        # World 1: acked when the epoch is over everywhere; else at once. The last pass also waits for its leases.
        while not (self.rewound or self.done) and (self.end is not None or (final and self.leases)):
            self.turn()


def main() -> None:
    parser = argparse.ArgumentParser(description="Feeds the rows of a CSV file to siftd's workers.")
    parser.add_argument("--csv", type=Path, required=True, help="numbers; the last column is the class")
    parser.add_argument("--endpoint", action="append", required=True, help="of a worker; may be repeated")
    parser.add_argument("--proto", type=Path, default=Path("proto"), help="folder of the .proto files")
    parser.add_argument("--index", type=int, default=0, help="of this loader")
    parser.add_argument("--count", type=int, default=1, help="loaders of the job")
    parser.add_argument("--epochs", type=int, default=0, help="0: until the trainer is done")
    parser.add_argument("--batch", type=int, default=64, help="rows")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--job", default="default")
    parser.add_argument("--keys", type=Path, help="secret key file of this loader, for workers with keys")
    parser.add_argument("--worker-key", type=Path, help="their public key file; default: worker.key beside --keys")
    parser.add_argument("--timeout", type=float, default=120, help="seconds to wait for workers and trainer")
    args = parser.parse_args()
    generate(args.proto)
    with open(args.csv, newline="") as file:
        rows = [[float(v) for v in line] for line in csv.reader(file)]
    loader = Loader(args, rows)
    loader.run()
    print(f"settled {loader.settled} batches, {loader.kept} rows kept")


if __name__ == "__main__":
    main()
