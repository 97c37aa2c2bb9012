# SPDX-License-Identifier: MIT
"""Migration v1 carries the same bytes as v2, in pieces of any number; a piece that is one byte short is found."""

import struct

import pytest

from tests.system.property import planted
from vfioemu.testing import device, machine
from vfioemu.uapi.flags import DeviceState

REGION = 9
STATE, PENDING, OFFSET, SIZE, DATA = 0, 8, 16, 24, 0x1000
SAVING, STOPPED_SAVING = 3, 2


def read(opened, field, size=8):
    return int.from_bytes(opened.read(REGION, field, size), "little")


def saved_by_v1(stop):
    opened = opened_oracle("v1", stop)
    opened.write(REGION, STATE, struct.pack("<I", STOPPED_SAVING))
    state = b""
    while read(opened, PENDING):
        offset, size = read(opened, OFFSET), read(opened, SIZE)
        state += opened.read(REGION, offset, size)
    return state


def saved_by_v2(stop):
    opened = opened_oracle("v2", stop)
    return opened.set_state(DeviceState.STOP_COPY).read_all()


def opened_oracle(protocol, stop):
    kernel = machine(device("oracle", variant="migs", migration=protocol, iommu=False))
    opened = kernel.client().open("dev0")
    opened.write(0, 0, struct.pack("<8Q", 8, stop, 96, 64, 0, 0, 0, 0))
    return opened


@pytest.mark.parametrize("stop", [1, 256, 4097])
def test_pieces_are_the_stream(stop):
    assert saved_by_v1(stop) == saved_by_v2(stop)
    assert len(saved_by_v2(stop)) == stop


def test_short_pieces_are_found(monkeypatch):
    planted.a_piece_of_v1_is_one_byte_short(monkeypatch)

    assert saved_by_v1(256) != saved_by_v2(256)
