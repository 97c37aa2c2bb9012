# SPDX-License-Identifier: MIT
"""What the steps of a program call by number: a client's fds and buffers, and where arguments are put."""

from typing import Final

from tests.fuzzing.arguments import KERNEL, U64
from tests.fuzzing.client import ARGUMENT_SIZE, BITMAP_SIZE, DATA_PAGES, Client
from tests.fuzzing.model import PAGE
from tests.fuzzing.program import Link, Place
from vfioemu.core.base.file import File
from vfioemu.uapi.kinds import FdKind

ARGUMENT, BITMAP, DATA = 0, 1, 2
"""Buffers that every client has."""
LINKED_FD: Final = 0x80
CANARY: Final = 0xCC
MAX_ALLOCATED: Final = 4 << 20
PROTECTIONS: Final = ("rw", "r", "none")


class Registers:
    """One client's registers.

    Args:
        client: whose.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._fds: dict[int, int] = {}
        self._areas: list[int] = []
        self._allocated = 0
        self._buffers = {
            ARGUMENT: (client.argument, ARGUMENT_SIZE),
            BITMAP: (client.bitmap, BITMAP_SIZE),
            DATA: (client.data, DATA_PAGES * PAGE),
        }

    # --- fds ---

    def set(self, register: int, number: int) -> None:
        """A register names an fd from now on."""
        self._fds[register] = number

    def any(self, register: int) -> int:
        """The fd of a register, whatever it is; -1 if it is closed."""
        number = self._fds.get(register, -1)
        return number if number in self.client.process.fds else -1

    def fd(self, register: int, kind: FdKind | None) -> int | None:
        """One of our fds: the register's; if that is none, any of the kind (of any kind, for None)."""
        fds = self.client.process.fds
        number = self._fds.get(register)
        if number in fds and isinstance(fds[number].what, File):
            return number
        mine = [
            number
            for number, opened in fds.items()
            if isinstance(opened.what, File) and kind in (None, opened.what.kind)
        ]
        return mine[register % len(mine)] if mine else None

    # --- memory ---

    def allocate(self, register: int, npages: int, protection: int) -> None:
        """A new buffer; nothing happens once there is much memory already."""
        size = max(1, npages % 257) * PAGE
        if register > DATA and self._allocated + size <= MAX_ALLOCATED:
            self._allocated += size
            name = PROTECTIONS[protection % len(PROTECTIONS)]
            self._buffers[register] = self.client.process.memory.allocate(size, name), size

    def buffer(self, register: int) -> tuple[int, int]:
        """Address and size of a buffer; of the data if there is no such."""
        return self._buffers.get(register) or self._buffers[DATA]

    def resolve(self, data: bytes, links: tuple[Link, ...]) -> bytes:
        """The data with addresses and fds in their places."""
        payload = bytearray(data)
        for link in links:
            if link.target >= LINKED_FD:
                value = self.any(link.target - LINKED_FD).to_bytes(4, "little", signed=True)
            else:
                value = ((self.buffer(link.target)[0] + link.add) & U64).to_bytes(8, "little")
            if link.offset + len(value) <= len(payload):
                payload[link.offset : link.offset + len(value)] = value
        return bytes(payload)

    def area(self, number: int) -> int:
        """An argument area of its own for each of the calls that overlap."""
        while len(self._areas) <= number:
            self._areas.append(self.client.process.memory.allocate(ARGUMENT_SIZE))
        return self._areas[number]

    def place(self, payload: bytes, where: int, start: int) -> int:
        """Put an argument into an area; returns the address that the call is given."""
        memory = self.client.process.memory
        payload = payload[:ARGUMENT_SIZE]
        memory.protect(start, ARGUMENT_SIZE, "rw")
        memory.poke(start, bytes([CANARY]) * ARGUMENT_SIZE)
        place = Place(where % len(Place))
        if place in (Place.NULL, Place.BAD, Place.KERNEL):
            return {Place.NULL: 0, Place.BAD: start + ARGUMENT_SIZE + PAGE, Place.KERNEL: KERNEL}[place]
        address = start
        if place is Place.TAIL:
            address += ARGUMENT_SIZE - len(payload)
        elif place is Place.CUT:
            payload = payload[:-4]
            address += ARGUMENT_SIZE - len(payload)
        memory.poke(address, payload)
        if place is Place.READ_ONLY:
            memory.protect(start, ARGUMENT_SIZE, "r")
        return address
