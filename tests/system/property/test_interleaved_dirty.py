# SPDX-License-Identifier: MIT
"""No dirty page is lost, however the effects of two processes' calls come after one another (tests/fuzzing/storm.py)."""

import random

import pytest

from tests.fuzzing.storm import EXPECTED, Storm
from vfioemu.core.base.effects import DmaWrite
from vfioemu.core.type1 import Type1


@pytest.mark.parametrize("quirks", ["recorded", "clean"])
@pytest.mark.parametrize("seed", range(6))
def test_copy_of_reported_pages_is_the_guest(seed, quirks):
    storm = Storm(random.Random(seed), quirks)

    stale = [storm.round() for _ in range(40)]

    assert not any(stale), stale
    assert storm.errors <= EXPECTED
    storm.end()


def mark_too_early(iommu, iova, data):
    """What rw_write() must not be: marks first, and holds no lock."""
    dma = iommu.map.find(iova, 1)
    iommu.mark(dma, iova - dma.iova, len(data))
    yield DmaWrite(dma.space, dma.vaddr + iova - dma.iova, data)


def test_mark_before_the_write_is_found(monkeypatch):
    monkeypatch.setattr(Type1, "rw_write", mark_too_early)

    storms = [Storm(random.Random(seed)) for seed in range(20)]

    assert any(storm.round() for storm in storms for _ in range(20))
