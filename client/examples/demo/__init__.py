# SPDX-License-Identifier: Apache-2.0
"""siftd's demo: `./dev demo`, or `python -m demo` with client/examples on PYTHONPATH."""
