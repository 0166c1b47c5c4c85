# SPDX-License-Identifier: Apache-2.0
"""The drop-in with a model that can't be exported: local workers run it as Python, a pool is told what to do."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import siftd
from support import Rows, Worker, eager_losses


class LooksIntoValues(nn.Module):
    """As many hops as the row's own first feature says: no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.hop, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = []
        for row in x:
            h = self.first(row)
            for _ in range(1 + int(row[0] * 3)):
                h = torch.relu(self.hop(h))
            rows.append(self.head(h))
        return torch.stack(rows)


def test_local_workers_run_it_as_python_with_one_warning() -> None:
    model, data = LooksIntoValues(), Rows(256)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loader = siftd.SiftingDataLoader(
            DataLoader(data, 16), model=model, workers=1, policy=siftd.LossCdf(beta=1.0, floor=1.0), sync_every=1
        )
        seen = {}
        for _ in range(2):
            for _ in loader:
                info = loader.last_batch_info
                assert info is not None
                for i, score, version in zip(info.ids, info.scores, info.model_version, strict=True):
                    seen[int(i)] = (float(score), int(version))
    about = [
        str(w.message) for w in told if "runs it as Python" in str(w.message) or "run it as Python" in str(w.message)
    ]
    assert len(about) == 1, [str(w.message) for w in told]
    assert "can't be exported" in about[0]
    stats = loader.stats()
    loader.close()
    assert isinstance(loader.scorer, siftd.PythonScorer)
    assert (stats.decided, stats.unsifted, len(seen)) == (512, 0, 256)
    ids = torch.tensor(sorted(seen))
    scores = torch.tensor([seen[int(i)][0] for i in ids])
    torch.testing.assert_close(scores, eager_losses(model, data.x[ids], data.y[ids]), rtol=1e-4, atol=1e-5)


def test_a_pool_is_told_what_to_do(worker: Worker) -> None:
    loader = siftd.SiftingDataLoader(DataLoader(Rows(64), 16), model=LooksIntoValues(), workers=[worker.endpoint])
    with pytest.raises(siftd.ExportError, match=r"--backend python.*PythonScorer\.from_factory"):
        next(iter(loader))
