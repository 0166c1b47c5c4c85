# SPDX-License-Identifier: Apache-2.0
"""SageMaker's exceptions, each also siftd's own of the same meaning."""

from __future__ import annotations

from siftd.errors import ConfigError, StructureError

__all__ = [
    "LossImplementationNotProvidedException",
    "SiftConfigValidationException",
    "UnsupportedDataFormatException",
]


class SiftConfigValidationException(ConfigError):
    """A sifting configuration is out of its range."""


class UnsupportedDataFormatException(StructureError):
    """Batches have a form that can't be sifted as it is."""


class LossImplementationNotProvidedException(ConfigError):
    """No loss per sample was given."""
