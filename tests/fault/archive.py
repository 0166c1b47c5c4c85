# SPDX-License-Identifier: Apache-2.0
"""A scorer archive that says what a real one says and holds no model: PyTorch is not needed to write it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from siftd.v1 import artifact_pb2


def write_archive(path: Path, floats: int, weight_floats: int) -> Path:
    """For rows x float32 [n, floats], the score column "loss", and one weight float32 [weight_floats]."""
    manifest = artifact_pb2.ArtifactManifest(format=1, torch_version="0", model="Fault", columns=["loss"])
    manifest.inputs.add(name="x", dtype=artifact_pb2.DTYPE_FLOAT32, shape=[-1, floats])
    manifest.state.add(name="weight", archive_name="weight", dtype=artifact_pb2.DTYPE_FLOAT32, shape=[weight_floats])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("scorer/version", "3\n")
        archive.writestr("scorer/extra/siftd.manifest", manifest.SerializeToString(deterministic=True))
    return path
