# SPDX-License-Identifier: Apache-2.0
"""`siftd worker --backend python`: a model that can't be exported, scored by its own Python in a child process."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import scorer_factories
import siftd
from siftd._loop.spawn import LocalWorkers
from support import ROOT, Rows, Worker, binary, eager_losses, wait_until

FACTORY = "scorer_factories:routed"
KEEP_ALL = siftd.LossCdf(beta=1.0, floor=1.0)
PATH = os.pathsep.join([str(ROOT / "client" / "python"), str(ROOT / "tests" / "python")])


class PythonWorker(Worker):
    """A worker whose children call `factory`."""

    def __init__(
        self, tmp: Path, *flags: str, name: str = "w", factory: str = FACTORY, poison: str | None = None
    ) -> None:
        self.port_file = tmp / f"{name}.port"
        self.log = tmp / f"{name}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [
                    binary(), "worker", "--port-file", str(self.port_file), "--backend", "python", "--python-factory",
                    factory, "--python", sys.executable, "--threads", "1", "--name", name, *flags,
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"PYTHONPATH": PATH} | ({scorer_factories.POISON_DOES: poison} if poison else {}),
            )  # fmt: skip
        wait_until(f"port file of {name}", lambda: self.port_file.exists() or self.process.poll() is not None, 120)
        assert self.port_file.exists(), self.log.read_text()
        self.endpoint = self.port_file.read_text().strip()

    def children(self) -> list[int]:
        return children_of(self.process.pid)


def children_of(pid: int) -> list[int]:
    lists = [p.read_text() for p in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for text in lists for child in text.split()]


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture
def python_worker(tmp_path: Path) -> Iterator[PythonWorker]:
    with PythonWorker(tmp_path) as w:
        yield w


def sifting(data: Dataset[Any], workers: Any, **options: Any) -> siftd.SiftingDataLoader:
    options.setdefault("model", scorer_factories.routed_model())
    options.setdefault("policy", siftd.Uniform(0.5))
    options.setdefault("scorer", siftd.PythonScorer.from_factory(FACTORY))
    options.setdefault("starve_timeout", 120.0)  # a new child may take long to import torch
    return siftd.SiftingDataLoader(DataLoader(data, 16, shuffle=True), workers=workers, seed=7, **options)


def trained_ids(loader: siftd.SiftingDataLoader) -> list[int]:
    ids: list[int] = []
    for _ in loader:
        assert loader.last_batch_info is not None
        ids += loader.last_batch_info.ids.tolist()
    return ids


def check_scores(loader: siftd.SiftingDataLoader, model: torch.nn.Module, data: Rows) -> None:
    """Scores of three epochs, each on weights of its own, are the eager losses of the version that they name."""
    seen = {}
    published = {1: {k: v.clone() for k, v in model.state_dict().items()}}
    for epoch in range(3):
        for _ in loader:
            info = loader.last_batch_info
            assert info is not None
            for i, score, version in zip(info.ids, info.scores, info.model_version, strict=True):
                seen[(epoch, int(i))] = (float(score), int(version))
        generator = torch.Generator().manual_seed(epoch)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
            model.norm.running_mean.add_(0.05)
        before = loader.stats().model_versions
        loader.step(model)
        assert loader.stats().model_versions == before + 1
        published[before + 1] = {k: v.clone() for k, v in model.state_dict().items()}
    assert len({version for _, version in seen.values()}) >= 2, "the weights in force never changed"
    for (_, i), (score, version) in seen.items():
        model.load_state_dict(published[version])
        expected = eager_losses(model, data.x[i : i + 1], data.y[i : i + 1])
        torch.testing.assert_close(torch.tensor([score]), expected, rtol=1e-5, atol=1e-6)


def test_the_exporter_refuses_this_model() -> None:
    with pytest.raises(siftd.ExportError):
        siftd.export_scorer(*scorer_factories.routed())


def test_scores_are_the_models_own_before_and_after_a_sync(python_worker: PythonWorker) -> None:
    model, data = scorer_factories.routed_model(), Rows(160)
    with sifting(data, [python_worker.endpoint], model=model, policy=KEEP_ALL, sync_every=1, prefetch=1) as loader:
        check_scores(loader, model, data)
    assert "python scorer_factories:routed" in python_worker.status()["device"]


def test_a_childs_kill_in_mid_epoch_loses_nothing(python_worker: PythonWorker) -> None:
    data = Rows(1600)
    with sifting(data, [python_worker.endpoint]) as loader:
        undisturbed = trained_ids(loader)
    with sifting(data, [python_worker.endpoint]) as loader:
        ids: list[int] = []
        for n, _ in enumerate(loader):
            assert loader.last_batch_info is not None
            ids += loader.last_batch_info.ids.tolist()
            if n == 5:
                [child] = python_worker.children()
                os.kill(child, signal.SIGKILL)
        stats = loader.stats()
    assert (stats.decided, stats.kept, stats.unsifted) == (1600, len(ids), 0)
    assert sorted(ids) == sorted(undisturbed)
    assert python_worker.status()["errors"] == {"SCORER_PROCESS_DIED": "1"}
    assert "was ended by signal 9 (Killed); another one takes its place" in python_worker.log.read_text()


@pytest.mark.parametrize("effect", ["crash", "hang"])
def test_a_batch_that_its_child_does_not_survive_is_trained_unsifted(tmp_path: Path, effect: str) -> None:
    data = Rows(320)
    data.x[100, 1] = scorer_factories.POISON
    does = scorer_factories.CRASH if effect == "crash" else str(tmp_path / "hangs")
    # A third of it is enough for any forward but one that hangs. A busy machine's silence ends no session.
    limits = ("--score-deadline-ms", "30000", "--liveness-ms", "120000")
    with PythonWorker(tmp_path, *limits, poison=does) as worker:
        with sifting(data, [worker.endpoint]) as loader:
            unsifted: list[int] = []
            ids: list[int] = []
            for _ in loader:
                info = loader.last_batch_info
                assert info is not None
                ids += info.ids.tolist()
                unsifted += info.ids[np.isnan(info.scores)].tolist()
            stats = loader.stats()
        status = worker.status()
        log = worker.log.read_text()
    assert stats.decided == 320
    assert len(set(ids)) == len(ids)
    assert 100 in unsifted and len(unsifted) == stats.unsifted == 16
    assert status["rejected_batches"] == "1"
    deaths = int(status["errors"].pop("SCORER_PROCESS_DIED"))
    # It has a second try, by itself, unless it was alone in the forward that hung.
    assert deaths == 2 or (effect == "hang" and deaths == 1)
    assert status["errors"] == {"SCORING_FAILED": "1"}
    assert ("signal 11 (Segmentation fault)" if effect == "crash" else "gave no answer within 10 s") in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_ends_at_once_with_a_child_that_hangs(tmp_path: Path, number: int) -> None:
    data, hangs = Rows(64), tmp_path / "hangs"
    data.x[:, 1] = scorer_factories.POISON
    with (
        PythonWorker(tmp_path, "--score-deadline-ms", "3600000", poison=str(hangs)) as worker,
        sifting(data, [worker.endpoint], starve_timeout=1.0) as loader,
    ):
        next(iter(loader))  # goes out unsifted: the worker never answers
        [child] = worker.children()
        assert hangs.read_text() == str(child)
        worker.signal(number)
        assert worker.process.wait(60) == (0 if number == signal.SIGTERM else -number)
        wait_until("no child", lambda: is_gone(child))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_child_outlives_its_worker(python_worker: PythonWorker, number: int) -> None:
    children = python_worker.children()
    assert len(children) == 1
    python_worker.signal(number)
    assert python_worker.process.wait(20) == (0 if number == signal.SIGTERM else -number)
    wait_until("no child", lambda: all(is_gone(pid) for pid in children))


def test_each_lane_has_its_child(tmp_path: Path) -> None:
    with PythonWorker(tmp_path, "--lanes", "2") as worker:
        assert len(worker.children()) == 2
        with sifting(Rows(320), [worker.endpoint]) as loader:
            ids = trained_ids(loader)
    assert len(ids) == len(set(ids)) == loader.stats().kept


def test_a_loader_of_another_scorer_is_refused(python_worker: PythonWorker) -> None:
    scorer = siftd.PythonScorer.from_factory("scorer_factories:routed_as_dict")
    with (
        pytest.raises(siftd.WorkerError, match="artifact_sha256"),
        sifting(Rows(64), [python_worker.endpoint], scorer=scorer, start_timeout=20) as loader,
    ):
        next(iter(loader))


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--python-factory", "nowhere:make"], 3, "python_factory 'nowhere:make': ConfigError: factory is"),
        (["--python-factory", "scorer_factories:gone"], 3, "has no attribute 'gone'"),
        (["--python-factory", "scorer_factories:NOT_A_FUNCTION"], 3, "allowed: a function, not a int"),
        (["--python-factory", "scorer_factories:raises"], 3, "FileNotFoundError: weights.bin is not there\n"),
        (["--python-factory", "scorer_factories:returns_a_model"], 3, "allowed: (model, loss, example_batch)"),
        (["--python-factory", "scorer_factories:reduced_loss"], 3, "give a loss without reduction"),
        (["--python-factory", FACTORY, "--device", "cuda"], 3, "sees 0 CUDA devices here"),
        (["--python-factory", FACTORY, "--python", "/nowhere/python"], 3, "python is '/nowhere/python'"),
        (["--python-factory", FACTORY, "--python", "/bin/false"], 1, "exit code 1 before its scorer was ready"),
    ],
)  # fmt: skip
def test_a_wrong_factory_has_its_exit_code_and_text(flags: list[str], code: int, text: str) -> None:
    if "cuda" in flags and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    interpreter = [] if "--python" in flags else ["--python", sys.executable]
    answer = subprocess.run(
        [binary(), "worker", "--backend", "python", *interpreter, *flags],
        capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": PATH},
    )  # fmt: skip
    assert (answer.returncode, text in answer.stderr) == (code, True), answer


def test_local_workers_run_a_model_that_only_this_process_has() -> None:
    bias = torch.tensor(0.25)

    class Local(torch.nn.Module):  # can't be imported: pickled by value
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(8)
            self.layer = torch.nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([self.layer(row) * (1 + int(row[0] * 10) % 2) for row in self.norm(x)]) + bias

    model, data = Local(), Rows(64)
    scorer = siftd.PythonScorer.from_objects(model, "cross_entropy", (data.x[:4], data.y[:4]))
    workers = LocalWorkers(scorer, [("cpu", 1)])
    try:
        endpoints = workers.wait_ready(120)
        [file] = Path(workers._dir).glob("*.pkl")
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        with sifting(data, endpoints, model=model, policy=KEEP_ALL, scorer=scorer, sync_every=1, prefetch=1) as loader:
            check_scores(loader, model, data)
        [child] = children_of(workers.pids[0])
    finally:
        workers.close()
    wait_until("no child", lambda: is_gone(child))
    assert not file.exists()
