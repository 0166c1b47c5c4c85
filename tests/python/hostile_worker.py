# SPDX-License-Identifier: Apache-2.0
"""A worker that keeps the rules up to a point, and then says what a test wants."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import zmq

from siftd._wire import codec
from siftd._wire.codec import wire_pb2

Said = tuple[Any, Sequence[Any]]  # message and payload; a list of bytes instead of a message: frames as they are
LARGE = 1 << 40


class HostileWorker:
    """Welcomes everybody, takes every model, gives credit; `answer` says what follows Candidates.

    `answer(message, payload)`: what to send back, in order. `welcome` and `greeting` change what a Hello gets.
    `to_trainer`: each is told the Hello of a trainer; what it gives is sent once that trainer gave credit.
    """

    def __init__(
        self,
        answer: Callable[[Any, Sequence[Any]], Iterable[Any]] | None = None,
        *,
        welcome: dict[str, Any] | None = None,
        greeting: Callable[[Any], Iterable[Any] | None] | None = None,
        to_trainer: Sequence[Callable[[Any], Any]] = (),
    ) -> None:
        self.heard: Counter[str] = Counter()  # messages, by name
        self.hellos: Counter[str] = Counter()  # by role
        self.error: BaseException | None = None
        self._answer, self._greeting, self._to_trainer = answer or (lambda m, p: ()), greeting, to_trainer
        self._welcome = {
            "worker_incarnation": 7, "worker_name": "hostile", "heartbeat_ms": 200, "liveness_ms": 5000, "protocol": 1,
            "max_frame_bytes": LARGE, "max_batch_bytes": 1 << 20, "max_rows": 1 << 20, **(welcome or {}),
        }  # fmt: skip
        self._context: zmq.Context[Any] = zmq.Context()
        self._router: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        port = self._router.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._sessions: dict[bytes, Any] = {}  # Hello by routing id
        self._begun: dict[bytes, Any] = {}
        self._told: set[bytes] = set()  # trainers
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> HostileWorker:
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        self._thread.join(10)
        self._context.destroy(linger=0)
        assert self.error is None, self.error

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                if self._router.poll(50):
                    peer, *frames = self._router.recv_multipart()
                    self._on(peer, *codec.decode(frames))
                for peer in list(self._sessions):
                    self._send(peer, wire_pb2.Heartbeat())
        except BaseException as error:
            self.error = error

    def _send(self, peer: bytes, message: Any, payload: Sequence[Any] = ()) -> None:
        if isinstance(message, list):
            self._router.send_multipart([peer, *message])
            return
        if message.session.counter == 0 and peer in self._sessions:
            message.session.CopyFrom(self._sessions[peer].session)
        self._router.send_multipart([peer, *codec.encode(message, payload)])

    def _say(self, peer: bytes, what: Iterable[Any]) -> None:
        for said in what:
            message, payload = said if isinstance(said, tuple) else (said, ())
            self._send(peer, message, payload)

    def _on(self, peer: bytes, message: Any, payload: Sequence[Any]) -> None:
        self.heard[message.DESCRIPTOR.name] += 1
        match message:
            case wire_pb2.Hello():
                self.hellos[wire_pb2.Role.Name(message.role)] += 1
                self._sessions[peer] = message
                said = self._greeting(message) if self._greeting is not None else None
                self._say(peer, self._usual_greeting(message) if said is None else said)
            case wire_pb2.ModelBegin():
                self._begun[peer] = message
            case wire_pb2.ModelChunk():
                self._model_ack(peer, wire_pb2.MODEL_STATE_RECEIVING, message.index + 1)
            case wire_pb2.ModelCommit():
                self._model_ack(peer, wire_pb2.MODEL_STATE_APPLIED, self._begun[peer].chunks)
            case wire_pb2.Credit() if peer not in self._told:
                self._told.add(peer)
                self._say(peer, [say(self._sessions[peer]) for say in self._to_trainer])
            case wire_pb2.Candidates():
                self._say(peer, self._answer(message, payload))

    def _usual_greeting(self, hello: Any) -> list[Any]:
        said: list[Any] = [wire_pb2.Welcome(**self._welcome)]
        if hello.role == wire_pb2.ROLE_LOADER:
            said.append(wire_pb2.Credit(batches=1000, bytes=LARGE))
        return said

    def _model_ack(self, peer: bytes, state: int, chunks: int) -> None:
        begin = self._begun[peer]
        self._send(peer, wire_pb2.ModelAck(run=begin.run, version=begin.version, state=state, chunks=chunks))


def verdict(asked: Any, kept: Iterable[int] | None = None, **more: Any) -> Any:
    """A sound one: all rows of the Candidates, or `kept` of them."""
    rows = len(asked.sample_id)
    fields: dict[str, Any] = {
        "outcome": wire_pb2.OUTCOME_DECIDED, "rows": rows, "column": "loss",
        "kept": range(rows) if kept is None else kept,
    }  # fmt: skip
    message = wire_pb2.Verdict(run=asked.run, epoch=asked.epoch, decision=wire_pb2.Decision(**{**fields, **more}))
    message.key.CopyFrom(asked.key)
    return message
