# SPDX-License-Identifier: Apache-2.0
"""Options of cheaper scores in Python: their ranges, what they do to a field, who takes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import siftd
from siftd._select.score_cost import ScoreCost
from support import Rows, toy_model


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"score_dtype": "fp8"}, "score_dtype is 'fp8'; allowed: float32 or bf16"),
        ({"score_resolution": 4}, "score_resolution is 4; allowed"),
        ({"score_optimize": True, "workers": "inline"}, "score_optimize is True; allowed: False"),
        ({"score_optimize": True, "score_dtype": "bf16"}, "score_optimize is True; allowed: False"),
        ({"rescore_every": 0}, "rescore_every is 0; allowed"),
        ({"rescore_every": 255}, "rescore_every is 255; allowed"),
        (
            {"score_dtype": "bf16", "workers": ["tcp://127.0.0.1:1"]},
            "start those with `--score-dtype bf16 --score-resolution 0`",
        ),
    ],
)
def test_refusals_name_the_option_and_what_is_allowed(options: dict[str, Any], text: str) -> None:
    with pytest.raises(siftd.ConfigError) as refused:
        siftd.SiftingDataLoader(DataLoader(Rows(8), 4), model=toy_model(), **options)
    assert text in str(refused.value)


def test_rescoring_needs_ids_that_name_samples() -> None:
    batches = [(torch.zeros(4, 8), torch.zeros(4, dtype=torch.long))]
    with pytest.raises(siftd.ConfigError, match="shows no dataset indices; or ids="):
        siftd.SiftingDataLoader(batches, batch_size=4, model=toy_model(), rescore_every=2)
    with pytest.raises(siftd.ConfigError, match="shows no dataset indices"):
        siftd.CandidateLoader(["tcp://127.0.0.1:1"], batches, rescore_every=2)
    siftd.SiftingDataLoader(batches, batch_size=4, model=toy_model(), rescore_every=2, ids=lambda b: range(4))


def test_flags_are_the_workers() -> None:
    assert ScoreCost().flags() == ()
    assert ScoreCost("bf16", 16).flags() == ("--score-dtype", "bf16", "--score-resolution", "16")
    assert ScoreCost(optimize=True).flags()[-1] == "--score-optimize"


def test_only_larger_images_are_scaled() -> None:
    image, small, table = torch.rand(2, 3, 32, 24), torch.rand(2, 3, 16, 9), torch.rand(2, 40)
    out = ScoreCost(resolution=16).shrunk([image, small, table])
    assert torch.equal(out[0], F.interpolate(image, size=(16, 16), mode="bilinear"))
    assert out[1] is small
    assert out[2] is table


def test_bytes_stay_bytes() -> None:
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    (out,) = ScoreCost(resolution=16).shrunk([image])
    assert out.dtype == torch.uint8
    assert torch.equal(out, F.interpolate(image.float(), size=(16, 16), mode="bilinear").round().to(torch.uint8))


def test_integers_are_no_image() -> None:
    tokens = torch.ones(2, 1, 32, 32, dtype=torch.long)
    assert ScoreCost(resolution=16).shrunk([tokens])[0] is tokens
