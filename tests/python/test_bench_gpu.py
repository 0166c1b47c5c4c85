# SPDX-License-Identifier: Apache-2.0
"""What `./dev bench gpu` would run on which devices, and how it tells the time of a device, without one.

The parts themselves, on the CPU: integration/test_bench_devices.py.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCH = Path(__file__).resolve().parents[1] / "bench"
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


def jobs(device: str) -> list[Any]:
    found: list[Any] = importlib.import_module("gpu").jobs(importlib.import_module("measure").Options(), device)
    return found


@pytest.mark.usefixtures("one_gpu")
def test_on_a_gpu_each_part_runs_with_workers_on_it_and_on_the_cpu() -> None:
    assert [(j.part, str(j.options.devices)) for j in jobs("cuda:0") if not j.skipped] == [
        ("step", "trainer cuda:0, worker cuda:0"),
        ("step", "trainer cuda:0, worker cpu"),
        ("worker", "trainer cuda:0, worker cuda:0"),
        ("weights", "trainer cuda:0, worker cuda:0"),
        ("weights", "trainer cuda:0, worker cpu"),
        ("inline", "trainer cuda:0, worker cuda:0"),
        ("inline", "trainer cuda:0, worker cpu"),
    ]
    (skipped,) = (j for j in jobs("cuda:0") if j.skipped)
    assert (skipped.label, "outside of gpu" in skipped.skipped) == ("gpu: worker on cpu", True)
    labels = [j.label for j in jobs("cuda:0")]
    assert len(set(labels)) == len(labels) and "gpu: step, trainer cuda:0, worker cpu" in labels


@pytest.mark.usefixtures("one_gpu")
def test_a_device_that_is_not_there_is_told_with_what_to_do() -> None:
    (job,) = jobs("cuda:1")
    assert "finds 1 CUDA devices" in job.skipped and "cuda:1" in job.skipped and "run it on a host" in job.skipped


def test_the_program_says_in_a_line_that_nothing_ran_and_its_exit_code_does(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "run.py"), "gpu", "--device", "cuda:99", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "LANG": "C"})
    told = [line for line in done.stderr.splitlines() if "gpu" in line]
    assert (done.returncode, done.stdout, len(told)) == (77, "", 1), done.stderr
    assert told[0].startswith("bench: gpu: not run: torch ") and "--device is cuda:99" in told[0]
    assert not (tmp_path / "out").exists()


def test_a_device_of_another_kind_is_refused() -> None:
    command = [sys.executable, str(BENCH / "run.py"), "gpu", "--device", "tpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "--device is 'tpu'; allowed: cpu, cuda, cuda:N" in done.stderr


class Stream:
    """A device that is done with its n-th mark at 10 n^2 ms, whatever the host's clock says."""

    def __init__(self) -> None:
        self.recorded = 0
        self.waited: list[int] = []


class Event:
    """As torch.cuda.Event."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: Stream) -> None:
        self.stream, self.order = stream, stream.recorded
        stream.recorded += 1

    def synchronize(self) -> None:
        self.stream.waited.append(self.order)

    def elapsed_time(self, later: Event) -> float:
        assert self.stream.waited, "asked before the device was done"
        return 10.0 * (later.order**2 - self.order**2)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    made = Stream()
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: made)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    return made


def test_on_a_gpu_time_is_the_devices_and_it_is_waited_for_once(stream: Stream) -> None:
    marks = importlib.import_module("devices").marks_on(CUDA)
    for _ in range(4):
        marks.mark()
        assert stream.waited == []
    assert marks.seconds() == pytest.approx([0.01, 0.03, 0.05])
    assert stream.waited == [3]


def test_a_loop_on_a_gpu_reads_its_steps_from_the_devices_time_line(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is on the CPU in truth. Marks 3 i, 3 i + 1, 3 i + 2: before `next`, after it, at the step's end."""
    step_loop, models = importlib.import_module("step_loop"), importlib.import_module("step_models")
    cuda_marks = importlib.import_module("devices").CudaMarks(CUDA)
    monkeypatch.setattr(step_loop, "marks_on", lambda _: cuda_marks)
    loop = step_loop.Loop(models.make_model("mlp"))
    called: list[int] = []
    took = loop.run(iter(models.Batches("mlp", 4)), lambda: called.append(stream.recorded), steps=2, warm=1)
    assert called == [2, 5, 8], "the step's last mark comes after what publishes"
    assert took.next == pytest.approx([0.01 * (16 - 9), 0.01 * (49 - 36)])
    assert took.step == pytest.approx([0.01 * (25 - 16), 0.01 * (64 - 49)])
    assert len(took.step_host) == len(took.step_cpu) == 2
    assert stream.waited == [8]


def test_a_gpu_of_its_own_gets_large_models_a_core_small_ones() -> None:
    step, inline_arms = importlib.import_module("parts.step"), importlib.import_module("inline_arms")
    measure, devices = importlib.import_module("measure"), importlib.import_module("devices")
    shared, apart = devices.Devices("cuda:0", "cuda:0"), devices.Devices("cuda:0", "cpu")
    for quick in (True, False):
        assert all(kind.startswith("large") for kind, _, _ in step._plan(measure.Options(quick, devices=shared)))
        for kind, _, arms in step._plan(measure.Options(quick, devices=apart)):
            assert not kind.startswith("large") or all("fixed cost" in arm for arm in arms)
    assert [inline_arms._size(d) for d in (shared, apart, devices.Devices())] == ["large", "small", "small"]


@pytest.mark.parametrize("kind", ["large-cnn", "large-transformer"])
def test_the_large_models_take_their_batches(kind: str) -> None:
    models = importlib.import_module("step_models")
    x, y = next(iter(models.Batches(kind, 2)))
    assert models.make_model(kind)(x).shape == (len(y), models.CLASSES)
