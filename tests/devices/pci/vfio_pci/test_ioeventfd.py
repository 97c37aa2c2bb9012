# SPDX-License-Identifier: MIT
"""IOEVENTFD: eventfds that write to BARs."""

import struct

import pytest

from tests.devices.pci.rigs import ADDRESS, CONFIG, Console, Recorder, at
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c


def ioeventfd(console, flags, place, data, name, argsz=32):
    payload = struct.pack("<IIQQiI", argsz, flags, place, data, console.fds[name], 0)
    result = console.bench.ioctl(c.VFIO_DEVICE_IOEVENTFD, payload)
    return result.err


@pytest.fixture
def console():
    made = Console()
    made.bench = Bench(Recorder(), name=ADDRESS)
    made.fds = {
        "a": made.bench.process.eventfd(),
        "null": made.bench.process.null(),
        "closed": 999,
        None: -1,
        "odd": -2,
    }
    return made


def test_a_signalled_eventfd_writes(console):
    assert ioeventfd(console, 4, at(2, 8), 0x1122334455667788, "a") is None
    assert ioeventfd(console, 2, at(1, 2), 0xABCD, "a") is None

    console.write_eventfd("a")

    seen = console.bench.model.hardware.seen
    assert sorted(seen) == [("w", 1, 2, b"\xcd\xab"), ("w", 2, 8, b"\x88\x77\x66\x55")]
    seen.clear()
    assert console.bench.pwrite(b"\0", CONFIG + 4).ret == 1
    console.write_eventfd("a")
    assert seen == [("w", 1, 2, b"\xcd\xab")]  # ports only

    assert ioeventfd(console, 2, at(1, 2), 0xABCD, None) is None
    assert ioeventfd(console, 2, at(1, 2), 0xABCD, None) == "ENODEV"
    console.bench.process.close(console.bench.fd)
    assert console.bench.process.fds[console.fds["a"]].what.references == 0


@pytest.mark.parametrize(
    ("flags", "place", "name", "argsz", "answer"),
    [
        (4, at(2), "a", 27, "EINVAL"),
        (0x14, at(2), "a", 32, "EINVAL"),
        (0, at(2), "a", 32, "EINVAL"),
        (6, at(2), "a", 32, "EINVAL"),
        (8, at(2), "a", 32, None),
        (8, at(2, 0x7F9), "a", 32, "EINVAL"),
        (4, at(2), "odd", 32, "EINVAL"),
        (4, at(2, 0x7FD), "a", 32, "EINVAL"),
        (4, at(5), "a", 32, "EINVAL"),
        (4, at(7), "a", 32, "EINVAL"),
        (4, at(4, 0xFFE), "a", 32, "EINVAL"),
        (4, at(4, 0x1040), "a", 32, None),
        (4, at(2), "null", 32, "EINVAL"),
        (4, at(2), "closed", 32, "EBADF"),
        (4, at(2), None, 32, "ENODEV"),
    ],
)
def test_rules_that_are_refused(console, flags, place, name, argsz, answer):
    assert ioeventfd(console, flags, place, 0, name, argsz) == answer


def test_the_same_rule_twice(console):
    assert ioeventfd(console, 1, at(2), 5, "a") is None
    assert ioeventfd(console, 1, at(2), 5, "a") == "EEXIST"
    assert ioeventfd(console, 1, at(2), 6, "a") is None
