# SPDX-License-Identifier: MIT
"""What is changed on the way is found, whether the user wants a comparison or not."""

import struct
import zlib

import pytest
import trio

from tests.migration.fake import fake_guest
from tests.migration.proxies import Proxy, copy_greeting, read_frame
from tests.migration.test_drivers import QUICK, destination
from vfioemu.migration import stream
from vfioemu.migration.plan import PAGE, Limits, OnMismatch, Reason
from vfioemu.migration.source import Source
from vfioemu.migration.stream import FrameType
from vfioemu.uapi.constants import VFIO_DEVICE_STATE_RUNNING


class Meddler(Proxy):
    """A proxy that changes the first frame of a type on its way to the destination."""

    def __init__(self, target, kind, change):
        self.target = target
        self.kind = kind
        self.change = change
        self.changed = 0

    async def serve(self, left):
        right = await trio.open_tcp_stream(self.target.host, self.target.port)
        async with left, right, trio.open_nursery() as nursery:
            nursery.start_soon(self.copy, right, left, nursery.cancel_scope, False)
            await self.copy(left, right, nursery.cancel_scope, True)

    async def copy(self, here, there, scope, meddle):
        try:
            await copy_greeting(here, there)
            while True:
                frame = await read_frame(here)
                data = frame.data
                if meddle and frame.kind == self.kind and not self.changed:
                    self.changed += 1
                    data = self.change(frame)
                await there.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
            scope.cancel()


def body_of(frame):
    return frame.data[stream.HEADER_SIZE : stream.HEADER_SIZE + frame.body]


def flip(frame):
    """One bit of the last page."""
    data = bytearray(frame.data)
    data[-PAGE // 2] ^= 8
    return bytes(data)


def with_body(frame, body):
    """The frame with another body, and the checksum that belongs to it."""
    head = frame.data[: stream.HEADER.size]
    crc = stream.CRC.pack(zlib.crc32(body, zlib.crc32(head)))
    return head + crc + body + frame.data[stream.HEADER_SIZE + frame.body :]


def shorten(frame):
    """Leave out the last page that is zero: it never comes."""
    body = bytearray(body_of(frame))
    _, count = struct.unpack_from("<QQ", body, len(body) - 16)
    struct.pack_into("<Q", body, len(body) - 8, count - 1 or 1)
    if count == 1:  # the page before it instead
        struct.pack_into("<Q", body, len(body) - 16, struct.unpack_from("<Q", body, len(body) - 16)[0] - 1)
    return with_body(frame, bytes(body))


def misplace(frame):
    """Let the pages of the last run come to their neighbours' place."""
    body = bytearray(body_of(frame))
    (first,) = struct.unpack_from("<Q", body, len(body) - 16)
    struct.pack_into("<Q", body, len(body) - 16, first - 1)
    return with_body(frame, bytes(body))


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    ("kind", "change", "pages"),
    [(FrameType.RAM, flip, 1), (FrameType.RAM, misplace, None), (FrameType.ZERO, shorten, None)],
    ids=["bit", "place", "zero"],
)
async def test_what_is_changed_on_the_way_is_found_before_the_guest_is_given_up(kind, change, pages, verify):
    async with (
        fake_guest(running=True, cpus=0, rate=1) as guest,
        destination(cpus=0) as (address, _, arrivals),
    ):
        meddler = Meddler(address, kind, change)
        async with meddler.up() as proxy:
            result = await Source(guest, proxy, Limits(), patience=QUICK, verify=verify).migrate()
        assert meddler.changed == 1
        assert not arrivals
        assert result.finish.source_runs
        if pages is None and result.code == 3:
            assert result.finish.reason is Reason.STREAM_CORRUPT, result.finish
        else:
            assert result.code == 5, result.finish
            assert pages in (None, result.finish.mismatches)
        assert guest.devices["dma0"].state == VFIO_DEVICE_STATE_RUNNING


@pytest.mark.parametrize("verify", [True, False])
async def test_user_who_wants_the_guest_to_move_all_the_same_is_told(verify):
    limits = Limits(on_mismatch=OnMismatch.MOVE)
    async with (
        fake_guest(running=True, cpus=0, rate=1) as guest,
        destination(cpus=0) as (address, _, arrivals),
    ):
        async with Meddler(address, FrameType.RAM, flip).up() as proxy:
            result = await Source(guest, proxy, limits, patience=QUICK, verify=verify).migrate()
        assert (result.code, result.finish.mismatches, result.checked.mismatched_pages) == (5, 1, 1)
        assert arrivals[0].mismatches == 1


@pytest.mark.parametrize("verify", [True, False])
async def test_control_nothing_is_changed(verify):
    async with fake_guest(running=True) as guest, destination() as (address, _, arrivals):
        meddler = Meddler(address, FrameType.RAM, lambda frame: frame.data)
        async with meddler.up() as proxy:
            result = await Source(guest, proxy, Limits(), patience=QUICK, verify=verify).migrate()
        assert (result.code, meddler.changed) == (0, 1), result.finish
        assert not arrivals[0].mismatches
