# SPDX-License-Identifier: Apache-2.0
"""The drop-in with real workers: what is decided, handed out, trained; faults on the way."""

from __future__ import annotations

import gc
import math
import os
import pickle
import signal
import subprocess
import sys
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import siftd
from support import ROOT, Rows, Worker, eager_losses, toy_model, wait_until

pytestmark = pytest.mark.usefixtures("either_client")


def sifting(rows: int, workers: list[Worker], **options: Any) -> siftd.SiftingDataLoader:
    options.setdefault("model", toy_model())
    options.setdefault("policy", siftd.Uniform(0.5))
    options.setdefault("seed", 7)
    batch = options.pop("batch", 16)
    loader = DataLoader(Rows(rows), batch, shuffle=options.pop("shuffle", True))
    return siftd.SiftingDataLoader(loader, workers=[w.endpoint for w in workers], **options)


def trained_ids(loader: siftd.SiftingDataLoader) -> list[int]:
    ids: list[int] = []
    for _ in loader:
        assert loader.last_batch_info is not None
        ids += loader.last_batch_info.ids.tolist()
    return ids


def test_rows_are_bit_identical_and_batches_full(pool: list[Worker]) -> None:
    data = Rows(500)
    with sifting(500, pool) as loader:
        sizes = []
        for x, y in loader:
            assert loader.last_batch_info is not None
            ids = loader.last_batch_info.ids.astype(np.int64)
            assert torch.equal(x, data.x[ids])
            assert torch.equal(y, data.y[ids])
            sizes.append(len(y))
    assert set(sizes[:-1]) == {16}
    assert 1 <= sizes[-1] <= 16


def test_keep_fraction_is_as_asked(pool: list[Worker]) -> None:
    with sifting(4000, pool, policy=siftd.Uniform(0.3), batch=64) as loader:
        ids = trained_ids(loader)
        stats = loader.stats()
    five_sigma = 5 * math.sqrt(0.3 * 0.7 / 4000)
    assert abs(len(ids) / 4000 - 0.3) < five_sigma
    assert (stats.candidates, stats.decided, stats.kept) == (4000, 4000, len(ids))
    assert max(Counter(ids).values()) == 1


def test_the_pools_size_does_not_change_the_coin(pool: list[Worker]) -> None:
    with sifting(600, pool[:1]) as one:
        alone = sorted(trained_ids(one))
    with sifting(600, pool) as two:
        both = sorted(trained_ids(two))
    assert alone == both


def test_each_epoch_ends_exactly_with_other_coins(worker: Worker) -> None:
    with sifting(400, [worker]) as loader:
        first, second = trained_ids(loader), trained_ids(loader)
        stats = loader.stats()
    assert stats.candidates == stats.decided == 800
    assert stats.kept == stats.trained == len(first) + len(second)
    assert set(first) != set(second)


def test_scores_equal_eager_losses_before_and_after_a_sync(worker: Worker) -> None:
    model = toy_model()
    data = Rows(256)
    seen = {}
    keep_all = siftd.LossCdf(beta=1.0, floor=1.0)
    with sifting(256, [worker], model=model, policy=keep_all, sync_every=1, prefetch=1) as loader:
        published = {1: {k: v.clone() for k, v in model.state_dict().items()}}
        for epoch in range(3):
            for _ in loader:
                info = loader.last_batch_info
                assert info is not None
                for i, score, version in zip(info.ids, info.scores, info.model_version, strict=True):
                    seen[(epoch, int(i))] = (float(score), int(version))
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(epoch)))
                model[1].running_mean.add_(0.05)
            loader.step(model)
            version = loader.stats().model_versions
            published[version] = {k: v.clone() for k, v in model.state_dict().items()}
            wait_until("the new version in force", lambda v=version: int(worker.status()["model_version"]) == v)
    versions = {version for _, version in seen.values()}
    assert len(versions) >= 3
    for (_, i), (score, version) in seen.items():
        model.load_state_dict(published[version])
        expected = eager_losses(model, data.x[i : i + 1], data.y[i : i + 1])
        torch.testing.assert_close(torch.tensor([score]), expected, rtol=1e-5, atol=1e-6)


def test_a_worker_killed_in_mid_epoch_loses_nothing(pool: list[Worker]) -> None:
    with sifting(3000, pool) as loader:
        ids: list[int] = []
        for n, _ in enumerate(loader):
            assert loader.last_batch_info is not None
            ids += loader.last_batch_info.ids.tolist()
            if n == 5:
                pool[0].signal(signal.SIGKILL)
        stats = loader.stats()
    assert stats.decided == 3000
    assert len(ids) == stats.kept == len(set(ids))
    with sifting(3000, pool[1:]) as again:
        assert sorted(ids) == sorted(trained_ids(again))


def test_a_worker_that_comes_back_serves_again(tmp_path: Path) -> None:
    with Worker(tmp_path, "--endpoint", f"ipc://{tmp_path}/w.sock") as first:
        loader = sifting(4000, [first], starve_timeout=60.0)
        ids: list[int] = []
        second = None
        for n, _ in enumerate(loader):
            assert loader.last_batch_info is not None
            ids += loader.last_batch_info.ids.tolist()
            if n == 5:
                first.kill()
                second = Worker(tmp_path, "--endpoint", f"ipc://{tmp_path}/w.sock", name="second")
        stats = loader.stats()
        loader.close()
        assert second is not None
        with second:
            assert stats.decided == 4000
            assert stats.unsifted == 0
            assert len(ids) == stats.kept == len(set(ids))


def test_starved_batches_go_out_unsifted_and_flagged(pool: list[Worker]) -> None:
    with sifting(1500, pool, starve_timeout=0.3) as loader:
        flags = []
        ids: list[int] = []
        for n, _ in enumerate(loader):
            info = loader.last_batch_info
            assert info is not None
            flags.append(info.unsifted.any())
            ids += info.ids.tolist()
            if n == 2:
                for w in pool:
                    w.signal(signal.SIGSTOP)
            if flags[-1] and n > 2 and len(ids) > 600:
                for w in pool:
                    w.signal(signal.SIGCONT)
        stats = loader.stats()
    assert stats.breaker_opened >= 1
    assert any(flags)
    assert len(ids) == len(set(ids)) == stats.kept
    assert stats.decided == 1500


def test_local_workers_end_with_the_loader() -> None:
    loader = siftd.SiftingDataLoader(
        DataLoader(Rows(200), 16), model=toy_model(), workers=2, policy=siftd.Uniform(0.5), seed=1
    )
    ids = trained_ids(loader)
    assert loader._running is not None and loader._running.local is not None
    pids = loader._running.local.pids
    assert len(pids) == 2
    loader.close()
    assert len(ids) == loader.stats().kept
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()


def test_local_workers_end_when_the_trainer_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import torch, siftd\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "data = TensorDataset(torch.randn(100000, 4), torch.zeros(100000, dtype=torch.long))\n"
        "loader = siftd.SiftingDataLoader(DataLoader(data, 8), model=torch.nn.Linear(4, 2), workers=1)\n"
        "for n, _ in enumerate(loader):\n"
        "    if n == 0: print(loader._running.local.pids[0], flush=True)\n"
    )
    trainer = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client" / "python")},
    )
    assert trainer.stdout is not None
    pid = int(trainer.stdout.readline())
    trainer.kill()
    trainer.wait(10)
    trainer.stdout.close()

    def gone() -> bool:
        try:
            return "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True

    wait_until("the worker ended with its trainer", gone)


def test_resume_repeats_and_loses_nothing(worker: Worker) -> None:
    def make() -> siftd.SiftingDataLoader:
        loader = DataLoader(Rows(700), 16, shuffle=True, generator=torch.Generator().manual_seed(5))
        return siftd.SiftingDataLoader(
            loader, model=toy_model(), workers=[worker.endpoint], policy=siftd.Uniform(0.5), seed=7
        )

    with make() as undisturbed:
        expected = [Counter(trained_ids(undisturbed)) for _ in range(2)]

    ids: Counter[int] = Counter()
    with make() as loader:
        for n, _ in enumerate(loader):
            assert loader.last_batch_info is not None
            ids.update(loader.last_batch_info.ids.tolist())
            loader.step()
            if n == 6:
                state = pickle.loads(pickle.dumps(loader.state_dict()))
                break
    with make() as loader:
        loader.load_state_dict(state)
        ids.update(trained_ids(loader))
        assert ids == expected[0]
        assert Counter(trained_ids(loader)) == expected[1]


def test_steps_per_epoch_gives_exactly_that_many_full_batches(worker: Worker) -> None:
    with sifting(300, [worker], steps_per_epoch=7) as loader:
        assert len(loader) == 7
        for _ in range(4):
            sizes = [len(y) for _, y in loader]
            assert sizes == [16] * 7


def test_a_nan_loss_is_dropped_and_counted(worker: Worker) -> None:
    x = torch.randn(64, 4)
    x[10] = math.nan
    data = TensorDataset(x, torch.zeros(64, dtype=torch.long))
    policy = siftd.LossCdf(beta=1.0, floor=1.0)
    with siftd.SiftingDataLoader(
        DataLoader(data, 16), model=nn.Linear(4, 2), workers=[worker.endpoint], policy=policy
    ) as loader:
        assert sorted(trained_ids(loader)) == [i for i in range(64) if i != 10]
    assert int(worker.status()["non_finite_rows"]) == 1


def test_nan_weights_are_refused_and_the_old_version_stays(worker: Worker) -> None:
    model = toy_model()
    with sifting(2000, [worker], model=model, sync_every=1) as loader:
        iterator = iter(loader)
        next(iterator)
        with torch.no_grad():
            model[0].weight[0, 0] = math.nan
        loader.step(model)
        wait_until("the refusal", lambda: int(worker.status()["model_refused"]) == 1)
        status = worker.status()
        assert int(status["model_version"]) == 1
        assert status["errors"] == {"MODEL_NOT_FINITE": "1"}


def test_another_jobs_loader_is_refused_by_name(worker: Worker) -> None:
    with sifting(500, [worker], job="mine") as loader:
        next(iter(loader))
        other = sifting(500, [worker], job="yours", start_timeout=20.0)
        with pytest.raises(siftd.WorkerError, match="job is 'yours'; this worker serves 'mine'"):
            next(iter(other))
        other.close()


def test_no_worker_there_is_a_timeout_that_names_peer_and_stage() -> None:
    loader = siftd.SiftingDataLoader(
        DataLoader(Rows(50), 16), model=toy_model(), workers=["tcp://127.0.0.1:9"], start_timeout=0.5
    )
    with pytest.raises(siftd.SiftdTimeoutError, match="tcp://127.0.0.1:9: taking the first weights took more"):
        next(iter(loader))
    loader.close()


def test_a_batch_larger_than_allowed_goes_out_unsifted_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Worker(tmp_path, "--max-batch-bytes", "1KiB") as w:
        data = TensorDataset(torch.randn(64, 200), torch.zeros(64, dtype=torch.long))
        with siftd.SiftingDataLoader(
            DataLoader(data, 32), model=nn.Linear(200, 2), workers=[w.endpoint], policy=siftd.Uniform(0.1)
        ) as loader:
            assert sorted(trained_ids(loader)) == list(range(64))
            stats = loader.stats()
    assert stats.rejected_batches == 2
    assert stats.unsifted == 64
    assert "allowed: 1024 bytes" in caplog.text


def test_a_worker_serves_one_model_after_the_other(worker: Worker) -> None:
    """Bug: the publisher took a worker's word that it had the scorer, which was that of the job before."""
    for classes in (5, 7):
        data = TensorDataset(torch.randn(64, 8), torch.arange(64) % classes)
        with siftd.SiftingDataLoader(
            DataLoader(data, 16), model=nn.Linear(8, classes), workers=[worker.endpoint], policy=siftd.Uniform(0.5)
        ) as loader:
            assert sum(len(y) for _, y in loader) == loader.stats().kept
            assert loader.stats().unsifted == 0


def test_what_is_kept_about_batches_does_not_keep_their_rows(worker: Worker, either_client: str) -> None:
    with sifting(320, [worker]) as loader:
        infos = [loader.last_batch_info for _ in loader]
    rows = [len(i.ids) for i in infos if i is not None]
    assert len(rows) > 5 and set(rows[:-1]) == {16}
    if either_client == "compiled":
        assert all(i._batch.names == [] for i in infos)  # type: ignore[union-attr]


def test_a_closed_loader_lets_go_of_the_users_batches(worker: Worker) -> None:
    """Whichever thread used them last."""
    given: list[weakref.ref[Any]] = []

    def collate(rows: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        x = np.stack([r[0].numpy() for r in rows])
        given.append(weakref.ref(x))
        return torch.from_numpy(x), torch.tensor([r[1] for r in rows])

    loader = siftd.SiftingDataLoader(
        DataLoader(Rows(3200), 16, collate_fn=collate), model=toy_model(), workers=[worker.endpoint], prefetch=1
    )
    for _, batch in zip(range(3), loader, strict=False):
        del batch
    loader.close()
    del loader
    gc.collect()
    assert len(given) > 3
    assert [r for r in given if r() is not None] == []
