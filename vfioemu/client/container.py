# SPDX-License-Identifier: MIT
"""The container: /dev/vfio/vfio."""

from typing import Final

from vfioemu.client import dirty
from vfioemu.client.file import File
from vfioemu.syscalls import procmem
from vfioemu.uapi import constants as c
from vfioemu.uapi import structs as s

_PAGE: Final = 4096
_READ_WRITE: Final = c.VFIO_DMA_MAP_FLAG_READ | c.VFIO_DMA_MAP_FLAG_WRITE


class Container(File):
    """A container; every method raises OSError with the kernel's errno."""

    async def get_api_version(self) -> int:
        """Call VFIO_GET_API_VERSION."""
        return await self.ioctl(c.VFIO_GET_API_VERSION)

    async def check_extension(self, extension: int) -> int:
        """Call VFIO_CHECK_EXTENSION; return 0 or 1."""
        return await self.ioctl(c.VFIO_CHECK_EXTENSION, extension)

    async def set_iommu(self, kind: int = c.VFIO_TYPE1v2_IOMMU) -> None:
        """Call VFIO_SET_IOMMU: EINVAL without a group, ENODEV for an unknown type."""
        await self.ioctl(c.VFIO_SET_IOMMU, kind)

    async def get_info_bytes(self) -> bytes:
        """Call VFIO_IOMMU_GET_INFO with a buffer as large as its argsz; return the struct with its capability chain."""
        size = s.IommuType1Info.SIZE
        while True:
            buffer = bytearray(s.IommuType1Info(argsz=size).build().ljust(size, b"\0"))
            await self.ioctl_buffer(c.VFIO_IOMMU_GET_INFO, buffer)
            needed = s.IommuType1Info.parse(buffer).argsz
            if needed <= size:
                return bytes(buffer)
            size = needed

    async def get_info(self) -> s.IommuType1Info:
        """Call VFIO_IOMMU_GET_INFO; return the struct without its capabilities."""
        return s.IommuType1Info.parse(await self.get_info_bytes())

    async def capabilities(self) -> dict[int, bytes]:
        """Return the capability chain of VFIO_IOMMU_GET_INFO: id -> bytes from its header on."""
        return chain(await self.get_info_bytes(), s.IommuType1Info)

    async def map_dma(self, vaddr: int, iova: int, size: int, flags: int = _READ_WRITE) -> None:
        """Call VFIO_IOMMU_MAP_DMA: EINVAL, EEXIST, ENOSPC, EFAULT, ENOMEM."""
        request = s.IommuType1DmaMap(flags=flags, vaddr=vaddr, iova=iova, size=size)
        await self.ioctl_buffer(c.VFIO_IOMMU_MAP_DMA, bytearray(request.build()))

    async def unmap_dma(
        self,
        iova: int,
        size: int,
        flags: int = 0,
        bitmap: bytearray | memoryview | None = None,
        pgsize: int = _PAGE,
    ) -> int:
        """Call VFIO_IOMMU_UNMAP_DMA; return the number of bytes unmapped.

        Args:
            iova: start of the range.
            size: in bytes.
            flags: GET_DIRTY_BITMAP is added if there is a bitmap.
            bitmap: receives the dirty pages of what was unmapped; zero it first, as the kernel only sets bits.
            pgsize: bytes that one bit stands for.
        """
        if bitmap is None:
            buffer = bytearray(s.IommuType1DmaUnmap(flags=flags, iova=iova, size=size).build())
            keep: object = None
        else:
            flags |= c.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP
            address, keep = procmem.address_of(bitmap)
            tail = s.Bitmap(pgsize=pgsize, size=memoryview(bitmap).nbytes, data=address).build()
            argsz = s.IommuType1DmaUnmap.SIZE + len(tail)
            request = s.IommuType1DmaUnmap(argsz=argsz, flags=flags, iova=iova, size=size)
            buffer = bytearray(request.build() + tail)
        await self.ioctl_buffer(c.VFIO_IOMMU_UNMAP_DMA, buffer)
        del keep
        return s.IommuType1DmaUnmap.parse(buffer).size

    # --- VFIO_IOMMU_DIRTY_PAGES ---

    async def dirty_start(self) -> None:
        """Start dirty tracking; pinned pages are dirty at once. EACCES with type1 v1, ENOMEM."""
        await self._dirty(c.VFIO_IOMMU_DIRTY_PAGES_FLAG_START)

    async def dirty_stop(self) -> None:
        """Stop dirty tracking; all dirty bits are dropped."""
        await self._dirty(c.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP)

    async def _dirty(self, flags: int, tail: bytes = b"") -> None:
        argsz = s.IommuType1DirtyBitmap.SIZE + len(tail)
        request = s.IommuType1DirtyBitmap(argsz=argsz, flags=flags)
        await self.ioctl_buffer(c.VFIO_IOMMU_DIRTY_PAGES, bytearray(request.build() + tail))

    async def dirty_bitmap(
        self, iova: int, size: int, pgsize: int = _PAGE, out: bytearray | None = None
    ) -> bytearray:
        """Return the dirty bitmap of [iova, iova+size) and clear it in the container (GET_BITMAP).

        Parts of the range that no mapping covers keep the contents of `out`; they are zero in a new bitmap.

        Raises:
            OSError: EINVAL, EFAULT, as in the kernel.
        """
        bitmap = bytearray(dirty.bitmap_size(size, pgsize)) if out is None else out
        address, keep = procmem.address_of(bitmap)
        where = s.Bitmap(pgsize=pgsize, size=len(bitmap), data=address)
        request = s.IommuType1DirtyBitmapGet(iova=iova, size=size, bitmap=where)
        await self._dirty(c.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP, request.build())
        del keep
        return bitmap

    async def dirty_ranges(self, iova: int, size: int, pgsize: int = _PAGE) -> list[tuple[int, int]]:
        """Return `dirty_bitmap` as (iova, size) ranges."""
        return dirty.ranges(await self.dirty_bitmap(iova, size, pgsize), iova, size, pgsize)


def chain(
    data: bytes, struct: type[s.IommuType1Info] | type[s.RegionInfo] | type[s.DeviceInfo]
) -> dict[int, bytes]:
    """Follow a capability chain; return id -> bytes from its header to the next header, or to the end."""
    offset = struct.parse(data).cap_offset
    found: dict[int, bytes] = {}
    while offset:
        header = s.InfoCapHeader.parse(data[offset:])
        found[header.id] = data[offset : header.next or len(data)]
        if header.next <= offset:
            break
        offset = header.next
    return found
