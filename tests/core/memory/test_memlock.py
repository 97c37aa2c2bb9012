# SPDX-License-Identifier: MIT
"""Locked memory: what is counted, what it is held against, and the conversions when hardware comes and goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

PAGE = 4096


def limited(rig, groups, pages, **more):
    client = rig(groups, **more)
    client.process.limit_memlock(pages * PAGE)
    return client


def test_mdev_pays_for_pinned_pages_once(rig):
    client = limited(rig, "mdev mdev", 3)
    client.map(0, 8 * PAGE)

    assert [client.pin(0, 2, n=0), client.pin(PAGE, 2, n=1)] == [2, 2]
    assert client.process.locked_pages == 3
    assert client.pin(4 * PAGE) == "ENOMEM"
    assert client.write(4 * PAGE, b"x") is None
    client.unpin(0, 2, n=0)
    assert client.process.locked_pages == 2
    client.finish()


def test_hardware_pays_for_whole_mappings_and_pins_are_free(rig):
    client = limited(rig, "pci", 4)

    assert client.map(0, 5 * PAGE) == "ENOMEM"
    assert client.map(0, 3 * PAGE) == 0
    assert client.map(4 * PAGE, 2 * PAGE) == "ENOMEM"
    assert client.pin(0, 3) == 3
    assert client.process.locked_pages == 3
    assert client.unmap(0, 3 * PAGE) == 3 * PAGE
    assert client.process.locked_pages == 0


def test_capability_lifts_the_limit(rig):
    client = rig("pci")
    client.process._memlock = 0

    assert client.map(0, 4 * PAGE) == 0
    assert client.process.locked_pages == 4


@pytest.mark.parametrize(
    ("memlock", "answer"), [("off", 0), (4 * PAGE, 0), (4 * PAGE - 1, "ENOMEM"), (0, "ENOMEM")]
)
@pytest.mark.parametrize("capable", [True, False])
def test_modes_off_and_bytes_do_not_ask_the_client(rig, memlock, answer, capable):
    client = rig("pci", memlock=memlock)
    if not capable:
        client.process.limit_memlock(0)

    assert client.map(0, 4 * PAGE) == answer


def test_missing_page_and_limit_whoever_comes_first(rig):
    client = limited(rig, "pci", 2)
    client.memory.protect(client.data + 2 * PAGE, PAGE, "none")
    assert client.map(0, 4 * PAGE) == "EFAULT"
    client.memory.protect(client.data + 2 * PAGE, PAGE, "rw")
    client.memory.protect(client.data + 3 * PAGE, PAGE, "none")

    assert client.map(0, 4 * PAGE) == "ENOMEM"


def test_hardware_that_comes_pays_for_what_was_not_pinned_and_gives_it_back(rig):
    client = limited(rig, "mdev pci", 10, joined=1)
    client.map(0, 8 * PAGE)
    client.pin(2 * PAGE, 3)
    client.open_group(1)

    assert client.set_container(1) == 0
    assert client.process.locked_pages == 8
    client.unpin(2 * PAGE)
    assert client.process.locked_pages == 8
    assert client.unset_container(1) == 0
    assert client.process.locked_pages == 2
    client.finish()


def test_hardware_that_does_not_fit_the_limit_is_enomem_and_changes_nothing(rig):
    client = limited(rig, "mdev pci", 7, joined=1)
    client.map(0, 4 * PAGE)
    client.map(4 * PAGE, 4 * PAGE)
    client.pin(0)
    client.open_group(1)

    assert client.set_container(1) == "ENOMEM"
    assert client.process.locked_pages == 1
    assert client.unmap(0, 4 * PAGE) == 4 * PAGE
    assert client.set_container(1) == 0
    client.finish()


@given(
    pinned=st.sets(st.integers(0, 15)),
    limit=st.integers(0, 20),
    hole=st.none() | st.integers(0, 15),
)
def test_replay_meets_limit_and_holes_in_the_order_of_pages(rig, pinned, limit, hole):
    client = limited(
        rig, "mdev pci", 99, joined=1
    )  # CAP_IPC_LOCK counts as it was at MAP_DMA, the limit as it is now
    client.map(0, 16 * PAGE)
    for page in pinned:
        client.pin(page * PAGE)
    client.process.limit_memlock(limit * PAGE)
    if hole is not None:
        client.memory.protect(client.data + hole * PAGE, PAGE, "none")
    expected: int | str = 0
    locked = len(pinned)
    for page in range(16):
        if page == hole:
            expected = "EFAULT"
            break
        if page not in pinned:
            locked += 1
            if locked > limit:
                expected = "ENOMEM"
                break
    client.open_group(1)

    assert client.set_container(1) == expected
    assert client.process.locked_pages == (16 if expected == 0 else len(pinned))
    client.finish()
