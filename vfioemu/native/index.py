# SPDX-License-Identifier: MIT
"""The IOVA index: finds the mapping of an IOVA, and does batched DMA through it without a Python step per page."""

from typing import TYPE_CHECKING, Final

from vfioemu._kernel import ffi, lib
from vfioemu.native.bitmap import DirtyBitmap
from vfioemu.native.dma import DmaBatch
from vfioemu.native.log import DirtyLog

if TYPE_CHECKING:
    from vfioemu._kernel import BitmapPtr, IndexPtr, MappingPtr

PROT_READ: Final = 1
PROT_WRITE: Final = 2


class IovaIndex:
    """Mappings by IOVA, which do not overlap. Not thread-safe: the container's lock guards it.

    Args:
        pgshift: log2 of the page size of the mappings' dirty bitmaps.
    """

    __slots__ = ("_bitmaps", "_index", "_mapping")

    def __init__(self, pgshift: int = 12) -> None:
        if not 0 <= pgshift < 64:
            raise ValueError(f"pgshift {pgshift} is outside 0..63")
        index = lib.vfe_index_create(pgshift)
        if not index:
            raise MemoryError("no memory for an IOVA index")
        self._index: IndexPtr = ffi.gc(index, lib.vfe_index_destroy)
        self._bitmaps: dict[int, BitmapPtr] = {}  # keeps the bitmaps alive that C points to
        self._mapping: MappingPtr = ffi.new("struct vfe_mapping *")

    def __len__(self) -> int:
        return self._index.count

    @property
    def cdata(self) -> "IndexPtr":
        """The index, for C."""
        return self._index

    def insert(
        self, iova: int, size: int, prot: int, host: int = 0, bitmap: DirtyBitmap | None = None
    ) -> None:
        """Add the mapping [iova, iova + size), which may end at 2^64.

        Args:
            iova: its start.
            size: in bytes, not 0.
            prot: PROT_READ and PROT_WRITE, what the device may do.
            host: address of the mapping in this process; 0 leaves DMA to Python.
            bitmap: its dirty bitmap, with pages numbered from iova.

        Raises:
            ValueError: the mapping is empty, ends past 2^64 or overlaps another, or the bitmap is too small.
        """
        if size <= 0 or iova < 0 or iova + size > 1 << 64 or host < 0 or (host and host + size > 1 << 64):
            raise ValueError(f"mapping {iova:#x}+{size:#x} at {host:#x} is empty or ends past 2^64")
        cdata = bitmap.cdata if bitmap is not None else None
        mapping = self._mapping
        mapping.iova = iova
        mapping.last = iova + size - 1
        mapping.host = ffi.cast("char *", host)
        mapping.bitmap = cdata if cdata is not None else ffi.NULL
        mapping.prot = prot
        result = lib.vfe_index_insert(self._index, mapping)
        if result < 0:
            raise MemoryError("no memory for an entry of the IOVA index")
        if result:
            raise ValueError(f"mapping {iova:#x}+{size:#x} overlaps another or its bitmap is too small")
        if cdata is not None:
            self._bitmaps[iova] = cdata

    def remove(self, iova: int) -> None:
        """Remove the mapping that starts at `iova`; KeyError if none does."""
        if not lib.vfe_index_remove(self._index, iova):
            raise KeyError(hex(iova))
        self._bitmaps.pop(iova, None)

    def set_bitmap(self, iova: int, bitmap: DirtyBitmap | None) -> None:
        """Replace the dirty bitmap of the mapping that starts at `iova`.

        Raises:
            KeyError: no mapping starts there.
            ValueError: the bitmap is too small.
        """
        cdata = bitmap.cdata if bitmap is not None else ffi.NULL
        result = lib.vfe_index_set_bitmap(self._index, iova, cdata)
        if result < 0:
            raise KeyError(hex(iova))
        if result:
            raise ValueError(
                f"a bitmap of {bitmap and bitmap.nbits()} pages is too small for the mapping at {iova:#x}"
            )
        if cdata:
            self._bitmaps[iova] = cdata
        else:
            self._bitmaps.pop(iova, None)

    def lookup(self, iova: int) -> tuple[int, int, int, int] | None:
        """Return the mapping that contains `iova` as (iova, size, prot, host); None if there is none."""
        found = self._mapping
        if not lib.vfe_index_find(self._index, iova, found):
            return None
        return found.iova, found.last - found.iova + 1, found.prot, int(ffi.cast("uintptr_t", found.host))

    def dma(self, batch: DmaBatch, log: DirtyLog | None = None) -> int:
        """Execute a batch in one C call: look up, copy, one fence, mark.

        The fence orders the copies before the marks: whoever harvests a mark also sees the write.

        A descriptor stays unexecuted with status SLOW if it hits no mapping, more than one, one without `host`, or one whose
        `prot` forbids it; with status BAD if it does not fit the device's buffer.

        Args:
            batch: the descriptors; their status is the result.
            log: the device's own dirty log, marked beside the mappings' bitmaps.

        Returns:
            The number of descriptors executed.
        """
        descriptors, local = batch.cdata
        log_cdata = log.cdata if log is not None else ffi.NULL
        return lib.vfe_dma_batch(self._index, log_cdata, descriptors, len(batch), local, len(local))
