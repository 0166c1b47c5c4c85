# SPDX-License-Identifier: Apache-2.0
"""The proxy against a plain echo server: each fault does what it says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from proxy import DOWN, UP, Proxy


@pytest.fixture
def way() -> Iterator[Proxy]:
    """To a server that sends back what it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def echo(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            while data := peer.recv(65536):
                peer.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    proxy = Proxy(f"tcp://127.0.0.1:{server.getsockname()[1]}")
    yield proxy
    proxy.close()
    server.close()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(proxy.endpoint.rsplit(":", 1)[1])), timeout=10)


def receive(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := link.recv(count - len(data))):
        data += piece
    return data


def ended(link: socket.socket) -> bool:
    try:
        return link.recv(1) == b""
    except ConnectionResetError:
        return True


def test_it_carries_both_ways(way: Proxy) -> None:
    with connect(way) as link:
        link.sendall(b"x" * 300_000)
        assert receive(link, 300_000) == b"x" * 300_000
    assert (way.bytes(UP), way.bytes(DOWN)) == (300_000, 300_000)


def test_a_cut_ends_the_connection_and_a_new_one_works(way: Proxy) -> None:
    with connect(way) as link:
        link.sendall(b"a")
        assert receive(link, 1) == b"a"
        way.cut()
        assert ended(link)
    with connect(way) as link:
        link.sendall(b"b")
        assert receive(link, 1) == b"b"


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_a_cut_inside_lets_exactly_so_many_bytes_through(way: Proxy, direction: str) -> None:
    way.cut_inside(direction, 99_999)
    with connect(way) as link, contextlib.suppress(ConnectionError):
        link.sendall(b"x" * 200_000)
        while link.recv(65536):
            pass
    way.wait_cut(direction)
    assert way.bytes(direction) == 100_000


def test_a_hole_tells_nobody_and_gives_back_what_it_held(way: Proxy) -> None:
    with connect(way) as link:
        link.sendall(b"a")
        assert receive(link, 1) == b"a"
        way.hole(DOWN)
        link.sendall(b"b")
        way.wait_bytes(UP, 2)
        link.settimeout(0.2)
        with pytest.raises(TimeoutError):
            link.recv(1)
        link.settimeout(10)
        way.mend()
        assert receive(link, 1) == b"b"


def test_a_flip_changes_one_bit(way: Proxy) -> None:
    way.flip(UP, 1000)
    with connect(way) as link:
        link.sendall(bytes(5000))
        got = receive(link, 5000)
    assert [i for i, b in enumerate(got) if b] == [1000]
    assert got[1000].bit_count() == 1


def test_retarget_to_nobody_refuses(way: Proxy) -> None:
    way.retarget("")
    with connect(way) as link:
        assert ended(link)
    assert way.connections == 0
