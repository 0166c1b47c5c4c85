# SPDX-License-Identifier: Apache-2.0
"""client/python/README.md and migration.md: their code runs, their lines, messages, options and modules exist."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import siftd
from doc_examples import CLIENT, PAGES, blocks, is_said, occurs, spans, table, texts_of_sources, write_blocks
from example_runs import Summary, run
from support import ROOT, binary, wait_until

README, MIGRATION = PAGES
WITH_FRAMEWORKS = {"watched.py", "composer_trainer.py"}  # run in tests/frameworks
RUN_HERE = {"scorer_factory.py", "routed_trainer.py", "smart_sifting_minimal.py", "composer_rule.py"}


def test_every_marked_block_is_run_by_a_test() -> None:
    marked = {name for page in PAGES for name in blocks(page)}
    assert marked == RUN_HERE | WITH_FRAMEWORKS
    theirs = (ROOT / "tests" / "frameworks" / "test_framework_examples.py").read_text()
    assert all(f'"{name}"' in theirs for name in WITH_FRAMEWORKS)


def test_the_smart_sifting_block_keeps_its_share(tmp_path: Path) -> None:
    write_blocks(tmp_path)
    summary = Summary(run(tmp_path / "smart_sifting_minimal.py"))
    assert summary.decided == 3 * 1797
    whole = 50 * 32  # rows of the delay
    assert 0.8 * (summary.decided - whole) / 2 < summary.trained - whole < 1.2 * (summary.decided - whole) / 2


def test_the_composer_rule_sifts_every_other_batch_of_its_window(tmp_path: Path) -> None:
    write_blocks(tmp_path)
    summary = Summary(run(tmp_path / "composer_rule.py"))
    assert summary.decided == 6 * 1797
    assert 0.75 < summary.kept_share < 0.98


def test_the_python_backend_blocks(tmp_path: Path) -> None:
    command = re.findall(r"siftd (worker .*--python-factory.*)", README.read_text())[0].split()
    write_blocks(tmp_path)
    port = tmp_path / "port"
    command[command.index("--endpoint") + 1] = "tcp://127.0.0.1:0"
    command[command.index("--python") + 1] = sys.executable
    path = os.pathsep.join([str(tmp_path), str(CLIENT)])
    process = subprocess.Popen(
        [binary(), *command, "--threads", "1", "--port-file", str(port)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until("the worker's port file", lambda: port.exists() or process.poll() is not None, 120)
        assert port.exists(), process.communicate()[1]
        write_blocks(tmp_path, port.read_text().strip())
        summary = Summary(run(tmp_path / "routed_trainer.py"))
    finally:
        process.kill()
        process.communicate(timeout=10)
    assert summary.decided == 3 * 1797
    assert summary.kept_share < 1
    assert summary.versions == 1 + summary.batches // 20


def test_the_lines_of_each_shape_stand_in_its_example() -> None:
    rows = table(README, "Which lines a script needs")
    assert len(rows) >= 10
    for shape, lines, example in rows:
        target = re.findall(r"\]\(([^)#]+)", example)[0]
        text = (CLIENT / target).read_text()
        code = [s for s in spans(lines) if re.search(r"[(\[ ]", s) and not s.endswith("()")]
        assert code, shape
        for line in code:
            assert occurs(line, text), f"{shape}: {line} is not in {target}"


def test_the_options_exist() -> None:
    known = set(inspect.signature(siftd.SiftingDataLoader).parameters)
    for option, *_ in table(README, "What the options do"):
        for span in spans(option):
            call = re.match(r"(\w+)\((.*)\)", span)
            if call:
                parameters = inspect.signature(getattr(siftd, call[1])).parameters
                assert {a.split("=")[0].strip() for a in call[2].split(",")} <= set(parameters), span
            elif "=" in span:
                assert span.split("=")[0] in known, span


def test_the_metrics_are_those_that_it_names() -> None:
    named = {key for cells in table(README, "Seeing what it does") for key in spans(cells[0])}
    loader = siftd.SiftingDataLoader([], model=torch.nn.Linear(1, 1), batch_size=1)
    assert named == set(loader.metrics())


@pytest.mark.parametrize(("page", "heading"), [(README, "When something goes wrong"), (MIGRATION, "Errors")])
def test_each_message_can_still_be_said(page: Path, heading: str) -> None:
    sources = texts_of_sources()
    assert not is_said("no siftd program was found under the table", sources)
    missing = [m for cells in table(page, heading) for m in spans(cells[0])[:1] if not is_said(m, sources)]
    assert missing == []


def test_the_module_map_is_complete() -> None:
    named = {m.rstrip("/") for cells in table(README, "Modules") for m in spans(cells[0])}
    package = CLIENT / "siftd"
    files = [p for p in package.rglob("*.py") if p.relative_to(package).parts[0] not in ("v1", "compat", "_frameworks")]
    modules = {str(p.relative_to(package).with_suffix("")) for p in files} - {"__init__", "errors"}
    modules = {m.removesuffix("/__init__") for m in modules} | {"_frameworks"}
    assert sorted(modules - named) == []
    assert sorted(named - modules) == []


def test_folders_import_only_those_above_them() -> None:
    floors = [m.rstrip("/") for cells in table(README, "Modules") for m in spans(cells[0]) if m.endswith("/")]
    assert len(floors) > 5
    package = CLIENT / "siftd"
    for at, floor in enumerate(floors):
        above = set(floors[: at + 1])
        for file in (package / floor).glob("*.py"):
            used = set(re.findall(r"from siftd\.(_\w+)[. ]", file.read_text())) & set(floors)
            assert used <= above, f"{file.relative_to(package)}: {sorted(used - above)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        other = page.parent / target if target else page
        assert other.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, f"{target}#{anchor}"
