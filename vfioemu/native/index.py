# SPDX-License-Identifier: MIT
"""The IOVA index: which mapping an IOVA belongs to, and DMA through it in batches without a Python step per page."""

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
    """Mappings that do not overlap, by IOVA. Not for two threads at once: the container's lock guards it.

    Args:
        pgshift: log2 of the page size of the mappings' dirty bitmaps.
    """

    __slots__ = ("_bitmaps", "_index", "_mapping")

    def __init__(self, pgshift: int = 12) -> None:
        if not 0 <= pgshift < 64:
            raise ValueError(f"pages of 2^{pgshift} bytes")
        index = lib.vfe_index_create(pgshift)
        if not index:
            raise MemoryError("an IOVA index")
        self._index: IndexPtr = ffi.gc(index, lib.vfe_index_destroy)
        self._bitmaps: dict[int, BitmapPtr] = {}  # keeps alive what C points to
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
            iova: where it starts.
            size: bytes, not 0.
            prot: PROT_READ and PROT_WRITE, as the device may.
            host: the address in this process where iova is mapped, or 0: then DMA is left to Python.
            bitmap: where writes mark pages, numbered from iova.

        Raises:
            ValueError: empty, past 2^64, overlapping another, or the bitmap is too small.
        """
        if size <= 0 or iova < 0 or iova + size > 1 << 64 or host < 0 or (host and host + size > 1 << 64):
            raise ValueError(f"mapping {iova:#x}+{size:#x} at {host:#x}")
        cdata = bitmap.cdata if bitmap is not None else None
        mapping = self._mapping
        mapping.iova = iova
        mapping.last = iova + size - 1
        mapping.host = ffi.cast("char *", host)
        mapping.bitmap = cdata if cdata is not None else ffi.NULL
        mapping.prot = prot
        result = lib.vfe_index_insert(self._index, mapping)
        if result < 0:
            raise MemoryError("an entry of the IOVA index")
        if result:
            raise ValueError(f"mapping {iova:#x}+{size:#x} overlaps another or its bitmap is too small")
        if cdata is not None:
            self._bitmaps[iova] = cdata

    def remove(self, iova: int) -> None:
        """Take out the mapping that starts at `iova`; KeyError without one."""
        if not lib.vfe_index_remove(self._index, iova):
            raise KeyError(hex(iova))
        self._bitmaps.pop(iova, None)

    def set_bitmap(self, iova: int, bitmap: DirtyBitmap | None) -> None:
        """Exchange the dirty bitmap of the mapping that starts at `iova`.

        Raises:
            KeyError: none starts there.
            ValueError: the bitmap is too small.
        """
        cdata = bitmap.cdata if bitmap is not None else ffi.NULL
        result = lib.vfe_index_set_bitmap(self._index, iova, cdata)
        if result < 0:
            raise KeyError(hex(iova))
        if result:
            raise ValueError(f"a bitmap of {bitmap and bitmap.nbits()} pages for the mapping at {iova:#x}")
        if cdata:
            self._bitmaps[iova] = cdata
        else:
            self._bitmaps.pop(iova, None)

    def lookup(self, iova: int) -> tuple[int, int, int, int] | None:
        """The mapping that contains `iova`: (iova, size, prot, host), or None."""
        found = self._mapping
        if not lib.vfe_index_find(self._index, iova, found):
            return None
        return found.iova, found.last - found.iova + 1, found.prot, int(ffi.cast("uintptr_t", found.host))

    def dma(self, batch: DmaBatch, log: DirtyLog | None = None) -> int:
        """Do a batch: look up, copy, one fence, mark, in one C call.

        A descriptor that hits no mapping, more than one, one without `host` or one that denies it is left alone with
        status SLOW; one that does not fit the device's buffer, with status BAD.

        Args:
            batch: the descriptors; their status says what became of them.
            log: the device's own dirty log, marked beside the mappings' bitmaps.

        Returns:
            How many are done.
        """
        descriptors, local = batch.cdata
        log_cdata = log.cdata if log is not None else ffi.NULL
        return lib.vfe_dma_batch(self._index, log_cdata, descriptors, len(batch), local, len(local))
