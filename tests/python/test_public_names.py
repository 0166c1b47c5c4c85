# SPDX-License-Identifier: Apache-2.0
"""siftd's public names are imported when they are first used: each must be where the package says."""

from __future__ import annotations

import pytest

import siftd


@pytest.mark.parametrize("name", siftd.__all__)
def test_a_public_name_can_be_had(name: str) -> None:
    assert getattr(siftd, name).__name__ == name


def test_all_public_names_have_a_home_and_no_others() -> None:
    assert sorted(siftd._HOME_OF) == sorted(siftd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Sifter'"):
        siftd.Sifter  # noqa: B018
