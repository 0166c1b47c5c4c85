# SPDX-License-Identifier: Apache-2.0
"""How the handshakes of a client's socket end: why there is no connection, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from siftd._net.keys import ClientKeys

MISMATCH = 0x11000002  # ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
ENDS_BEFORE_WORD = 3  # connections that ended in the handshake; one may be chance
EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


@dataclass(frozen=True)
class Refusal:
    why: str
    for_good: bool  # the worker's word: time alone changes nothing


class HandshakeWatch:
    """Made before the socket connects, closed before it. One thread, the socket's."""

    def __init__(self, link: zmq.Socket[bytes], number: int, keys: ClientKeys | None) -> None:
        """`number`: unlike any other watch's of the context."""
        self._link, self._keys = link, keys
        self._events = link.get_monitor_socket(EVENTS, f"inproc://siftd-handshakes-{number}")
        self._events.linger = 0
        self._ends = 0
        self.connected = False
        self.over = False  # refused: libzmq does not try again

    def look(self) -> Refusal | None:
        """The newest one since the last call. It is to be closed once `connected` or `over`."""
        refusal = None
        while not (self.connected or self.over):
            try:
                event: dict[str, Any] = dict(parse_monitor_message(self._events.recv_multipart(zmq.DONTWAIT)))
            except zmq.Again:
                break
            kind, value = event["event"], event["value"]
            if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.connected = True
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:  # libzmq tries again by itself
                self._ends += 1
                if self._ends % ENDS_BEFORE_WORD == 0:
                    refusal = Refusal(self._ended(), False)
            else:
                self.over = True
                refusal = self._refused(kind, value)
        return refusal

    def _refused(self, kind: int, value: int) -> Refusal:
        keys = self._keys
        if kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH and keys is not None:
            return Refusal(
                f"handshake refused: the worker does not know the key of {keys.files.own!r} (public key "
                f"{keys.public.decode()}); put its .key file into a folder of the worker's client_keys",
                True,
            )
        if kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == MISMATCH:
            if keys is None:
                return Refusal(
                    "handshake refused: the worker takes encrypted connections only; give keys "
                    "(made by `siftd keygen client`; SIFTD_KEYS)",
                    True,
                )
            return Refusal(
                "handshake refused: the worker does not encrypt; start it with --key-file and --client-keys, or "
                "connect without keys",
                True,
            )
        return Refusal(self._ended(), False)

    def _ended(self) -> str:
        """Either end may notice first that only one of them encrypts; the other one sees an end."""
        if self._keys is None:
            return (
                "handshake failed: the connection ends in it; the worker takes encrypted connections only (then give "
                "keys: SIFTD_KEYS), is just ending, or is no siftd worker"
            )
        return (
            f"handshake failed: the connection ends in it; {self._keys.files.worker!r} is not the public key of the "
            "worker there, or that does not encrypt (then start it with --key-file and --client-keys), or it is just "
            "ending"
        )

    def close(self) -> None:
        self._link.disable_monitor()
        self._events.close(linger=0)
