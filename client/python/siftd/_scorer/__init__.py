# SPDX-License-Identifier: Apache-2.0
"""A model and a loss as a scorer: copied, traced, tested, signed; or run as Python by a worker's child."""
