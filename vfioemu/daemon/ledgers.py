# SPDX-License-Identifier: MIT
"""Ledgers of what devices write into guest memory, for connections of the control socket.

A ledger belongs to the connection that began it, and ends with that at the latest: a client that dies leaves nothing behind. A device
has one ledger at a time. What all ledgers cost together is bounded; what a write costs without any is one look at a None.
"""

import base64
from collections.abc import Sequence
from typing import Final

from vfioemu.core.objects.device import Device
from vfioemu.daemon import messages as d
from vfioemu.native.ledger import RING, WriteLedger
from vfioemu.wire.control import ControlError

MAX_PAGES: Final = 1 << 28
"""Pages of all ranges of a ledger: 1 TiB, and 32 MiB of bits for each device."""
MAX_LEDGERS: Final = 256
"""Devices that have a ledger at a time."""
MAX_BITMAPS: Final = 4096
"""Bitmaps of all ledgers: one for each range and device."""
MAX_BYTES: Final = 512 << 20
"""Memory of all ledgers, if all of their pages are written."""
PART: Final = 4096
"""Pages of one part of `ledger-take`."""
MAX_PARTS: Final = 1024
"""Parts in one answer: some 700 KiB."""
_PAGE: Final = 4096
_WRITTEN: Final = 40
"""Bytes of one write in a ring."""


class Room:
    """What all ledgers of a daemon take.

    Attributes:
        ledgers: devices that have one.
        bitmaps: of all.
        bytes: of all.
    """

    def __init__(self) -> None:
        self.ledgers = 0
        self.bitmaps = 0
        self.bytes = 0

    def take(self, devices: int, ranges: Sequence[tuple[int, int]]) -> "tuple[int, int, int]":
        """Take the room of a ledger for each device.

        Returns:
            What to give back.

        Raises:
            ControlError: NoRoom.
        """
        pages = sum(-(-size // _PAGE) for _, size in ranges)
        share = devices, devices * len(ranges), devices * (pages // 8 + RING * _WRITTEN)
        for what, taken, more, limit in zip(
            ("ledgers", "bitmaps of ledgers", "bytes of ledgers"),
            (self.ledgers, self.bitmaps, self.bytes),
            share,
            (MAX_LEDGERS, MAX_BITMAPS, MAX_BYTES),
            strict=True,
        ):
            if taken + more > limit:
                raise ControlError("NoRoom", f"{taken} {what} and {more} more pass the limit of {limit}")
        self._add(share, 1)
        return share

    def give_back(self, share: "tuple[int, int, int]") -> None:
        """Give back what `take` has returned."""
        self._add(share, -1)

    def _add(self, share: "tuple[int, int, int]", sign: int) -> None:
        self.ledgers += sign * share[0]
        self.bitmaps += sign * share[1]
        self.bytes += sign * share[2]


class Ledgers:
    """The ledgers of one connection: none, or one for each of some devices.

    Args:
        room: of the daemon.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self._share = (0, 0, 0)
        self._devices: dict[str, tuple[Device, WriteLedger]] = {}
        self._numbers: list[int] = []
        """Of the ranges, as the request had them; a ledger has them sorted."""

    def __len__(self) -> int:
        return len(self._devices)

    def begin(self, devices: Sequence[Device], ranges: Sequence[tuple[int, int]]) -> None:
        """Note the writes of devices from now on.

        Raises:
            ControlError: BadArguments, LedgerInUse, NoRoom.
        """
        if self._devices:
            raise ControlError("LedgerInUse", "this connection has a ledger already; ledger-end ends it")
        symbols = [device.symbol for device in devices]
        if len(set(symbols)) < len(symbols):
            raise ControlError("BadArguments", f"a device twice in {', '.join(symbols)}")
        for device in devices:
            if device.ledger is not None:
                raise ControlError("LedgerInUse", f"another connection keeps the ledger of {device.symbol}")
        _check(ranges)
        share = self._room.take(len(devices), ranges)
        try:
            made = {device.symbol: (device, WriteLedger(ranges)) for device in devices}
        except MemoryError as error:
            self._room.give_back(share)
            raise ControlError("NoRoom", str(error)) from None
        self._share = share
        self._devices = made
        self._numbers = sorted(range(len(ranges)), key=lambda number: ranges[number])
        for device, ledger in made.values():
            device.ledger = ledger

    def take(self) -> d.LedgerTaken:
        """Take the pages that were written since the last call, as many as fit into an answer.

        Raises:
            ControlError: NoLedger.
        """
        self._need()
        pages: list[d.LedgerPages] = []
        for symbol, (_, ledger) in self._devices.items():
            for number, (_, _, bitmap) in zip(self._numbers, ledger.pages.ranges, strict=True):
                at = bitmap.first_marked(0)
                while at < bitmap.nbits() and len(pages) < MAX_PARTS:
                    first = at // PART * PART
                    count = min(PART, bitmap.nbits() - first)
                    bits = bytearray(-(-count // 64) * 8)
                    bitmap.harvest_or(bits, first, count)
                    pages.append(d.LedgerPages(symbol, number, first, base64.b64encode(bits).decode()))
                    at = (
                        bitmap.first_marked(first + count)
                        if first + count < bitmap.nbits()
                        else first + count
                    )
        # The counters come last: whoever sees no more of them than before has seen all pages.
        counts = [
            d.LedgerCount(symbol, ledger.writes, ledger.stopped)
            for symbol, (_, ledger) in self._devices.items()
        ]
        return d.LedgerTaken(devices=counts, pages=pages, more=len(pages) == MAX_PARTS)

    def writes(self, arguments: d.LedgerWrites) -> list[d.LedgerWrite]:
        """Return the last writes of a device.

        Raises:
            ControlError: NoLedger.
        """
        self._need()
        held = self._devices.get(arguments.device)
        if held is None:
            known = ", ".join(self._devices)
            raise ControlError(
                "NoLedger", f"no ledger of {arguments.device!r} was begun here; those are of {known}"
            )
        return [
            d.LedgerWrite(one.seq, one.iova, one.size, one.when / 1e9, one.stopped)
            for one in held[1].since(arguments.since, stopped=arguments.stopped, limit=arguments.limit)
        ]

    def end(self) -> None:
        """Note nothing any more, and give back the memory."""
        for device, ledger in self._devices.values():
            if device.ledger is ledger:
                device.ledger = None
        self._devices = {}
        self._room.give_back(self._share)
        self._share = (0, 0, 0)

    def _need(self) -> None:
        if not self._devices:
            raise ControlError("NoLedger", "this connection has begun no ledger")


def _check(ranges: Sequence[tuple[int, int]]) -> None:
    end = 0
    for iova, size in sorted(ranges):
        if iova < end or iova + size > 1 << 64:
            raise ControlError(
                "BadArguments", f"range {iova:#x}+{size:#x} ends past 2^64 or overlaps the one before it"
            )
        if iova % _PAGE or size % _PAGE:
            raise ControlError("BadArguments", f"range {iova:#x}+{size:#x} is not in pages of {_PAGE} bytes")
        end = iova + size
    pages = sum(size for _, size in ranges) // _PAGE
    if pages > MAX_PAGES:
        raise ControlError("BadArguments", f"ranges of {pages} pages, the limit is {MAX_PAGES}")
