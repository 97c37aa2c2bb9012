# SPDX-License-Identifier: MIT
"""A batch of DMA descriptors, executed by one C call (IovaIndex.dma()).

C executes descriptors in their order, but leaves some to Python (status SLOW), and the caller executes these afterwards. So a
batch whose descriptors overlap in guest memory must not rely on the order between the two kinds.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from vfioemu._kernel import ffi, lib

if TYPE_CHECKING:
    from vfioemu._kernel import BytesPtr, DmaPtr

_DESCRIPTOR: Final = struct.Struct("<QQQII")
_STATUS: Final = struct.Struct("<I")
_STATUS_AT: Final = 28


class Op(IntEnum):
    """Operations of a descriptor, by direction and by where the write is marked dirty."""

    READ = lib.VFE_DMA_READ
    WRITE = lib.VFE_DMA_WRITE
    """Marked in the mapping's bitmap, as by vfio_dma_rw(), and in the device's own log."""
    HARDWARE_WRITE = lib.VFE_DMA_HARDWARE_WRITE
    """Write by hardware behind an IOMMU, which type1 does not see: marked in the device's own log only."""
    HIDDEN_WRITE = lib.VFE_DMA_HIDDEN_WRITE
    """Marked nowhere: for tests that must detect a device that hides its writes."""


class Status(IntEnum):
    """Result of a descriptor."""

    DONE = lib.VFE_DMA_DONE
    SLOW = lib.VFE_DMA_SLOW
    BAD = lib.VFE_DMA_BAD


_PENDING: Final = int(Status.SLOW)
"""Initial status: not processed yet."""


class Dma(NamedTuple):
    """One descriptor: `size` bytes between guest memory at `iova` and offset `local` of the device's buffer."""

    iova: int
    size: int
    local: int
    op: int
    status: int


class DmaBatch:
    """Up to `capacity` descriptors, and the buffer of the device that they copy from and to.

    Args:
        local: the device's buffer.
        capacity: greatest number of descriptors.
    """

    __slots__ = ("_cdata", "_count", "_local", "_table", "capacity", "local")

    def __init__(self, local: bytearray | memoryview, capacity: int = 256) -> None:
        self.local = local
        self.capacity = capacity
        self._local: BytesPtr = ffi.from_buffer(local, require_writable=True)
        self._table = bytearray(_DESCRIPTOR.size * capacity)
        self._cdata: DmaPtr = ffi.from_buffer("struct vfe_dma[]", self._table)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Dma:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return Dma(*_DESCRIPTOR.unpack_from(self._table, index * _DESCRIPTOR.size))

    def __iter__(self) -> Iterator[Dma]:
        used = memoryview(self._table)[: self._count * _DESCRIPTOR.size]
        return (Dma(*fields) for fields in _DESCRIPTOR.iter_unpack(used))

    def clear(self) -> None:
        """Remove all descriptors, for reuse."""
        self._count = 0

    def add(self, op: Op, iova: int, size: int, local: int) -> None:
        """Append a descriptor.

        Raises:
            IndexError: the batch is full.
            struct.error: a number does not fit its field.
        """
        if self._count == self.capacity:
            raise IndexError(f"the batch is full ({self.capacity} descriptors)")
        _DESCRIPTOR.pack_into(self._table, self._count * _DESCRIPTOR.size, iova, size, local, op, _PENDING)
        self._count += 1

    def set_status(self, index: int, status: Status) -> None:
        """Set the status of a descriptor that was executed outside C."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        _STATUS.pack_into(self._table, index * _DESCRIPTOR.size + _STATUS_AT, status)

    def pending(self) -> list[int]:
        """Return the indexes of the descriptors that C did not execute."""
        return [index for index, dma in enumerate(self) if dma.status != Status.DONE]

    @property
    def cdata(self) -> "tuple[DmaPtr, BytesPtr]":
        """The descriptors and the buffer, for C."""
        return self._cdata, self._local
