# SPDX-License-Identifier: MIT
"""What a dma-engine knows of its own pins: any number of them, the last ones in their order."""

import tracemalloc

import pytest

from vfioemu.devices.dma_engine import pins
from vfioemu.devices.dma_engine.pins import HeldPages

PAGE = 4096


class Host:
    """Pins whatever it is asked for."""

    def __init__(self):
        self.unpinned = []

    def pin(self, iova, npages, prot):
        yield from ()

    def unpin(self, iova, npages):
        yield from ()
        self.unpinned.append((iova // PAGE, npages))


def done(steps):
    with pytest.raises(StopIteration):
        next(steps)


def acquire(held, host, first, count):
    done(held.acquire(host, range(first * PAGE, (first + count) * PAGE, PAGE)))


def trim(held, host, most):
    done(held.trim(host, most))


def test_the_oldest_go_first_also_when_their_order_is_forgotten(monkeypatch):
    monkeypatch.setattr(pins, "RECENT", 4)
    held, host = HeldPages(), Host()
    for page in (9, 2, 7, 1, 8, 3):
        acquire(held, host, page, 1)

    trim(held, host, 3)

    assert sorted(host.unpinned[:-1]) == [
        (2, 1),
        (9, 1),
    ]  # which of these two came first is not known any more
    assert host.unpinned[-1] == (7, 1)
    assert (len(held), 8 * PAGE in held, 2 * PAGE in held) == (3, True, False)


def test_what_is_unmapped_is_forgotten_wherever_it_is_kept(monkeypatch):
    monkeypatch.setattr(pins, "RECENT", 4)
    held, host = HeldPages(), Host()
    acquire(held, host, 0, 8)

    held.forget(2 * PAGE, 4 * PAGE)

    assert [page for page in range(8) if page * PAGE in held] == [0, 1, 6, 7]


@pytest.mark.slow
def test_half_a_million_pages_cost_little():
    held, host = HeldPages(), Host()
    tracemalloc.start()
    try:
        for first in range(0, 1 << 19, 512):
            acquire(held, host, first, 512)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(held) == 1 << 19
    assert size < 12 << 20  # nearly all of it for those whose order is known
