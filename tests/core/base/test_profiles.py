# SPDX-License-Identifier: MIT
"""Kernel releases differ where they say so, and nowhere else: the same calls on each and on the one it is based on."""

import struct
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.core.calls import PAGE, TOP, Call
from tests.core.lockstep import Disagreement, run
from tests.core.rules import RULES, pair_of, rules_of
from tests.releases import REVISED
from vfioemu.uapi.profile import FACTS

HIGH = TOP - PAGE

containers = st.sampled_from([0, 0, 0, 1])
groups = st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5])
iovas = st.one_of(
    st.integers(0, 40).map(lambda page: page * PAGE),
    st.sampled_from(
        [HIGH, HIGH, HIGH - PAGE, HIGH - 8 * PAGE, 1, 1 << 39, (1 << 39) - PAGE, 0xFEE00000, TOP - 1]
    ),
)
sizes = st.one_of(
    st.integers(1, 16).map(lambda pages: pages * PAGE),
    st.sampled_from([0, 1, PAGE + 1, HIGH, TOP - 1, 1 << 40]),
)
vaddrs = st.sampled_from([0x10000000, 0x10000000, 0x10000000, HIGH, 1])


def ioctl(name, layout, *fields, on=containers, bitmap=None, data=None):
    """A strategy for an ioctl whose payload has these fields."""
    return st.builds(
        lambda on, values: Call(name, on, struct.pack("<" + layout, *values), bitmap=bitmap, data=data),
        on,
        st.tuples(*fields),
    )


def argument(name, values, on=containers):
    return st.builds(lambda on, value: Call(name, on, value=value), on, values)


def act(name, *numbers, on=groups):
    return st.builds(lambda on, values: Call(name, on, numbers=values), on, st.tuples(*numbers))


sometimes = lambda usual, *odd: st.sampled_from([usual] * 6 + list(odd))  # noqa: E731
feature_flags = st.builds(
    lambda number, how: number | how,
    st.sampled_from([12, 12, 11, 1, 2, 6, 8, 9, 10, 13]),
    st.sampled_from([0, 1 << 16, 2 << 16, 3 << 16, 4 << 16, 5 << 16, 6 << 16, 7 << 16, 1 << 19]),
)

map_head = (sometimes(32, 31, 64), sometimes(3, 0, 1, 4, 7, 8))

calls = st.one_of(
    ioctl("VFIO_IOMMU_MAP_DMA", "IIQQQ", *map_head, vaddrs, iovas, sizes),
    ioctl("VFIO_IOMMU_MAP_DMA", "IIQQQ", *map_head, st.just(0), iovas, sizes, data=8),
    ioctl("VFIO_IOMMU_MAP_DMA", "IIQQQ", *map_head, st.just(0), iovas, sizes, data=8),
    ioctl("VFIO_IOMMU_UNMAP_DMA", "IIQQ", sometimes(24, 23), sometimes(0, 2, 4, 8, 6), iovas, sizes),
    ioctl(
        "VFIO_IOMMU_UNMAP_DMA", "IIQQQQQ", sometimes(48, 40), st.just(1), iovas, sizes,
        sometimes(PAGE, 0, 8192), sometimes(512, 0, 8), st.just(0), bitmap=40,
    ),
    ioctl("VFIO_IOMMU_DIRTY_PAGES", "II", sometimes(8, 7), st.sampled_from([1, 1, 2, 3, 8, 16])),
    ioctl(
        "VFIO_IOMMU_DIRTY_PAGES", "IIQQQQQ", sometimes(48, 40), sometimes(4, 8), iovas, sizes,
        sometimes(PAGE, 0, 8192), sometimes(512, 0, 8), st.just(0), bitmap=40,
    ),
    ioctl("VFIO_IOMMU_GET_INFO", "I", st.sampled_from([16, 24, 200, 15])),
    argument("VFIO_CHECK_EXTENSION", st.integers(0, 12)),
    argument("VFIO_SET_IOMMU", st.sampled_from([3, 3, 1, 6, 9, 7])),
    act("container", on=containers),
    act("group"),
    act("join", containers),
    act("device"),
    act("close", st.integers(0, 3)),
    argument("VFIO_GROUP_UNSET_CONTAINER", st.just(0), on=groups),
    ioctl("VFIO_GROUP_GET_STATUS", "II", sometimes(8, 7), st.just(0), on=groups),
    act("pin", iovas, st.sampled_from([1, 2, 3, 0, -1, 512, 513]), st.sampled_from([1, 2, 3])),
    act("unpin", iovas, st.integers(1, 4)),
    act("write", iovas, st.sampled_from([1, PAGE, PAGE + 1, 5 * PAGE])),
    ioctl("VFIO_DEVICE_FEATURE", "II24x", sometimes(24, 7, 8, 9), feature_flags, on=groups),
    ioctl(
        "VFIO_DEVICE_GET_REGION_INFO", "IIII16x", sometimes(32, 31), st.just(0), st.integers(0, 10), sometimes(0, 7),
        on=groups,
    ),
    ioctl("VFIO_DEVICE_GET_INFO", "I20x", sometimes(24, 16, 15), on=groups),
    ioctl(
        "VFIO_DEVICE_IOEVENTFD", "IIQQiI", sometimes(32, 31), st.sampled_from([8, 8, 4, 2, 1, 3, 0, 16]),
        sometimes(0, 4, 8, 1, 1 << 40), st.just(0), sometimes(-1, 5), st.just(0), on=groups,
    ),
    argument("VFIO_DEVICE_RESET", st.just(0), on=groups),
    act("state", st.sampled_from([6, 6, 2, 1, 3, 4, 5, 7, 9])),
    ioctl("VFIO_MIG_GET_PRECOPY_INFO", "IIQQ", sometimes(24, 23), sometimes(0xFF, 0), st.just(0), st.just(0), on=groups),
)  # fmt: skip


def set_up(container, type, *members):
    """A container with groups and their devices."""
    return [
        Call("container", container),
        *[call for n in members for call in (Call("group", n), Call("join", n, numbers=(container,)))],
        Call("VFIO_SET_IOMMU", container, value=type),
        *[Call("device", n) for n in members],
    ]


def map_(iova, size, flags=3):
    return Call("VFIO_IOMMU_MAP_DMA", 0, struct.pack("<IIQQQ", 32, flags, 0, iova, size), data=8)


def unmap(iova, size, flags=0):
    return Call("VFIO_IOMMU_UNMAP_DMA", 0, struct.pack("<IIQQ", 24, flags, iova, size))


def dirty(flags, iova=0, size=PAGE):
    return Call(
        "VFIO_IOMMU_DIRTY_PAGES", 0, struct.pack("<IIQQQQQ", 48, flags, iova, size, PAGE, 512, 0), bitmap=40
    )


def feature(device, flags):
    return Call("VFIO_DEVICE_FEATURE", device, struct.pack("<II24x", 32, flags))


beginnings = st.sampled_from(
    [
        [],
        set_up(0, 3, 0, 4),
        set_up(0, 3, 0),
        set_up(0, 3, 2, 5),
        set_up(0, 3, 0, 2),
        set_up(0, 1, 1),
        [*set_up(0, 3, 4), *set_up(1, 3, 5)],
        [*set_up(0, 3, 0), map_(HIGH, PAGE), dirty(1)],
        [*set_up(0, 3, 1), map_(HIGH - PAGE, 2 * PAGE), map_(0, 8 * PAGE), dirty(1)],
        [*set_up(0, 3, 1, 4), map_(1 << 39, PAGE), map_(0, 8 * PAGE), Call("group", 3)],
        [*set_up(0, 3, 4, 5), Call("state", 4, numbers=(6,))],
        [Call("container", 0), Call("group", 3), Call("group", 0), Call("join", 0, numbers=(0,))],
    ]
)


def ioeventfd(device, flags):
    return Call("VFIO_DEVICE_IOEVENTFD", device, struct.pack("<IIQQiI", 32, flags, 0, 0, -1, 0))


@settings(deadline=None, max_examples=4 * settings().max_examples)
@given(beginning=beginnings, steps=st.lists(calls, max_size=30))
@example(beginning=set_up(0, 3, 0, 4, 5), steps=[ioeventfd(device, 8) for device in (0, 4, 5)])
@pytest.mark.parametrize("release", REVISED, ids=lambda release: release.name)
def test_releases_differ_where_the_rules_say_so_and_nowhere_else(release, beginning, steps):
    run([*beginning, *steps], release)


PRECOPY = Call("VFIO_MIG_GET_PRECOPY_INFO", 4, struct.pack("<IIQQ", 24, 0xFF, 0, 0))
NARROW = [Call("group", 3), Call("join", 3, numbers=(0,))]
SHOWN = {
    "MAP_DMA of a range that wraps": [*set_up(0, 3, 0), map_(HIGH, 2 * PAGE, flags=0)],
    "UNMAP_DMA of a range that wraps": [*set_up(0, 3, 0), unmap(HIGH, 2 * PAGE)],
    "GET_BITMAP of a range that wraps": [*set_up(0, 3, 0), dirty(4, HIGH, 2 * PAGE)],
    "vfio_pin_pages() of a range that wraps": [*set_up(0, 3, 0), Call("pin", 0, numbers=(HIGH, 2, 3))],
    "MAP_DMA of what is mapped": [*set_up(0, 3, 0), map_(0, 2 * PAGE), map_(PAGE, PAGE)],
    "a mapping that ends at 2^64": [*set_up(0, 3, 0), map_(HIGH, PAGE), map_(HIGH, PAGE)],
    "GET_BITMAP up to 2^64": [*set_up(0, 3, 0), dirty(1), dirty(4, HIGH, PAGE)],
    "extension 6": [*set_up(0, 3, 0), Call("VFIO_CHECK_EXTENSION", 0, value=6)],
    "SET_IOMMU(6)": set_up(0, 6, 0),
    "a group that is too narrow": [*set_up(0, 3, 0), map_(1 << 40, PAGE), *NARROW],
    "feature 11 of vfio-pci": [*set_up(0, 3, 5), feature(5, 11 | 5 << 16)],
    "cap_offset of GET_REGION_INFO": [
        *set_up(0, 3, 5),
        Call("VFIO_DEVICE_GET_REGION_INFO", 5, struct.pack("<IIII16x", 32, 0, 7, 7)),
    ],
    "an ioctl that one of them does not have": [
        *set_up(0, 3, 4),
        Call("VFIO_CHECK_EXTENSION", 0, value=1),
        Call("VFIO_IOMMU_GET_INFO", 0, struct.pack("<I20x", 24)),
        map_(0, PAGE),
        dirty(1),
        unmap(0, PAGE),
        Call("VFIO_GROUP_GET_STATUS", 4, struct.pack("<II", 8, 0)),
        Call("VFIO_DEVICE_GET_INFO", 4, struct.pack("<I20x", 24)),
        Call("VFIO_DEVICE_GET_REGION_INFO", 4, struct.pack("<I28x", 32)),
        Call("VFIO_DEVICE_RESET", 4, value=0),
        Call("state", 4, numbers=(6,)),
        Call("VFIO_MIG_GET_PRECOPY_INFO", 4, struct.pack("<I20x", 24)),
        *set_up(1, 3, 5),
        ioeventfd(5, 4),
        Call("close", 5, numbers=(2,)),
        Call("VFIO_GROUP_UNSET_CONTAINER", 5, value=0),
    ],
    "an ioeventfd of 8 bytes": [
        *set_up(0, 3, 5),
        Call("VFIO_DEVICE_IOEVENTFD", 5, struct.pack("<IIQQiI", 32, 8, 0x10, 0, -1, 0)),
    ],
    "feature 12 of the core": [*set_up(0, 3, 4), feature(4, 12 | 2 << 16)],
    "flags of PRECOPY_INFO": [
        *set_up(0, 3, 4), Call("state", 4, numbers=(6,)), feature(4, 12 | 2 << 16), PRECOPY,
    ],
}  # fmt: skip


DIFFERENCES = [(release, rule) for release in REVISED for rule in rules_of(pair_of(release))]
"""Each release with each rule about it."""


@pytest.mark.parametrize(
    ("release", "rule"), DIFFERENCES, ids=[f"{release.name}: {rule.name}" for release, rule in DIFFERENCES]
)
def test_each_rule_is_needed(release, rule):
    """The negative control: without a rule, what it allows is found to be a difference."""
    others = tuple(other for other in rules_of(pair_of(release)) if other is not rule)

    assert rule.name in run(SHOWN[rule.name], release)
    with pytest.raises(Disagreement, match=r"no rule says so|they hold"):
        run(SHOWN[rule.name], release, others)


SAID = [
    (release, fact)
    for release in REVISED
    for fact in sorted({fact for rule in RULES for fact in rule.facts})
    if pair_of(release).differ(fact)
]
"""Each release with each fact of it that is not what it is of the release that it is based on."""


@pytest.mark.parametrize(("release", "fact"), SAID, ids=[f"{release.name}: {fact}" for release, fact in SAID])
def test_a_release_that_differs_without_saying_so_is_found(release, fact):
    """The other negative control: its description has the value that the release before has, and it answers as ever."""
    if fact.startswith("VFIO_"):
        silent = replace(release, absent=release.absent ^ {fact})
    else:
        silent = replace(release, **{fact: getattr(release.base, fact)})
    found = 0
    for rule in RULES:
        if fact in rule.facts:
            try:
                run(SHOWN[rule.name], silent)
            except Disagreement:
                found += 1

    assert found


def test_each_rule_says_where_it_comes_from_and_each_fact_is_in_one():
    assert all(".md" in rule.where for rule in RULES)
    assert {rule.name for rule in RULES} == set(SHOWN)
    told = {fact for rule in RULES for fact in rule.facts}
    assert set(FACTS) - told == set()
    absent = {name for release in REVISED for name in release.absent ^ release.base.absent}
    assert absent - told == set()


def test_a_rule_that_is_not_kept_is_found():
    """The other direction: a newer release that answers as the older one where a rule says otherwise."""
    release, rule = DIFFERENCES[0]
    wrong = rule._replace(applies=lambda call, side, pair: lambda old, new: new.result == "E2BIG")

    with pytest.raises(Disagreement, match="by the rule"):
        run(SHOWN[rule.name], release, (wrong, *rules_of(pair_of(release))))
