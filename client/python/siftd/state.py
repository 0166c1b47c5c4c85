# SPDX-License-Identifier: Apache-2.0
"""States of loaders in files: `python -m siftd state show FILE`, and torch.distributed.checkpoint."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator
from typing import Any, Protocol

import torch

from siftd._loop.distributed import rank_and_world
from siftd.errors import StateError


class _HasState(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Stateful:
    """A loader as torch.distributed.checkpoint takes it.

        dcp.save({"model": ..., "loader": siftd.Stateful(loader)}, checkpoint_id=folder)
        dcp.load({"model": ..., "loader": siftd.Stateful(loader)}, checkpoint_id=folder)

    A state's structure depends on where the loader stands, and `dcp.load` reads only what the loader at hand has
    already: so the state travels as one value. Each rank saves its own and loads its own; as many ranks are needed.
    """

    def __init__(self, loader: _HasState) -> None:
        self._loader = loader

    def state_dict(self) -> dict[str, Any]:
        file = io.BytesIO()
        torch.save(self._loader.state_dict(), file)
        return {self._key(): file.getvalue()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises StateError where the checkpoint has no state of this rank."""
        key = self._key()
        if not isinstance(state.get(key), bytes):
            raise StateError(
                f"the checkpoint has no loader state '{key}' but {sorted(state)}; resume with as many ranks"
            )
        self._loader.load_state_dict(torch.load(io.BytesIO(state[key]), weights_only=True))

    @staticmethod
    def _key() -> str:
        return f"rank{rank_and_world()[0]}"


def show(path: str) -> str:
    """What the loaders' states in a file of torch.save say, as JSON; tensors as types and shapes.

    The file may be a state, or a checkpoint that holds some. Nothing in it is run. Raises StateError.
    """
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise StateError(f"'{path}' is no file of torch.save that loads without running code: {error}") from error
    found = dict(_states(held, ""))
    if not found:
        raise StateError(f"'{path}' holds no state of a siftd loader; save loader.state_dict() into it")
    return json.dumps(found if set(found) != {""} else found[""], indent=2, default=str)


def _states(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Path and readable form of each state."""
    if not isinstance(value, dict):
        return
    if "schema" in value and ("ranks" in value or {"steps", "trained"} <= value.keys()):
        yield path, _readable(value)
        return
    for key, child in value.items():
        yield from _states(child, f"{path}.{key}" if path else str(key))


def _readable(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, dict):
        return {_name(k): _readable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        if len(value) > 8 and all(isinstance(v, int | float) for v in value):
            return f"{len(value)} numbers"
        return [_readable(v) for v in value]
    return value


def _name(key: Any) -> str:
    return key if isinstance(key, str) else repr(key)
