# SPDX-License-Identifier: Apache-2.0
"""Ranges of arguments: refusals name field, value and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence

from siftd.errors import ConfigError


def in_range(name: str, value: int, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(name, value, f"a whole number in [{least}, {most}]")


def seconds(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(name, value, "> 0 seconds")


def endpoints(value: Sequence[str]) -> list[str]:
    if isinstance(value, str) or not value:
        raise ConfigError("endpoints", value, "a list with at least one endpoint")
    return list(value)
