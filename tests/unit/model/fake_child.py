# SPDX-License-Identifier: Apache-2.0
"""Stands in for `python -m siftd._scorer.child`: the same messages, written down a second time, and every way to fail.

Scores as fixture.h does: loss = sum of (x * w) + bias, and its process id as confidence. A row that begins with one of
the numbers below makes it misbehave. Needs no package, so it starts at once.
"""

import os
import signal
import socket
import struct
import sys
import time

READY, UPDATE, SCORE, OK, SCORES, ERROR = range(1, 7)
CRASH, HANG, RAISE, WRONG_MAGIC, WRONG_TYPE, WRONG_SIZE, LONG_ERROR, MEET, CRASH_ONCE, HALF = range(-1, -11, -1)
DEADLY_WEIGHT = 666.0

link = socket.socket(fileno=3)
factory = sys.argv[sys.argv.index("--factory") + 1]
folder = os.environ.get("FAKE_CHILD_DIR", "")
state = [[1.0, 1.0, 1.0], [0.0]]  # w, bias


def receive(size):
    data = link.recv(size, socket.MSG_WAITALL) if size else b""
    if len(data) != size:
        sys.exit(0)
    return data


def send(kind, body=b""):
    link.sendall(b"SFPC" + struct.pack("<IQ", kind, len(body)) + body)


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def mark(name):
    """True for the first that asks."""
    try:
        os.close(os.open(f"{folder}/{name}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def meet():
    """Goes on when two children are here at the same time."""
    mark(f"meet{os.getpid()}")
    while sum(name.startswith("meet") for name in os.listdir(folder)) < 2:
        time.sleep(0.002)


def update():
    run, version, step, count = struct.unpack("<QQQQ", receive(32))
    entries = [struct.unpack("<QQ", receive(16)) for _ in range(count)]
    got = {index: list(struct.unpack(f"<{size // 4}f", receive(size))) for index, size in entries}
    if got.get(0, [0])[0] == DEADLY_WEIGHT:
        crash()
    for index, values in got.items():
        state[index] = values
    send(OK)


def score():
    rows, inputs = struct.unpack("<QQ", receive(16))
    dtype, rank, size, *shape = struct.unpack("<IIQ16q", receive(144))
    assert (inputs, dtype, rank, shape[:3], size) == (1, 9, 2, [rows, 3, 0], rows * 12)
    x = struct.unpack(f"<{rows * 3}f", receive(size))
    w, bias = state[0], state[1][0]
    loss = [sum(a * b for a, b in zip(x[i : i + 3], w)) + bias for i in range(0, rows * 3, 3)]
    reply = struct.pack(f"<{rows}f{rows}f", *loss, *[os.getpid()] * rows)
    first = set(x[::3])
    if CRASH in first or (CRASH_ONCE in first and mark("crashed")):
        crash()
    if HANG in first:
        mark("hangs")
        signal.pause()
    if RAISE in first:
        return send(ERROR, b"ValueError: negative rows")
    if WRONG_MAGIC in first:
        return link.sendall(b"HTTP" + struct.pack("<IQ", SCORES, len(reply)) + reply)
    if WRONG_TYPE in first:
        return send(OK)
    if WRONG_SIZE in first:
        return send(SCORES, reply + b"\0\0\0\0")
    if LONG_ERROR in first:
        return send(ERROR, b"x" * 70000)
    if HALF in first:
        link.sendall(b"SFPC" + struct.pack("<IQ", SCORES, len(reply)) + reply[:3])
        sys.exit(9)
    if MEET in first:
        meet()
    return send(SCORES, reply)


digest = b"0123456789abcdef" * 4
if factory == "fake:fails":
    send(ERROR, b"ImportError: no such model")
    sys.exit(1)
if factory == "fake:exits":
    sys.exit(7)
if factory == "fake:silent":
    signal.pause()
if factory == "fake:fickle" and not mark("first"):
    digest = digest[::-1]
if factory == "fake:inspect":
    blocked = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("SigBlk"))
    files = " ".join(sorted(os.listdir("/proc/self/fd")))
    own_group = os.getpgid(0) == os.getpid()
    text = f"fds {files}; blocked {int(blocked, 16)}; own group {own_group}; stdin {os.readlink('/proc/self/fd/0')}"
    send(ERROR, text.encode())
    sys.exit(1)
send(READY, digest + b"the manifest")
while True:
    magic, kind, size = struct.unpack("<4sIQ", receive(16))
    assert magic == b"SFPC", magic
    update() if kind == UPDATE else score()
