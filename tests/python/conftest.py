# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from conftest_shared import either_client, one_thread, pool, the_binary, worker  # noqa: F401
from hostile_site import site  # noqa: F401
