# SPDX-License-Identifier: Apache-2.0
"""What the states of both loaders have in common."""

from __future__ import annotations

from typing import Any

import numpy as np

# Arrays of BatchInfo, by row, with their types.
INFO_FIELDS: dict[str, Any] = {
    "ids": np.uint64,
    "scores": np.float32,
    "keep_probability": np.float32,
    "weights": np.float32,
    "percentile": np.float32,
    "model_version": np.int64,
    "staleness": np.int64,
    "unsifted": np.bool_,
    "epochs": np.int64,
}
