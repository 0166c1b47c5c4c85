# SPDX-License-Identifier: Apache-2.0
"""`python -m siftd._scorer.child`: scores for one lane of a worker with `backend: python`.

The worker starts it with a Unix socket as fd 3. It makes the scorer that --factory names, tells the worker what that
is (READY), and then answers one request after the other until the socket closes. Nothing is traced: the model's own
Python runs, in eval mode.
"""

from __future__ import annotations

import argparse
import os
import pickle
import select
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any

import torch

from siftd._scorer.link import Link, LinkError, Score, Update, first_line
from siftd._select.score_cost import DTYPES, ScoreCost
from siftd.errors import WorkerError
from siftd.python_scorer import SCORER_FILE, Loaded, load_factory

SOCKET_FD = 3
_DEVICE_IS_LOST = 70  # exit code


def from_file() -> Any:
    """The factory of `PythonScorer.from_objects`: what the trainer of this host wrote for its own workers.

    The file is a pickle, which is code. Its name comes from the environment that the trainer gave the worker, and its
    folder is private to the user (mode 0700); nothing of it ever comes over the wire.
    """
    path = os.environ.get(SCORER_FILE)
    if path is None:
        raise WorkerError(f"{SCORER_FILE} is not set: this factory is for workers that a trainer started itself")
    with open(path, "rb") as file:
        return pickle.load(file)


class _Server:
    def __init__(self, link: Link, loaded: Loaded, cost: ScoreCost) -> None:
        self._link, self._loaded, self._cost = link, loaded, cost
        loaded.module.eval().requires_grad_(False)

    def serve(self) -> None:
        """Until the worker closes its end."""
        while (request := self._link.receive()) is not None:
            reply: torch.Tensor | None = None
            try:
                if isinstance(request, Score):
                    reply = self._score(request)
                else:
                    self._update(request)
            except Exception as error:
                self._end_if_device_is_lost(error)
                self._link.error(first_line(error))
                continue
            if reply is None:
                self._link.ok()
            else:
                self._link.scores(reply)

    def _update(self, request: Update) -> None:
        state = self._loaded.state()
        with torch.inference_mode():  # a model may have put tensors of such a forward in their place
            torch._foreach_copy_([state[i] for i in request.tensors], list(request.tensors.values()))

    def _score(self, request: Score) -> torch.Tensor:
        device = self._loaded.device
        with torch.inference_mode():
            fields = self._cost.shrunk([f.to(device, non_blocking=True) for f in request.fields])
            with self._cost.casts(device):
                columns = self._loaded.module(*fields)
            return self._table(columns, request.rows)

    def try_cost(self) -> None:
        """The example batch at this cost. Raises WorkerError where the model can't do it."""
        if self._cost.full:
            return
        fields, device = self._loaded.example, self._loaded.device
        names = ", ".join(
            f"{i.name} {list(f.shape)}" for i, f in zip(self._loaded.manifest.inputs, fields, strict=True)
        )
        asked = f"score_dtype is '{self._cost.dtype}', score_resolution is {self._cost.resolution}; allowed: "
        if self._cost.resolution and not any(f.dim() == 4 for f in fields):
            raise WorkerError(f"{asked}0 for a scorer without images [n, c, h, w]; this one takes {names}")
        try:
            with torch.inference_mode(), self._cost.casts(device):
                self._loaded.module(*self._cost.shrunk(fields))
        except Exception as error:
            text = f"{asked}what this scorer can compute. It takes {names}, and failed: {first_line(error)}"
            raise WorkerError(text) from error

    def _table(self, columns: Sequence[torch.Tensor], rows: int) -> torch.Tensor:
        """float32 [columns, rows], on the CPU."""
        for name, column in zip(self._loaded.manifest.columns, columns, strict=True):
            if column.numel() != rows:
                raise ValueError(f"score column '{name}' has {column.numel()} values for {rows} rows")
        return torch.stack([c.reshape(-1).float() for c in columns]).cpu()

    def _end_if_device_is_lost(self, error: Exception) -> None:
        """A failed assertion on a GPU spoils it for the whole process: the worker starts another."""
        if self._loaded.device.type != "cuda":
            return
        try:
            torch.cuda.synchronize(self._loaded.device)
        except RuntimeError:
            traceback.print_exception(error)
            os._exit(_DEVICE_IS_LOST)


def _end_with_worker(fd: int) -> None:
    """Runs on a thread of its own, so that a forward that never returns does not outlive the worker."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    poll.poll()
    os._exit(0)


def _use(device: torch.device) -> None:
    """What the user's code puts on "cuda" goes there, too. Raises WorkerError when the device is not there."""
    if device.type != "cuda":
        return
    index, count = device.index or 0, torch.cuda.device_count()
    if index >= count:
        raise WorkerError(f"device is '{device}'; PyTorch {torch.__version__} sees {count} CUDA devices here")
    torch.cuda.set_device(index)


def main() -> int:
    parser = argparse.ArgumentParser(prog="siftd._scorer.child")
    parser.add_argument("--factory", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--score-dtype", choices=DTYPES, default="float32")
    parser.add_argument("--score-resolution", type=int, default=0)
    options = parser.parse_args()
    connection = socket.socket(fileno=SOCKET_FD)
    connection.set_inheritable(False)
    threading.Thread(target=_end_with_worker, args=(SOCKET_FD,), name="siftd-worker", daemon=True).start()
    device = torch.device(options.device)
    link = Link(connection, pin_memory=device.type == "cuda")
    try:
        torch.set_num_threads(options.threads)
        _use(device)
        loaded = load_factory(options.factory, device)
        server = _Server(link, loaded, ScoreCost(options.score_dtype, options.score_resolution))
        server.try_cost()
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        link.error(first_line(error))
        return 1
    try:
        link.ready(loaded.sha256, loaded.manifest)
        server.serve()
    except LinkError as error:
        print(f"siftd._scorer.child: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
