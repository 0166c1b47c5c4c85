# SPDX-License-Identifier: Apache-2.0
"""Amazon SageMaker smart sifting's Python modules, name for name, on siftd.

A script that was written for SageMaker runs when `smart_sifting` in its imports becomes `siftd.compat.smart_sifting`.
Samples are scored by local worker processes; SIFTD_WORKERS=tcp://HOST:PORT,... names a pool instead, and SIFTD_INLINE=1
scores in the training process, as SageMaker's library does.
"""
