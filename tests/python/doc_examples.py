# SPDX-License-Identifier: Apache-2.0
"""What a page of documentation holds that a test can check: marked code, tables, messages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from support import ROOT

CLIENT = ROOT / "client" / "python"
PAGES = [CLIENT / "README.md", CLIENT / "migration.md"]
MOST = 400  # characters that an ellipsis in a line stands for


def blocks(page: Path) -> dict[str, str]:
    """The code below each `<!-- example: NAME -->`."""
    return dict(re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)```", page.read_text(), re.DOTALL))


def write_blocks(folder: Path, endpoint: str = "tcp://127.0.0.1:7001") -> None:
    """All blocks as files, with the endpoint in place of their own."""
    for page in PAGES:
        for name, text in blocks(page).items():
            (folder / name).write_text(text.replace("tcp://127.0.0.1:7001", endpoint))


def table(page: Path, heading: str) -> list[list[str]]:
    """Cells of the first table under a heading, without its head."""
    section = re.split(r"^#+ ", page.read_text().split(f" {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def occurs(line: str, text: str) -> bool:
    """Whether the code stands in `text`, apart from white space; an ellipsis stands for anything."""
    parts = ["".join(p.split()) for p in line.split("...")]
    return re.search(f"(?s:.{{0,{MOST}}}?)".join(map(re.escape, parts)), "".join(text.split())) is not None


def texts_of_sources() -> list[str]:
    """What the sources can say: each string, with \\0 for what it puts in, of the Python client and of the worker."""
    found: list[str] = []
    for path in sorted((CLIENT / "siftd").rglob("*.py")):
        found += _strings(ast.parse(path.read_text()))
    for folder in ("pipeline", "worker", "client/cpp"):
        for path in sorted((ROOT / folder).rglob("*.cc")):
            text = re.sub(r'"\s*\n\s*"', "", path.read_text())
            # "a is " + std::to_string(x) + "; b"
            text = re.sub(r'"\s*\+[^"]*?\+\s*"', "\0", text)
            found += re.findall(r'"((?:[^"\\\n]|\\.)*)"', text)
    return found


def _strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values)  # type: ignore[misc]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[.\d]*[dsfg]", "\0", node.value)


def is_said(message: str, sources: list[str]) -> bool:
    """Whether the sources can say the message, in which an ellipsis stands for what differs.

    siftd's ConfigError and SiftdTimeoutError put their texts together: "FIELD is VALUE; allowed: TEXT" and
    "PEER: STAGE took more than N s. TEXT"; there each part must be in the sources.
    """
    pieces = re.split(r" is \.\.\.; allowed: | is None; allowed: |; allowed: | took more than \.\.\. s", message)
    wanted = [p for piece in pieces for p in ([piece] if piece.strip(". ") else [])]
    if len(pieces) > 1:
        wanted = [re.sub(r"^\.\.\.: ", "", p) for p in wanted]
        wanted = [q for p in wanted for q in (p.split(": ", 1) if p.startswith("your loader: ") else [p])]
    patterns = [".*".join(re.escape(part) for part in p.split("...")) for p in wanted]
    return all(any(re.search(pattern, text, re.DOTALL) for text in sources) for pattern in patterns)
