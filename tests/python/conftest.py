# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from conftest_shared import one_thread, pool, the_binary, worker  # noqa: F401
