# SPDX-License-Identifier: MIT
"""VFIO_DEVICE_FEATURE: any flags and sizes, against the order of checks said in another way."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.releases import every_release
from vfioemu.core.model.device import DeviceModel
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

GET, SET, PROBE = c.VFIO_DEVICE_FEATURE_GET, c.VFIO_DEVICE_FEATURE_SET, c.VFIO_DEVICE_FEATURE_PROBE
FEATURES = {1: (GET, 8), 2: (GET | SET, 8), 6: (SET, 24), 7: (SET, 0), 8: (GET, 32), 9: (GET, 8)}
LOGGING = {6, 7, 8}


class Featured(DeviceModel):
    """With migration, DMA logging, both or none of them."""

    def __init__(self, migration, logging):
        super().__init__({})
        self.migration_flags = migration
        self.has_dma_logging = logging

    def stop_copy_size(self):
        return 0x1234


def refusal(argsz, flags, migration, logging):
    """The errno that the shared checks give, None if they let the call pass, 0 if it is only a probe."""
    number, asked = flags & 0xFFFF, flags & (GET | SET)
    if argsz < 8 or flags >= 1 << 19 or (asked == GET | SET and not flags & PROBE):
        return "EINVAL"
    if number not in FEATURES or not (logging if number in LOGGING else migration):
        return "ENOTTY"
    ops, size = FEATURES[number]
    if asked & ~ops:
        return "EINVAL"
    if flags & PROBE:
        return 0
    return None if asked and argsz >= 8 + size else "EINVAL"


FLAGS = st.builds(
    lambda number, ops, extra: number | ops << 16 | extra << 19,
    st.integers(0, 14) | st.integers(0, 0xFFFF),
    st.integers(0, 7),
    st.sampled_from([0, 0, 0, 1, 0x1000]),
)


@given(st.integers(0, 48) | st.just(0xFFFFFFFF), FLAGS, st.sampled_from([0, 1, 7]), st.booleans())
def test_any_header_is_judged_as_by_the_kernel(argsz, flags, migration, logging):
    bench = Bench(Featured(migration, logging))
    bench.process.memory.write(bench.arg, struct.pack("<II", argsz, flags))
    header_only = bench.arg + (64 << 10) - 8
    bench.process.memory.write(header_only, struct.pack("<II", argsz, flags))
    expected = refusal(argsz, flags, migration, logging)

    result = bench.process.ioctl(bench.fd, c.VFIO_DEVICE_FEATURE, header_only)

    if expected is None:  # what follows is the feature's own: all but STOP have a payload, which is not there
        expected = "EFAULT" if FEATURES[flags & 0xFFFF][1] else 0
    assert (result.err or 0) == expected


@pytest.mark.parametrize(("number", "value"), [(1, 7), (9, 0x1234)])
def test_answers_of_eight_bytes(number, value):
    bench = Bench(Featured(7, logging=False))

    result, payload = bench.feature(GET | number, bytes(8))

    assert result.ret == 0
    assert payload == struct.pack("<Q", value)


INFO_V2 = c.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2


@pytest.mark.parametrize(
    ("migration", "flags", "errno"),
    [(7, SET, None), (7, PROBE | SET, None), (7, GET, "EINVAL"), (1, SET, "EINVAL"), (0, PROBE, "EINVAL")],
)
@every_release
def test_flags_of_precopy_info_can_be_asked_for_where_the_release_has_them(profile, migration, flags, errno):
    bench = Bench(Featured(migration, logging=False))
    bench.iommu.profile = profile
    errno = errno if profile.has_feature(INFO_V2) else "ENOTTY"

    assert bench.feature(flags | INFO_V2)[0].err == errno
