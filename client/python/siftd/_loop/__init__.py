# SPDX-License-Identifier: Apache-2.0
"""What stands between the training loop and the workers: background threads, local workers, ranks."""
