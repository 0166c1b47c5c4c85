# SPDX-License-Identifier: Apache-2.0
"""The protocol's messages: frames to typed headers and tensors and back, and every check of foreign bytes."""
