# SPDX-License-Identifier: Apache-2.0
"""The names of the rows: the test functions of test_*.py, as CMake registers them with ctest."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = {"checker", "matrix", "points", "proxy"}  # tests of the suite itself


def functions() -> dict[str, str]:
    """fault.SUBJECT.NAME -> tests/fault/test_SUBJECT.py::test_NAME, of all files."""
    found = {}
    for file in sorted(HERE.glob("test_*.py")):
        subject = file.stem.removeprefix("test_")
        for name in re.findall(r"^def test_([a-z0-9_]+)\(", file.read_text(), re.MULTILINE):
            found[f"fault.{subject}.{name}"] = f"tests/fault/{file.name}::test_{name}"
    return found


def matrix_rows() -> dict[str, str]:
    """Those that are rows of the matrix."""
    return {name: test for name, test in functions().items() if name.split(".")[1] not in TOOLS}
