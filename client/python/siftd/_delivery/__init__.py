# SPDX-License-Identifier: Apache-2.0
"""The delivery rules, pure: no socket, no thread. Shaped like pipeline/delivery."""
