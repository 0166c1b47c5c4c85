# SPDX-License-Identifier: Apache-2.0
"""Workers with keys as processes: who gets in, as what, until when, and what the others are told."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.auth

import siftd
from keys import Keys, LockedWorker
from siftd._wire import codec
from siftd._wire.codec import wire_pb2
from siftd.errors import ConfigError, SiftdTimeoutError, WorkerError
from support import Rows, Worker, binary, toy_model, wait_until

ROWS, BATCH = 160, 16
DATA = Rows(ROWS)


def batches() -> list[Any]:
    return [(DATA.x[i : i + BATCH], DATA.y[i : i + BATCH]) for i in range(0, ROWS, BATCH)]


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture
def locked(tmp_path: Path, keys: Keys) -> Iterator[LockedWorker]:
    with LockedWorker(tmp_path, keys) as worker:
        yield worker


def sifting(worker: Worker, keys: str | None, **options: Any) -> siftd.SiftingDataLoader:
    options.setdefault("start_timeout", 60)
    return siftd.SiftingDataLoader(
        batches(), model=toy_model(), policy=siftd.Uniform(0.5), workers=[worker.endpoint], keys=keys, seed=7, **options
    )


def status(worker: Worker, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([binary(), "status", *flags, worker.endpoint], capture_output=True, text=True, timeout=60)


class Peer:
    """A bare DEALER."""

    def __init__(self, worker: Worker, keys: tuple[str, Path] | None = None) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        if keys is not None:
            self.socket.curve_publickey, self.socket.curve_secretkey = zmq.auth.load_certificate(keys[0])
            self.socket.curve_serverkey, _ = zmq.auth.load_certificate(keys[1])
        self.socket.connect(worker.endpoint)

    def say(self, message: Any, counter: int = 1) -> None:
        message.session.incarnation, message.session.counter = 9, counter
        self.socket.send_multipart([bytes(f) for f in codec.encode(message, ())])

    def hear(self, timeout: float = 30.0) -> Any:
        assert self.socket.poll(1000 * timeout), "no answer"
        message, _ = codec.decode(self.socket.recv_multipart(copy=False))
        return message

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self._context.destroy(linger=0)


def hello(role: int, **fields: Any) -> Any:
    return wire_pb2.Hello(protocol_min=1, protocol_max=1, role=role, job="default", name="peer", **fields)


# ------------------------------------------------------------------ getting in
@pytest.mark.usefixtures("either_client")
def test_a_drop_in_trains_over_encrypted_connections(locked: LockedWorker, keys: Keys) -> None:
    with sifting(locked, keys.client("alice", "loader", "publisher")) as loader:
        assert sum(len(y) for _, y in loader) == loader.stats().kept > 0
        assert loader.stats().decided == ROWS
    assert "key 'alice'" in locked.log.read_text()


@pytest.mark.usefixtures("either_client")
def test_a_stream_trains_over_encrypted_connections(locked: LockedWorker, keys: Keys) -> None:
    feeder = siftd.CandidateLoader([locked.endpoint], batches(), epochs=1, keys=keys.client("feeder", "loader"))
    thread = threading.Thread(target=feeder.run)
    thread.start()
    try:
        with siftd.StreamLoader(
            [locked.endpoint],
            BATCH,
            model=toy_model(),
            example_batch=(DATA.x[:8], DATA.y[:8]),
            policy=siftd.Uniform(0.5),
            keys=keys.client("trainer", "trainer", "publisher"),
        ) as loader:
            rows = sum(len(y) for _, y in loader)
            assert rows == loader.stats().kept > 0
        thread.join(60)
        assert not thread.is_alive()
    finally:
        feeder.close()


def test_the_environment_names_the_keys(locked: LockedWorker, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIFTD_KEYS", keys.client("alice", "loader", "publisher", "monitor"))
    with sifting(locked, None) as loader:
        assert sum(len(y) for _, y in loader) == loader.stats().kept > 0
    assert status(locked).returncode == 0


def test_workers_that_start_here_need_no_keys(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    own = keys.client("alice", "loader", "publisher")
    monkeypatch.setenv("SIFTD_KEYS", own)
    with siftd.SiftingDataLoader(batches(), model=toy_model(), workers=1) as loader:
        assert sum(len(y) for _, y in loader) == loader.stats().kept
    with pytest.raises(ConfigError, match="keys is .*None where workers start here"):
        siftd.SiftingDataLoader(batches(), model=toy_model(), workers="auto", keys=own)


def test_an_encrypted_worker_may_be_reached_from_other_hosts(tmp_path: Path, keys: Keys) -> None:
    with LockedWorker(tmp_path, keys, "--endpoint", "tcp://0.0.0.0:0") as worker:
        worker.endpoint = worker.endpoint.replace("0.0.0.0", "127.0.0.1")
        assert worker.status()["worker_name"] == "w"


# ------------------------------------------------------------------ refused handshakes
@pytest.mark.usefixtures("either_client")
def test_an_unknown_key_is_an_error_that_names_endpoint_stage_and_remedy(
    locked: LockedWorker, keys: Keys, tmp_path: Path
) -> None:
    stranger = Keys(tmp_path / "other").client("stranger", "loader")
    ours = keys.folder / "worker.key"
    with sifting(locked, stranger, worker_key=ours) as loader, pytest.raises(WorkerError) as raised:
        next(iter(loader))
    text = str(raised.value)
    assert locked.endpoint in text and "handshake refused" in text and "client_keys" in text, text
    public, secret = zmq.auth.load_certificate(stranger)
    assert secret is not None
    assert public.decode() in text and secret.decode() not in text + repr(loader)
    assert int(locked.status()["errors"]["HANDSHAKE_REFUSED"]) >= 1
    assert public.decode() in locked.log.read_text()


@pytest.mark.usefixtures("either_client")
def test_a_client_without_keys_is_told_so(locked: LockedWorker) -> None:
    with sifting(locked, None) as loader, pytest.raises(WorkerError, match="encrypted connections only.*SIFTD_KEYS"):
        next(iter(loader))
    with (
        siftd.CandidateLoader([locked.endpoint], batches(), epochs=1) as feeder,
        pytest.raises(WorkerError, match="encrypted connections only"),
    ):
        feeder.run()


@pytest.mark.usefixtures("either_client")
def test_a_client_with_keys_is_told_of_a_worker_without(worker: Worker, keys: Keys) -> None:
    own = keys.client("alice", "loader", "publisher")
    with sifting(worker, own) as loader, pytest.raises(WorkerError, match="does not encrypt.*--key-file"):
        next(iter(loader))
    with (
        siftd.CandidateLoader([worker.endpoint], batches(), epochs=1, keys=own) as feeder,
        pytest.raises(WorkerError, match="does not encrypt"),
    ):
        feeder.run()


def test_another_workers_public_key_is_named_at_the_deadline(locked: LockedWorker, keys: Keys, tmp_path: Path) -> None:
    other = Keys(tmp_path / "other")
    own = keys.client("alice", "loader", "publisher")
    wrong = other.folder / "worker.key"
    with (
        sifting(locked, own, worker_key=wrong, start_timeout=6) as loader,
        pytest.raises(
            SiftdTimeoutError, match=f"handshake failed.*{re.escape(repr(str(wrong)))} is not the public key"
        ),
    ):
        next(iter(loader))


def test_status_says_why_there_is_no_answer(locked: LockedWorker, worker: Worker, keys: Keys) -> None:
    answer = status(locked)
    assert (answer.returncode, "encrypted connections only" in answer.stderr) == (4, True), answer.stderr
    answer = status(worker, "--keys", keys.monitor)
    assert (answer.returncode, "does not encrypt" in answer.stderr) == (4, True), answer.stderr
    answer = status(locked, "--keys", keys.client("alice", "loader"))
    assert (answer.returncode, "role is monitor" in answer.stderr) == (4, True), answer.stderr
    answer = status(locked, "--keys", str(keys.folder / "worker.key"))
    assert answer.returncode == 3
    assert status(locked, "--keys", keys.monitor).returncode == 0


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda p: p.chmod(0o644), "chmod 600"),
        (lambda p: p.write_text("nothing"), "public-key of 40 characters"),
        (lambda p: p.unlink(), "siftd keygen"),
        (lambda p: p.write_text(re.sub(r'public-key = "..', 'public-key = "00', p.read_text())), "one pair"),
        (lambda p: (p.parent / "worker.key").write_text(p.read_text()), "worker.key, alone"),
        (lambda p: (p.parent / "worker.key").chmod(0o666), "chmod 644"),
    ],
    ids=["readable", "no key", "missing", "two pairs", "secret as public", "writable"],
)
def test_unsound_key_files_are_refused_before_anything_starts(keys: Keys, spoil: Any, text: str) -> None:
    own = keys.client("alice", "loader")
    spoil(Path(own))
    with pytest.raises(ConfigError, match=text):
        siftd.CandidateLoader(["tcp://127.0.0.1:1"], batches(), keys=own)
    with pytest.raises(ConfigError, match=text):
        siftd.SiftingDataLoader(batches(), model=toy_model(), workers=["tcp://127.0.0.1:1"], keys=own)


# ------------------------------------------------------------------ roles
@pytest.mark.usefixtures("either_client")
def test_a_loaders_key_publishes_no_weights(locked: LockedWorker, keys: Keys) -> None:
    with sifting(locked, keys.client("alice", "loader")) as loader, pytest.raises(WorkerError) as raised:
        next(iter(loader))
    assert "role is publisher; allowed for key 'alice': loader" in str(raised.value)
    now = locked.status()
    assert now["model_version"] == "0" and now["run"] == "0"
    assert int(now["errors"]["NOT_ALLOWED"]) >= 1


def test_a_monitors_key_subscribes_to_nothing(locked: LockedWorker, keys: Keys) -> None:
    with Peer(locked, (keys.monitor, keys.folder / "worker.key")) as peer:
        peer.say(hello(wire_pb2.ROLE_TRAINER, run=5, world=1))
        error = peer.hear()
        assert (error.code, error.fatal) == (wire_pb2.NOT_ALLOWED, True)
        assert "role is trainer; allowed for key 'test-monitor': monitor" in error.text
        peer.say(hello(wire_pb2.ROLE_MONITOR), 2)
        assert isinstance(peer.hear(), wire_pb2.Welcome)
        peer.say(wire_pb2.Credit(batches=9, bytes=9999), 2)
        assert peer.hear().code == wire_pb2.NOT_ALLOWED


def test_a_feeder_with_the_wrong_role_ends_with_an_error(locked: LockedWorker, keys: Keys) -> None:
    with (
        siftd.CandidateLoader([locked.endpoint], batches(), epochs=1, keys=keys.client("m", "monitor")) as feeder,
        pytest.raises(WorkerError, match="role is loader; allowed for key 'm': monitor"),
    ):
        feeder.run()


def test_an_artifact_of_another_digest_is_refused_with_both(tmp_path: Path, keys: Keys) -> None:
    pinned = "ab" * 32
    with LockedWorker(tmp_path, keys, "--artifact-sha256", pinned) as worker:
        with (
            sifting(worker, keys.client("alice", "loader", "publisher")) as loader,
            pytest.raises(WorkerError, match=f"SHA-256 is [0-9a-f]{{64}}; allowed .*: {pinned}"),
        ):
            next(iter(loader))
        assert int(worker.status()["errors"]["ARTIFACT_REFUSED"]) >= 1


def test_a_local_artifact_is_held_against_the_pinned_digest(tmp_path: Path) -> None:
    path = siftd.export_scorer(toy_model(), "cross_entropy", batches()[0]).save(tmp_path / "scorer.pt")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with Worker(tmp_path, "--artifact", str(path), "--artifact-sha256", digest) as worker:
        assert worker.status()["not_ready_reason"] == "waits for a run"
    answer = subprocess.run(
        [binary(), "worker", "--artifact", str(path), "--artifact-sha256", "0" * 64],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert answer.returncode == 3
    assert digest in answer.stderr and "0" * 64 in answer.stderr


# ------------------------------------------------------------------ rotation
def test_keys_come_and_go_without_a_restart(locked: LockedWorker, keys: Keys) -> None:
    late = keys.client("late", "monitor")
    assert status(locked, "--keys", late).returncode == 0, "it was made after the worker's start"
    with Peer(locked, (late, keys.folder / "worker.key")) as peer:
        peer.say(hello(wire_pb2.ROLE_MONITOR))
        assert isinstance(peer.hear(), wire_pb2.Welcome)
        keys.public("late", "monitor").unlink()
        while not isinstance(message := peer.hear(), wire_pb2.Error):
            assert isinstance(message, wire_pb2.Heartbeat)
        assert (message.code, message.fatal) == (wire_pb2.NOT_ALLOWED, True)
        assert "may not be a monitor any more" in message.text
        peer.say(wire_pb2.Status())
        wait_until("the end of its session", lambda: _peers(locked) == 0)
        assert "HELLO_REQUIRED" not in locked.status()["errors"], "it is not heard any more"
    assert "its key was taken away" in locked.log.read_text()
    answer = status(locked, "--keys", late)
    assert (answer.returncode, "does not know the key" in answer.stderr) == (4, True), answer.stderr


def _peers(worker: LockedWorker) -> int:
    """But for the one that asks."""
    return len(worker.status()["peer"]) - 1


@pytest.mark.usefixtures("either_client")
def test_a_key_that_is_taken_away_ends_the_training_with_an_error(locked: LockedWorker, keys: Keys) -> None:
    feeder = siftd.CandidateLoader([locked.endpoint], batches(), keys=keys.client("feeder", "loader"))
    failed: list[BaseException] = []

    def feed() -> None:
        try:
            feeder.run()
        except WorkerError as error:
            failed.append(error)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        with siftd.StreamLoader(
            [locked.endpoint], BATCH, model=toy_model(), example_batch=(DATA.x[:8], DATA.y[:8]),
            policy=siftd.Uniform(0.5), keys=keys.client("trainer", "trainer", "publisher"), linger=1,
        ) as loader:  # fmt: skip
            assert next(iter(loader))
            keys.public("feeder", "loader").unlink()
            thread.join(60)
            assert not thread.is_alive()
        assert "may not be a loader any more" in str(failed[0])
    finally:
        feeder.close()


# ------------------------------------------------------------------ limits
def test_who_breaks_the_rules_is_cut_and_the_others_go_on(tmp_path: Path, keys: Keys) -> None:
    with (
        LockedWorker(tmp_path, keys, "--max-breaches", "5", "--http", "127.0.0.1:0") as worker,
        Peer(worker, (keys.client("rude", "loader"), keys.folder / "worker.key")) as rude,
    ):
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set():
                try:
                    rude.socket.send_multipart([b"SFTD\x01\x04\x00\x00", os.urandom(64), b"x" * 65536], zmq.DONTWAIT)
                except zmq.Again:
                    rude.socket.poll(20, zmq.POLLOUT)

        flooder = threading.Thread(target=flood)
        flooder.start()
        try:
            wait_until("the cut", lambda: worker.status()["errors"].get("PEER_CUT") == "1")
            with sifting(worker, keys.client("alice", "loader", "publisher"), starve_timeout=60) as loader:
                assert sum(len(y) for _, y in loader) == loader.stats().kept
                assert (loader.stats().decided, loader.stats().unsifted) == (ROWS, 0)
        finally:
            stop.set()
            flooder.join(30)
        errors = worker.status()["errors"]
        assert (errors["MALFORMED"], errors["PEER_CUT"]) == ("5", "1"), "it was answered five times"
        assert "of key 'rude' cut" in worker.log.read_text()
        http = re.search(r"http=(\S+)", worker.ready_line())
        assert http is not None

        def metrics() -> str:
            with urllib.request.urlopen(f"http://{http[1]}/metrics", timeout=10) as answer:
                return str(answer.read().decode())

        wait_until("the counter", lambda: 'siftd_errors_total{code="PEER_CUT"} 1' in metrics())
        _, secret = zmq.auth.load_certificate(keys.folder / "worker.key_secret")
        assert secret is not None and secret.decode() not in metrics() + worker.log.read_text()


def test_the_number_of_peers_is_bounded(tmp_path: Path, keys: Keys) -> None:
    files = (keys.client("many", "loader"), keys.folder / "worker.key")
    with LockedWorker(tmp_path, keys, "--max-peers", "2") as worker:
        with Peer(worker, files) as a, Peer(worker, files) as b, Peer(worker, files) as c:
            for index, peer in enumerate((a, b)):
                peer.say(hello(wire_pb2.ROLE_LOADER, loader_index=index, loader_count=8, max_batch_bytes=1024))
                assert isinstance(peer.hear(), wire_pb2.Welcome)
            c.say(hello(wire_pb2.ROLE_LOADER, loader_index=2, loader_count=8, max_batch_bytes=1024))
            error = c.hear()
            assert (error.code, error.fatal) == (wire_pb2.NOT_ALLOWED, False)
            assert "2 peers are connected; allowed: 2 (max_peers)" in error.text
        assert worker.status()["worker_name"] == "w", "a monitor has room of its own"


# ------------------------------------------------------------------ local workers
def tcp_listeners(pid: int) -> list[str]:
    """Inodes of listening TCP sockets that the process holds."""
    held = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(fd)))
        except FileNotFoundError:
            continue
    lines = [line.split() for n in ("tcp", "tcp6") for line in Path(f"/proc/net/{n}").read_text().splitlines()[1:]]
    return [line[9] for line in lines if line[3] == "0A" and line[9] in held]


def test_workers_that_a_drop_in_starts_are_reachable_by_nobody_else(worker: Worker) -> None:
    assert tcp_listeners(worker.process.pid), "this one listens, and is seen to"
    with siftd.SiftingDataLoader(batches(), model=toy_model(), workers=1) as loader:
        next(iter(loader))
        assert loader._running is not None and loader._running.local is not None
        local = loader._running.local
        folder = Path(local._dir)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_uid == os.geteuid()
        assert [e.removeprefix(f"ipc://{folder}/") for e in loader._running.endpoints] == ["w0.sock"]
        assert [tcp_listeners(pid) for pid in local.pids] == [[]]
    assert not folder.exists()
