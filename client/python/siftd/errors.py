# SPDX-License-Identifier: Apache-2.0
"""The errors that siftd raises. Each message says what was wrong and what to do next."""

from __future__ import annotations


class SiftdError(Exception):
    """Base of all."""


class ConfigError(SiftdError, ValueError):
    """An argument is out of its range."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field} is {value!r}; allowed: {allowed}")
        self.field, self.value, self.allowed = field, value, allowed


class ExportError(SiftdError, RuntimeError):
    """The model and loss can't be made into a scorer."""


class StructureError(SiftdError, TypeError):
    """A batch has a form that can't be sifted."""


class StateError(SiftdError, ValueError):
    """A saved state does not fit this loader."""


class WorkerError(SiftdError, RuntimeError):
    """A worker could not be started, or refused this client."""


class SiftdTimeoutError(SiftdError, TimeoutError):
    """A deadline passed. Names the peer, the stage and the next step."""

    def __init__(self, peer: str, stage: str, seconds: float, next_step: str) -> None:
        super().__init__(f"{peer}: {stage} took more than {seconds:g} s. {next_step}")
        self.peer, self.stage, self.seconds, self.next_step = peer, stage, seconds, next_step
