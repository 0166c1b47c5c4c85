# SPDX-License-Identifier: Apache-2.0
"""score_dtype and score_resolution with real workers of both backends: the scores, and what can't be done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import siftd

KEEP_ALL = siftd.LossCdf(beta=1.0, floor=1.0)


def data(n: int = 96) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.rand(n, 3, 16, 16, generator=generator), torch.randint(0, 5, (n,), generator=generator))


def convolutions(pooled: bool) -> nn.Module:
    torch.manual_seed(2)
    body = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)] if pooled else [nn.Flatten(), nn.Linear(2048, 5)]
    return nn.Sequential(*body, *head)


def pooled_scorer() -> Any:
    return convolutions(True), "cross_entropy", tuple(t[:4] for t in data().tensors)


def fixed_scorer() -> Any:
    return convolutions(False), "cross_entropy", tuple(t[:4] for t in data().tensors)


def scores_of(model: nn.Module, **options: Any) -> np.ndarray[Any, Any]:
    """Losses by id, as the worker gives them."""
    found = np.full(96, np.nan, np.float32)
    options = {"workers": 1, "policy": KEEP_ALL, "seed": 3, **options}
    with siftd.SiftingDataLoader(DataLoader(data(), 32, shuffle=True), model=model, **options) as loader:
        for _ in loader:
            assert loader.last_batch_info is not None
            found[loader.last_batch_info.ids.astype(np.int64)] = loader.last_batch_info.scores
    return found


def eager(model: nn.Module, x: torch.Tensor) -> np.ndarray[Any, Any]:
    model.eval()
    with torch.no_grad():
        losses = F.cross_entropy(model(x), data().tensors[1], reduction="none")
    model.train()
    return losses.numpy()


def backend_options(backend: str, model: nn.Module) -> dict[str, Any]:
    match backend:
        case "inline":
            return {"workers": "inline"}
        case "python":
            return {"scorer": siftd.PythonScorer.from_objects(*(model, *pooled_scorer()[1:]))}
    return {}


@pytest.mark.parametrize("backend", ["jit", "python", "inline"])
def test_images_are_scored_at_the_lower_resolution(backend: str) -> None:
    model = convolutions(True)
    found = scores_of(model, score_resolution=8, **backend_options(backend, model))
    want = eager(model, F.interpolate(data().tensors[0], size=(8, 8), mode="bilinear"))
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["jit", "python", "inline"])
def test_bf16_scores_are_close_and_not_equal(backend: str) -> None:
    model = convolutions(True)
    found = scores_of(model, score_dtype="bf16", **backend_options(backend, model))
    want = eager(model, data().tensors[0])
    np.testing.assert_allclose(found, want, rtol=0.02, atol=0.02)
    assert not np.array_equal(found, want)


def test_an_optimized_scorer_gives_the_same_scores() -> None:
    model = convolutions(True)
    found = scores_of(model, score_optimize=True)
    np.testing.assert_allclose(found, eager(model, data().tensors[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["jit", "python"])
def test_a_model_of_a_fixed_size_is_refused_when_the_worker_starts(backend: str) -> None:
    model = convolutions(False)
    options: dict[str, Any] = {}
    if backend == "python":
        options["scorer"] = siftd.PythonScorer.from_objects(*(model, *fixed_scorer()[1:]))
    with pytest.raises(siftd.WorkerError) as refused:
        scores_of(model, score_resolution=8, **backend_options(backend, model))
    assert "score_resolution is 8; allowed: what this scorer can compute. It takes" in str(refused.value)
    assert "and failed: " in str(refused.value)


@pytest.mark.parametrize("backend", ["jit", "python"])
def test_a_scorer_without_images_is_refused(backend: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.rand(32, 4), torch.randint(0, 3, (32,))
    options: dict[str, Any] = {}
    if backend == "python":
        options["scorer"] = siftd.PythonScorer.from_objects(model, "cross_entropy", (x[:4], y[:4]))
    loader = siftd.SiftingDataLoader(
        DataLoader(TensorDataset(x, y), 8), model=model, workers=1, score_resolution=8, **options
    )
    with loader, pytest.raises(siftd.WorkerError, match=r"allowed: 0 for a scorer without images \[n, c, h, w\]"):
        next(iter(loader))
