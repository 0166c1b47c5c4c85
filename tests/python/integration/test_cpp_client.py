# SPDX-License-Identifier: Apache-2.0
"""The C++ example trainer and loader against real workers, and each of them with a Python peer."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

import siftd
from keys import Keys, LockedWorker
from support import ROOT, Worker, binary

CLASSES = 10


def example(name: str) -> str:
    build = Path(os.environ.get("SIFTD_BUILD_DIR", ROOT / "build"))
    path = build / "client" / "examples" / name
    assert path.exists(), f"{path} is not there: run ./dev build"
    return str(path)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's 1,797 digits: x float32 [n, 64] in [0, 1], y int64 [n]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.from_numpy(data.data).float() / 16, torch.from_numpy(data.target).long()


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    x, y = digits()
    path = tmp_path / "digits.csv"
    path.write_text(
        "".join(",".join(f"{v:g}" for v in row) + f",{c}\n" for row, c in zip(x.tolist(), y.tolist(), strict=True))
    )
    return path


@pytest.fixture
def scorer(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    x, y = digits()
    return siftd.export_scorer(model, "cross_entropy", (x[:16], y[:16])).save(tmp_path / "scorer.pt")


def endpoints(pool: list[Worker]) -> list[str]:
    return [a for w in pool for a in ("--endpoint", w.endpoint)]


@contextmanager
def cpp_loaders(
    pool: list[Worker], csv: Path, count: int, epochs: int, *flags: str
) -> Iterator[list[subprocess.Popen[str]]]:
    processes = [
        subprocess.Popen(
            [example("siftd_cpp_loader"), "--csv", str(csv), *endpoints(pool)]
            + ["--index", str(i), "--count", str(count), "--epochs", str(epochs), "--batch", "32", *flags],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]
    try:
        yield processes
    finally:
        for p in processes:
            p.kill()
            p.communicate(timeout=10)


def test_a_cpp_trainer_learns_from_what_cpp_loaders_send(
    pool: list[Worker], csv: Path, scorer: Path, tmp_path: Path
) -> None:
    trained = tmp_path / "trained.pt"
    epochs = 6
    with cpp_loaders(pool, csv, 2, epochs) as loaders:
        trainer = subprocess.run(
            [example("siftd_cpp_trainer"), "--scorer", str(scorer), *endpoints(pool), "--loaders", "2"]
            + ["--batch", "32", "--save", str(trained)],
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert trainer.returncode == 0, trainer.stderr
        told = [p.communicate(timeout=30)[0] for p in loaders]
        assert [p.returncode for p in loaders] == [0, 0]
    x, y = digits()
    rows = [int(n) for n in re.findall(r"kept (\d+) of (\d+)", trainer.stdout)[-1]]
    assert rows[1] == epochs * len(x), "every candidate was decided once"
    closing = re.search(r"trained (\d+) rows in \d+ batches; kept (\d+)", trainer.stdout)
    assert closing and int(closing[1]) == int(closing[2]) == rows[0]
    for line in told:
        offered, settled = map(int, re.findall(r"(\d+)", line))
        assert offered == epochs * -(-len(x) // 2 // 32)
        # The trainer's Goodbye may overtake the last settlements on another connection.
        assert 0 < settled <= offered
    with torch.no_grad():
        confident = torch.jit.load(str(trained))(x, y)[0]
    chance = torch.log(torch.tensor(float(CLASSES)))
    assert confident.mean() < 0.5 * chance, "the saved module learned"
    assert all(int(w.status()["model_version"]) > 1 for w in pool)


def test_cpp_peers_with_keys(tmp_path: Path, csv: Path, scorer: Path) -> None:
    keys = Keys(tmp_path / "keys")
    feeder, trainer = keys.client("feeder", "loader"), keys.client("trainer", "trainer", "publisher")
    command = [example("siftd_cpp_trainer"), "--scorer", str(scorer), "--loaders", "2"]
    with LockedWorker(tmp_path, keys) as worker:
        with cpp_loaders([worker], csv, 2, 1, "--keys", feeder) as loaders:
            done = subprocess.run(
                [*command, "--endpoint", worker.endpoint, "--keys", trainer],
                capture_output=True,
                text=True,
                timeout=100,
            )
            assert done.returncode == 0, done.stderr
            assert [p.wait(30) for p in loaders] == [0, 0]
        assert f"of {len(digits()[1])} candidates" in done.stdout
        for own, text in (([], "encrypted connections only"), (["--keys", feeder], "role is trainer; allowed")):
            failed = subprocess.run(
                [*command, "--endpoint", worker.endpoint, *own], capture_output=True, text=True, timeout=100
            )
            assert (failed.returncode, text in failed.stderr) == (1, True), failed.stderr
            assert worker.endpoint in failed.stderr


def test_a_cpp_loader_keeps_scores(pool: list[Worker], csv: Path, scorer: Path) -> None:
    epochs, every, rows = 6, 3, len(digits()[1])
    with cpp_loaders(pool, csv, 2, epochs, "--rescore-every", str(every)) as loaders:
        command = [example("siftd_cpp_trainer"), "--scorer", str(scorer), *endpoints(pool), "--loaders", "2"]
        trainer = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert trainer.returncode == 0, trainer.stderr
        assert [p.wait(30) for p in loaders] == [0, 0]
    status = [w.status() for w in pool]
    assert sum(int(s["candidates"]) for s in status) >= epochs * rows
    # All of the first pass, a third of the others, and what was settled too late for the next pass.
    third = rows + (epochs - 1) * rows / every
    assert 0.9 * third < sum(int(s["scored"]) for s in status) < 1.3 * third


def test_a_cpp_trainer_loses_nothing_when_a_worker_is_killed(pool: list[Worker], csv: Path, scorer: Path) -> None:
    epochs = 4
    with cpp_loaders(pool, csv, 2, epochs) as loaders:
        trainer = subprocess.Popen(
            [example("siftd_cpp_trainer"), "--scorer", str(scorer), *endpoints(pool), "--loaders", "2"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert trainer.stdout is not None
            first = trainer.stdout.readline()
            pool[0].kill()
            rest = trainer.communicate(timeout=90)[0]
            assert trainer.returncode == 0
        finally:
            trainer.kill()
            trainer.communicate()
        assert [p.wait(30) for p in loaders] == [0, 0]
    # At an epoch's end some candidates of the next are decided already; over the run each is, once.
    ends = [tuple(map(int, e)) for e in re.findall(r"epoch (\d): .* kept (\d+) of (\d+)", first + rest)]
    assert [e for e, _, _ in ends] == list(range(epochs))
    assert ends[-1][2] == epochs * len(digits()[0])
    closing = re.search(r"trained (\d+) rows in \d+ batches; kept (\d+)", rest)
    assert closing and int(closing[1]) == int(closing[2]) == ends[-1][1]


def test_a_killed_cpp_trainer_goes_on_from_its_checkpoint(
    pool: list[Worker], csv: Path, scorer: Path, tmp_path: Path
) -> None:
    """Over the line of checkpoints as many rows are trained as by an undisturbed trainer: none lost, none twice."""
    command = [example("siftd_cpp_trainer"), "--scorer", str(scorer), *endpoints(pool), "--loaders", "2"]
    command += ["--uniform", "0.5", "--batch", "32"]

    def rows(told: str) -> int:
        closing = re.search(r"trained (\d+) rows", told)
        assert closing, told
        return int(closing[1])

    with cpp_loaders(pool, csv, 2, 4) as loaders:
        undisturbed = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert undisturbed.returncode == 0, undisturbed.stderr
        assert [p.wait(30) for p in loaders] == [0, 0]
    command += ["--checkpoints", str(tmp_path / "run"), "--checkpoint-every", "7"]
    with cpp_loaders(pool, csv, 2, 4) as loaders:
        killed = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert killed.stdout is not None
        told = ""
        while told.count("checkpoint at") < 3:
            line = killed.stdout.readline()
            assert line, told
            told += line
        killed.kill()
        told += killed.communicate(timeout=10)[0]
        newest = max(int(p.name.removeprefix("step-")) for p in (tmp_path / "run").glob("step-*"))
        before = dict(map(int, pair) for pair in re.findall(r"checkpoint at step (\d+), (\d+) rows", told))
        resumed = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert resumed.returncode == 0, resumed.stderr
        assert f"goes on from {tmp_path}/run/step-{newest}" in resumed.stdout
        assert [p.wait(30) for p in loaders] == [0, 0]
    assert newest in before, "killed between a checkpoint and its line: no row count of it"
    assert before[newest] + rows(resumed.stdout) == rows(undisturbed.stdout)
    state = tmp_path / "run" / f"step-{newest}" / "state.siftd"
    shown = subprocess.run([binary(), "state", "show", str(state)], capture_output=True, text=True, timeout=30)
    assert shown.returncode == 0, shown.stderr
    assert f'"steps": "{newest}"' in shown.stdout


def test_cpp_loaders_feed_a_python_trainer_and_survive_a_killed_worker(pool: list[Worker], csv: Path) -> None:
    x, y = digits()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    loader = siftd.StreamLoader(
        [w.endpoint for w in pool],
        32,
        model=model,
        example_batch=(x[:16], y[:16]),
        loader_count=2,
        policy=siftd.Uniform(0.5),
    )
    with cpp_loaders(pool, csv, 2, 2) as loaders, loader:
        seen: list[list[int]] = []
        for epoch in range(2):
            ids: list[int] = []
            for n, (bx, by) in enumerate(loader):
                assert loader.last_batch_info is not None
                rows = loader.last_batch_info.ids.astype(int)
                assert torch.equal(bx, x[rows]) and torch.equal(by, y[rows])
                ids += rows.tolist()
                loader.step()
                if epoch == 0 and n == 3:
                    pool[0].signal(signal.SIGKILL)
            assert len(ids) == len(set(ids))
            seen.append(ids)
        stats = loader.stats()
        loader.close()
        assert [p.wait(60) for p in loaders] == [0, 0]
    assert stats.decided == 2 * len(x)
    assert sum(map(len, seen)) == stats.kept


def test_cpp_loaders_begin_again_where_a_new_run_stands(pool: list[Worker], csv: Path) -> None:
    x, y = digits()

    def streaming() -> siftd.StreamLoader:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES))
        return siftd.StreamLoader(
            [w.endpoint for w in pool], 32, model=model, example_batch=(x[:16], y[:16]), loader_count=2,
            policy=siftd.Uniform(0.5), seed=7,
        )  # fmt: skip

    def take(loader: siftd.StreamLoader, most: int) -> list[int]:
        ids: list[int] = []
        for n, _ in enumerate(loader, 1):
            assert loader.last_batch_info is not None
            ids += loader.last_batch_info.ids.astype(int).tolist()
            loader.step()
            if n == most:
                break
        return ids

    with cpp_loaders(pool, csv, 2, 1) as loaders:
        first = streaming()
        some = take(first, 5)
        state = first.state_dict()
        assert first._io is not None and first._weights is not None
        first._io.stop(goodbye=False)  # it dies
        first._weights.publisher.close()
        with streaming() as second:
            second.load_state_dict(state)
            rest = take(second, 10**6)
            second.close()
        assert [p.wait(60) for p in loaders] == [0, 0]
    assert not set(some) & set(rest)
    with cpp_loaders(pool, csv, 2, 1) as loaders, streaming() as undisturbed:
        want = take(undisturbed, 10**6)
        undisturbed.close()
        assert [p.wait(60) for p in loaders] == [0, 0]
    assert sorted(some + rest) == sorted(want), "the same rows as without a restart"


def test_a_user_s_mistakes_are_told_in_one_line(csv: Path, scorer: Path, tmp_path: Path) -> None:
    def fails(*arguments: str) -> str:
        out = subprocess.run([*arguments], capture_output=True, text=True, timeout=60)
        assert out.returncode != 0
        assert "terminate called" not in out.stderr
        return out.stderr

    loader, trainer = example("siftd_cpp_loader"), example("siftd_cpp_trainer")
    somewhere = ["--endpoint", "tcp://127.0.0.1:1"]
    assert "index is 2; allowed: [0, 1]" in fails(loader, "--csv", str(csv), *somewhere, "--index", "2", "--count", "2")
    assert "endpoints holds 'localhost'" in fails(loader, "--csv", str(csv), "--endpoint", "localhost")
    assert "batch_size is 0; allowed: [1, 1048576]" in fails(
        trainer, "--scorer", str(scorer), *somewhere, "--batch", "0"
    )
    assert "siftd.export_scorer" in fails(trainer, "--scorer", str(tmp_path / "none.pt"), *somewhere)
    assert "siftd.export_scorer" in fails(trainer, "--scorer", str(csv), *somewhere)
