# SPDX-License-Identifier: Apache-2.0
"""README.md's matrix names every row, and nothing else."""

from __future__ import annotations

import re

from rows import HERE, matrix_rows


def test_the_matrix_names_the_rows() -> None:
    text = (HERE / "README.md").read_text()
    table = re.findall(r"^\|.*\| *`([a-z0-9_.]+)` *\|$", text, re.MULTILINE)
    assert len(table) == len(set(table))
    assert {f"fault.{name}" for name in table} == set(matrix_rows())
