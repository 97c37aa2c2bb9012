# SPDX-License-Identifier: MIT
"""The parts of a machine: what they refuse, with the value and the limit."""

import pytest

from vfioemu.core.base.profile import DEFAULT
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.spec import GROUP_MAX, ContainerOptions, GroupSpec


@pytest.mark.parametrize(
    ("reserved", "told"),
    [
        ((0x2000, 0x1FFF), "reserved range [0x2000, 0x1fff]: start is after end"),
        ((-1, 0), "reserved range [-0x1, 0x0] is outside 0..0xffffffffffffffff"),
        ((0, 1 << 64), "reserved range [0x0, 0x10000000000000000] is outside 0..0xffffffffffffffff"),
    ],
)
def test_a_reserved_range_begins_before_it_ends_within_64_bits(reserved, told):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared as a whole
        IommuSpec(reserved=(reserved,))
    assert str(caught.value) == told


@pytest.mark.parametrize("reserved", [(0, 0), (0, (1 << 64) - 1)])
def test_a_reserved_range_may_be_a_byte_or_everything(reserved):
    assert IommuSpec(reserved=(reserved,)).reserved == (reserved,)


@pytest.mark.parametrize("number", [-1, GROUP_MAX + 1])
def test_a_group_number_is_an_int_of_the_kernel(number):
    with pytest.raises(ValueError, match=rf"^group number {number} is outside 0\.\.2147483647$"):
        GroupSpec(number=number)
    assert GroupSpec(number=GROUP_MAX).number == GROUP_MAX


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("colour=red", "^unknown container option 'colour'; there are profile, quirks, manual-clear$"),
        (",", "^unknown container option ''; there are "),
        ("quirks", "^container option 'quirks' lacks a value, one of recorded, clean$"),
        ("quirks=none", "^container option quirks: 'none' is none of recorded, clean$"),
        ("quirks=", "^container option quirks: '' is none of recorded, clean$"),
        ("quirks=clean,quirks=clean", "^container option 'quirks' is given twice$"),
    ],
)
def test_container_options_say_what_there_is(text, told):
    with pytest.raises(ValueError, match=told):
        ContainerOptions.parse(text)


def test_container_options_are_read():
    text = f"profile={DEFAULT.name},quirks=clean,manual-clear=fixed"
    assert ContainerOptions.parse(text) == ContainerOptions(
        profile=DEFAULT.name, quirks="clean", manual_clear="fixed"
    )
    assert ContainerOptions.parse("") == ContainerOptions()
