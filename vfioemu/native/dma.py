# SPDX-License-Identifier: MIT
"""A batch of DMA descriptors, done by one C call (IovaIndex.dma()).

Descriptors are done in their order, but for those that C leaves to Python ("slow"): the caller does these afterwards,
so a batch whose descriptors overlap in guest memory must not rely on the order between the two kinds.
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
    """What the device does to guest memory, and who gets to know of its writes."""

    READ = lib.VFE_DMA_READ
    WRITE = lib.VFE_DMA_WRITE
    """Marked in the mapping's bitmap and in the device's own log, as vfio_dma_rw() is."""
    HARDWARE_WRITE = lib.VFE_DMA_HARDWARE_WRITE
    """By hardware behind an IOMMU: type1 does not see it; marked in the device's own log only."""
    HIDDEN_WRITE = lib.VFE_DMA_HIDDEN_WRITE
    """Marked nowhere: a device that lies about its writes, for tests that must find them."""


class Status(IntEnum):
    """What became of a descriptor."""

    DONE = lib.VFE_DMA_DONE
    SLOW = lib.VFE_DMA_SLOW
    BAD = lib.VFE_DMA_BAD


_PENDING: Final = int(Status.SLOW)
"""Of a descriptor that nobody has looked at yet: it is not done."""


class Dma(NamedTuple):
    """One descriptor: `size` bytes between guest memory at `iova` and offset `local` of the device's buffer."""

    iova: int
    size: int
    local: int
    op: int
    status: int


class DmaBatch:
    """Up to `capacity` descriptors and the device's buffer that they copy from and to.

    Args:
        local: the device's buffer.
        capacity: how many descriptors fit.
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
        """Empty it for reuse."""
        self._count = 0

    def add(self, op: Op, iova: int, size: int, local: int) -> None:
        """Append a descriptor.

        Raises:
            IndexError: it is full.
            struct.error: a number does not fit 64 bits.
        """
        if self._count == self.capacity:
            raise IndexError(f"a batch of {self.capacity} is full")
        _DESCRIPTOR.pack_into(self._table, self._count * _DESCRIPTOR.size, iova, size, local, op, _PENDING)
        self._count += 1

    def set_status(self, index: int, status: Status) -> None:
        """Note what became of a descriptor that was done elsewhere."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        _STATUS.pack_into(self._table, index * _DESCRIPTOR.size + _STATUS_AT, status)

    def pending(self) -> list[int]:
        """The indexes of the descriptors that C did not do."""
        return [index for index, dma in enumerate(self) if dma.status != Status.DONE]

    @property
    def cdata(self) -> "tuple[DmaPtr, BytesPtr]":
        """The descriptors and the buffer, for C."""
        return self._cdata, self._local
