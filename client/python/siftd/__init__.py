# SPDX-License-Identifier: Apache-2.0
"""siftd: trains on the samples that are worth a step. Sifting workers score candidates beside the training loop."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siftd._batches.info import BatchInfo, Stats
    from siftd._loop.distributed import distributed_loader, gather_state
    from siftd._loop.progress import progress
    from siftd.candidates import CandidateLoader
    from siftd.dropin import SiftingDataLoader
    from siftd.errors import (
        ConfigError,
        ExportError,
        SiftdError,
        SiftdTimeoutError,
        StateError,
        StructureError,
        WorkerError,
    )
    from siftd.export import Scorer, export_scorer
    from siftd.losses import BatchLoss
    from siftd.policy import ComposerRank, Confidence, LossCdf, Modifiers, Policy, TopK, Uniform
    from siftd.python_scorer import PythonScorer
    from siftd.state import Stateful
    from siftd.stream import StreamLoader

__version__ = "0.1.0"

# Where each public name lives; imported when it is first used, so that no process loads what it does not need.
_HOMES = {
    "_batches.info": ["BatchInfo", "Stats"],
    "_loop.distributed": ["distributed_loader", "gather_state"],
    "_loop.progress": ["progress"],
    "candidates": ["CandidateLoader"],
    "dropin": ["SiftingDataLoader"],
    "errors": [
        "ConfigError",
        "ExportError",
        "SiftdError",
        "SiftdTimeoutError",
        "StateError",
        "StructureError",
        "WorkerError",
    ],
    "export": ["Scorer", "export_scorer"],
    "losses": ["BatchLoss"],
    "policy": ["ComposerRank", "Confidence", "LossCdf", "Modifiers", "Policy", "TopK", "Uniform"],
    "python_scorer": ["PythonScorer"],
    "state": ["Stateful"],
    "stream": ["StreamLoader"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BatchInfo",
    "BatchLoss",
    "CandidateLoader",
    "ComposerRank",
    "Confidence",
    "ConfigError",
    "ExportError",
    "LossCdf",
    "Modifiers",
    "Policy",
    "PythonScorer",
    "Scorer",
    "SiftdError",
    "SiftdTimeoutError",
    "SiftingDataLoader",
    "StateError",
    "Stateful",
    "Stats",
    "StreamLoader",
    "StructureError",
    "TopK",
    "Uniform",
    "WorkerError",
    "distributed_loader",
    "export_scorer",
    "gather_state",
    "progress",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'siftd' has no attribute {name!r}")
    return getattr(importlib.import_module(f"siftd.{home}"), name)
