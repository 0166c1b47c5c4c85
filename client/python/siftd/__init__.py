# SPDX-License-Identifier: Apache-2.0
"""siftd: trains on the samples that are worth a step. Sifting workers score candidates beside the training loop."""

from siftd._info import BatchInfo, Stats
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
from siftd.policy import ComposerRank, Confidence, LossCdf, Modifiers, Policy, TopK, Uniform
from siftd.stream import StreamLoader

__version__ = "0.1.0"

__all__ = [
    "BatchInfo",
    "CandidateLoader",
    "ComposerRank",
    "Confidence",
    "ConfigError",
    "ExportError",
    "LossCdf",
    "Modifiers",
    "Policy",
    "Scorer",
    "SiftdError",
    "SiftdTimeoutError",
    "SiftingDataLoader",
    "StateError",
    "Stats",
    "StreamLoader",
    "StructureError",
    "TopK",
    "Uniform",
    "WorkerError",
    "export_scorer",
]
