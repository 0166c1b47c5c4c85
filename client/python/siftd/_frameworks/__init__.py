# SPDX-License-Identifier: Apache-2.0
"""What the adapters of Lightning and Hugging Face do inside their framework's loops."""
