# SPDX-License-Identifier: MIT
"""The stamp that every write of a dma-engine begins with, as tests make and read it."""

from dataclasses import dataclass

from vfioemu.abi.dma_engine import STAMP_LAYOUT, STAMP_MAGIC, STAMP_SIZE


@dataclass(frozen=True, slots=True, order=True)
class Stamp:
    """What every write begins with.

    Attributes:
        device: DEVICE_ID of the writer.
        seq: its sequence number.
        iova: where the writer meant it to go.
    """

    device: int
    seq: int
    iova: int

    def build(self) -> bytes:
        """The 32 bytes."""
        return STAMP_LAYOUT.pack(STAMP_MAGIC, self.device, self.seq, self.iova)

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview, offset: int = 0) -> "Stamp | None":
        """The stamp at `offset`, or None if there is none."""
        if offset + STAMP_SIZE > len(data):
            return None
        magic, device, seq, iova = STAMP_LAYOUT.unpack_from(data, offset)
        return cls(device, seq, iova) if magic == STAMP_MAGIC else None
