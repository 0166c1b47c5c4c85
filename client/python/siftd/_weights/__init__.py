# SPDX-License-Identifier: Apache-2.0
"""When the training model's weights are published, and what of them is copied."""
