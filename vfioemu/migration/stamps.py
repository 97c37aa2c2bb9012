# SPDX-License-Identifier: MIT
"""Stamps: what every write leaves in a page, so that the page tells which write it holds.

A lost write is then no anonymous difference: the source's page says who wrote it (a device or a CPU), with which
sequence number and at which address, and the destination's page says which older write is there in its place.
"""

import struct
from dataclasses import dataclass
from typing import Final

from vfioemu.migration.plan import PAGE

CPU_MAGIC: Final = b"VFE-CPU\0"
_CPU: Final = struct.Struct("<8sIIQQ")
CPU_SLOT: Final = 1024


@dataclass(frozen=True, slots=True, order=True)
class Stamp:
    """One write, as it is found in memory.

    Attributes:
        offset: of the stamp in its page.
        origin: who wrote, ``"dev 0x…"`` or ``"cpu N"``.
        seq: the writer's sequence number.
        iova: the address that the writer meant.
    """

    offset: int
    origin: str
    seq: int
    iova: int

    def __str__(self) -> str:
        return f"{self.origin} seq {self.seq} iova {self.iova:#x}"


def cpu_slot(index: int) -> int:
    """Where in a page CPU `index` leaves its stamps."""
    return CPU_SLOT + 64 * index


def cpu_stamp(index: int, seq: int, address: int) -> bytes:
    """The stamp of a CPU's write."""
    return _CPU.pack(CPU_MAGIC, index, 0, seq, address)


def find_stamps(page: bytes) -> list[Stamp]:
    """Every stamp in a page, ascending by offset."""
    found = []
    at = page.find(CPU_MAGIC)
    while 0 <= at <= PAGE - _CPU.size:
        _, index, _, seq, address = _CPU.unpack_from(page, at)
        found.append(Stamp(at, f"cpu {index}", seq, address))
        at = page.find(CPU_MAGIC, at + 1)
    return sorted(found)
