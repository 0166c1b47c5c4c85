# SPDX-License-Identifier: Apache-2.0
"""Which rows are kept, decided in NumPy; what scores cost. The twin of pipeline/select."""
