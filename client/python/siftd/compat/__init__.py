# SPDX-License-Identifier: Apache-2.0
"""Other libraries' names for sifting, so that their users' scripts run on siftd."""
