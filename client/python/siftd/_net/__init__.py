# SPDX-License-Identifier: Apache-2.0
"""ZeroMQ sockets, and the I/O thread that runs a core."""
