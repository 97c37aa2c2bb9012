# SPDX-License-Identifier: MIT
"""Stamps: what every write leaves in a page, so that the page tells which write it holds.

A lost write is then no anonymous difference: the source's page says who wrote it (a device or a CPU), with which
sequence number and at which address, and the destination's page says which older write is there in its place. CPUs
use the layout of the dma-engine's stamps with a magic of their own.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vfioemu.abi.dma_engine import STAMP_MAGIC, STAMP_SIZE
from vfioemu.migration.plan import PAGE

CPU_MAGIC: Final = b"VFE-CPU\0"
_STAMP: Final = struct.Struct("<8sQQQ")
CPU_SLOT: Final = 1024
"""CPUs leave their stamps from here on, and devices by default at the beginning of the page."""
MAX_CPUS: Final = (PAGE - CPU_SLOT) // STAMP_SIZE


@dataclass(frozen=True, slots=True, order=True)
class FoundStamp:
    """One write, as it is found in memory.

    Attributes:
        offset: of the stamp in its page.
        cpu: a CPU wrote, not a device.
        writer: index of the CPU, or DEVICE_ID of the device.
        seq: the writer's sequence number.
        iova: the address that the writer meant.
    """

    offset: int
    cpu: bool
    writer: int
    seq: int
    iova: int

    def origin(self, devices: Mapping[int, str]) -> str:
        """Who wrote, by name if it is known."""
        return f"cpu {self.writer}" if self.cpu else devices.get(self.writer, f"device {self.writer:#x}")

    def tell(self, devices: Mapping[int, str]) -> str:
        """Format the whole stamp, for people."""
        return f"{self.origin(devices)} seq {self.seq} iova {self.iova:#x}"


def cpu_slot(index: int) -> int:
    """Where in a page CPU `index` leaves its stamps: two CPUs on one page do not hide each other's."""
    return CPU_SLOT + STAMP_SIZE * index


def cpu_stamp(index: int, seq: int, address: int) -> bytes:
    """Pack the stamp of a CPU's write."""
    return _STAMP.pack(CPU_MAGIC, index, seq, address)


def find_stamps(page: bytes) -> list[FoundStamp]:
    """Every stamp in a page, ascending by offset."""
    found = []
    for magic in (CPU_MAGIC, STAMP_MAGIC):
        at = page.find(magic)
        while 0 <= at <= len(page) - STAMP_SIZE:
            _, writer, seq, iova = _STAMP.unpack_from(page, at)
            found.append(FoundStamp(at, magic == CPU_MAGIC, writer, seq, iova))
            at = page.find(magic, at + 1)
    return sorted(found)
