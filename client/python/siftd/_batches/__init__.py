# SPDX-License-Identifier: Apache-2.0
"""The user's batches: numbered, taken apart, put together from kept rows, handed to the loop."""
