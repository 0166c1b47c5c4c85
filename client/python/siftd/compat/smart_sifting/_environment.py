# SPDX-License-Identifier: Apache-2.0
"""Where samples are scored, as the environment says: SIFTD_WORKERS, SIFTD_INLINE."""

from __future__ import annotations

import os

from siftd.errors import ConfigError

_YES, _NO = ("1", "true", "yes"), ("", "0", "false", "no")


def workers_wanted() -> str | list[str]:
    """ "auto", "inline", or the endpoints of a pool. Raises ConfigError that names the variable."""
    pool, inline = os.environ.get("SIFTD_WORKERS", ""), os.environ.get("SIFTD_INLINE", "").lower()
    if inline not in (*_YES, *_NO):
        raise ConfigError("SIFTD_INLINE", inline, "1 (scored in this process) or 0")
    endpoints = [e.strip() for e in pool.split(",")] if pool.strip() else []
    if endpoints and inline in _YES:
        raise ConfigError(
            "SIFTD_WORKERS, SIFTD_INLINE", (pool, inline), "one of the two: a pool's endpoints, or 1 for this process"
        )
    for endpoint in endpoints:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        tcp = endpoint.startswith("tcp://") and host and port.isdigit() and 0 < int(port) < 65536
        if not tcp and not (endpoint.startswith("ipc://") and len(endpoint) > len("ipc://")):
            raise ConfigError("SIFTD_WORKERS", pool, "endpoints separated by commas, tcp://HOST:PORT or ipc://PATH")
    if endpoints:
        return endpoints
    return "inline" if inline in _YES else "auto"
