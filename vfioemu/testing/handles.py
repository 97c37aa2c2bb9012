# SPDX-License-Identifier: MIT
"""Containers, devices and migration data as a client in memory holds them (vfioemu/testing/inmemory.py)."""

import errno
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from vfioemu.core.model.regions import OFFSET_SHIFT
from vfioemu.native.bitmap import buffer_runs
from vfioemu.uapi import constants as c
from vfioemu.uapi.flags import DeviceState
from vfioemu.uapi.structs import (
    Bitmap,
    DeviceFeature,
    DeviceFeatureDmaLoggingControl,
    DeviceFeatureDmaLoggingRange,
    DeviceFeatureDmaLoggingReport,
    DeviceFeatureMigState,
    DeviceInfo,
    IommuType1DirtyBitmap,
    IommuType1DirtyBitmapGet,
    IommuType1DmaMap,
    IommuType1DmaUnmap,
    IommuType1Info,
    IrqSet,
    PrecopyInfo,
    RegionInfo,
)

if TYPE_CHECKING:
    from vfioemu.testing.inmemory import MemoryClient

PAGE: Final = 4096


def _ranges(base: int, bitmap: bytes, page_size: int) -> list[tuple[int, int]]:
    """Return the runs of ones of a dirty bitmap as (IOVA, size in bytes)."""
    runs = buffer_runs(bitmap, len(bitmap) * 8)
    return [(base + first * page_size, count * page_size) for first, count in runs]


def _bitmap_size(size: int, page_size: int) -> int:
    return -(-(size // page_size) // 64) * 8


class MemoryContainer:
    """A container fd.

    Attributes:
        fd: its number in the client.
    """

    def __init__(self, client: "MemoryClient", fd: int) -> None:
        self.client = client
        self.fd = fd
        self._typed = False

    def add(self, group: int, iommu_type: int = c.VFIO_TYPE1v2_IOMMU) -> None:
        """Take a group fd in, and set the IOMMU type if there is none yet."""
        self.client.ioctl(group, c.VFIO_GROUP_SET_CONTAINER, struct.pack("<i", self.fd))
        if not self._typed:
            self.client.ioctl(self.fd, c.VFIO_SET_IOMMU, iommu_type)
            self._typed = True

    def info(self) -> bytes:
        """VFIO_IOMMU_GET_INFO: the struct with its whole chain of capabilities."""
        _, answer = self.client.ioctl(self.fd, c.VFIO_IOMMU_GET_INFO, _blank_info(IommuType1Info.SIZE))
        needed = IommuType1Info.parse(answer).argsz
        _, answer = self.client.ioctl(self.fd, c.VFIO_IOMMU_GET_INFO, _blank_info(needed), needed)
        return answer

    def map(
        self, iova: int, size: int, address: int | None = None, *, read: bool = True, write: bool = True
    ) -> int:
        """VFIO_IOMMU_MAP_DMA of memory, by default new memory of the client; returns its address."""
        if address is None:
            address = self.client.allocate(size)
        flags = read * c.VFIO_DMA_MAP_FLAG_READ | write * c.VFIO_DMA_MAP_FLAG_WRITE
        payload = IommuType1DmaMap(flags=flags, vaddr=address, iova=iova, size=size).build()
        self.client.ioctl(self.fd, c.VFIO_IOMMU_MAP_DMA, payload)
        return address

    def unmap(self, iova: int, size: int) -> int:
        """VFIO_IOMMU_UNMAP_DMA; returns how many bytes were unmapped."""
        payload = IommuType1DmaUnmap(iova=iova, size=size, flags=0).build()
        _, answer = self.client.ioctl(self.fd, c.VFIO_IOMMU_UNMAP_DMA, payload)
        return IommuType1DmaUnmap.parse(answer).size

    def start_tracking(self) -> None:
        """VFIO_IOMMU_DIRTY_PAGES, START."""
        self._track(c.VFIO_IOMMU_DIRTY_PAGES_FLAG_START)

    def stop_tracking(self) -> None:
        """VFIO_IOMMU_DIRTY_PAGES, STOP."""
        self._track(c.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP)

    def dirty(self, iova: int, size: int, page_size: int = PAGE) -> list[tuple[int, int]]:
        """VFIO_IOMMU_DIRTY_PAGES, GET_BITMAP: the dirty ranges as (iova, size); they are clean then."""
        nbytes = _bitmap_size(size, page_size)
        address = self.client.allocate(nbytes)
        get = IommuType1DirtyBitmapGet(
            iova=iova, size=size, bitmap=Bitmap(pgsize=page_size, size=nbytes, data=address)
        )
        head = IommuType1DirtyBitmap(
            argsz=IommuType1DirtyBitmap.SIZE + get.SIZE, flags=c.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP
        )
        self.client.ioctl(self.fd, c.VFIO_IOMMU_DIRTY_PAGES, head.build() + get.build())
        return _ranges(iova, self.client.read(address, nbytes), page_size)

    def close(self) -> None:
        """Close the fd."""
        self.client.close(self.fd)

    def _track(self, flag: int) -> None:
        payload = IommuType1DirtyBitmap(argsz=IommuType1DirtyBitmap.SIZE, flags=flag).build()
        self.client.ioctl(self.fd, c.VFIO_IOMMU_DIRTY_PAGES, payload)


def _blank_info(argsz: int) -> bytes:
    return struct.pack("<I", argsz).ljust(argsz, b"\0")


class MemoryDevice:
    """A device fd, with the group and the container through which it was opened.

    Attributes:
        container: where its group is.
        group: the group's fd.
        fd: the device's.
        name: what GET_DEVICE_FD called it.
    """

    def __init__(
        self, client: "MemoryClient", container: MemoryContainer, group: int, fd: int, name: str
    ) -> None:
        self.client = client
        self.container = container
        self.group = group
        self.fd = fd
        self.name = name

    def info(self) -> DeviceInfo:
        """VFIO_DEVICE_GET_INFO."""
        return DeviceInfo.parse(self._ask(c.VFIO_DEVICE_GET_INFO, _blank_info(DeviceInfo.SIZE)))

    def region(self, index: int) -> RegionInfo:
        """VFIO_DEVICE_GET_REGION_INFO."""
        payload = struct.pack("<3I", RegionInfo.SIZE, 0, index).ljust(RegionInfo.SIZE, b"\0")
        return RegionInfo.parse(self._ask(c.VFIO_DEVICE_GET_REGION_INFO, payload))

    def read(self, index: int, offset: int, size: int) -> bytes:
        """Read a region."""
        return self.client.pread(self.fd, size, (index << OFFSET_SHIFT) + offset)

    def write(self, index: int, offset: int, data: bytes) -> int:
        """Write a region."""
        return self.client.pwrite(self.fd, data, (index << OFFSET_SHIFT) + offset)

    def reset(self) -> None:
        """VFIO_DEVICE_RESET."""
        self.client.ioctl(self.fd, c.VFIO_DEVICE_RESET, 0)

    def set_eventfds(self, index: int, eventfds: Iterable[int], start: int = 0) -> None:
        """VFIO_DEVICE_SET_IRQS: these eventfds (`client.process.eventfd()`) for the vectors from `start` on."""
        numbers = list(eventfds)
        flags = c.VFIO_IRQ_SET_DATA_EVENTFD | c.VFIO_IRQ_SET_ACTION_TRIGGER
        argsz = IrqSet.SIZE + 4 * len(numbers)
        head = IrqSet(argsz=argsz, flags=flags, index=index, start=start, count=len(numbers))
        self.client.ioctl(
            self.fd, c.VFIO_DEVICE_SET_IRQS, head.build() + struct.pack(f"<{len(numbers)}i", *numbers)
        )

    # --- features ---

    def feature(self, flags: int, payload: bytes = b"") -> bytes:
        """VFIO_DEVICE_FEATURE; returns the payload as it is afterwards."""
        head = DeviceFeature(argsz=DeviceFeature.SIZE + len(payload), flags=flags).build()
        return self._ask(c.VFIO_DEVICE_FEATURE, head + payload)[DeviceFeature.SIZE :]

    @property
    def state(self) -> DeviceState:
        """The migration state."""
        answer = self.feature(
            _GET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, bytes(DeviceFeatureMigState.SIZE)
        )
        return DeviceState(DeviceFeatureMigState.parse(answer).device_state)

    def set_state(self, state: int) -> "MemoryData | None":
        """Go to a migration state; returns the data fd if the way there opens one."""
        payload = DeviceFeatureMigState(device_state=state, data_fd=-1).build()
        answer = self.feature(_SET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, payload)
        fd = DeviceFeatureMigState.parse(answer).data_fd
        return None if fd < 0 else MemoryData(self.client, fd)

    def start_logging(self, iova: int, size: int, page_size: int = PAGE) -> None:
        """DMA_LOGGING_START of one range."""
        address = self.client.allocate(DeviceFeatureDmaLoggingRange.SIZE)
        self.client.write(address, DeviceFeatureDmaLoggingRange(iova=iova, length=size).build())
        control = DeviceFeatureDmaLoggingControl(page_size=page_size, num_ranges=1, ranges=address)
        self.feature(_SET | c.VFIO_DEVICE_FEATURE_DMA_LOGGING_START, control.build())

    def stop_logging(self) -> None:
        """DMA_LOGGING_STOP."""
        self.feature(_SET | c.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP)

    def logged(self, iova: int, size: int, page_size: int = PAGE) -> list[tuple[int, int]]:
        """DMA_LOGGING_REPORT: the ranges that the device has written as (iova, size); they are forgotten then."""
        nbytes = _bitmap_size(size, page_size)
        address = self.client.allocate(nbytes)
        report = DeviceFeatureDmaLoggingReport(iova=iova, length=size, page_size=page_size, bitmap=address)
        self.feature(_GET | c.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, report.build())
        return _ranges(iova, self.client.read(address, nbytes), page_size)

    def close(self) -> None:
        """Close device, group and container."""
        for fd in (self.fd, self.group, self.container.fd):
            if fd in self.client.process.fds:
                self.client.close(fd)

    def _ask(self, cmd: int, payload: bytes) -> bytes:
        return self.client.ioctl(self.fd, cmd, payload)[1]


class MemoryData:
    """A migration data fd.

    Attributes:
        fd: its number in the client.
    """

    def __init__(self, client: "MemoryClient", fd: int) -> None:
        self.client = client
        self.fd = fd

    def read(self, size: int = 1 << 20) -> bytes:
        """Up to `size` bytes of the device's state; b"" at its end, and where pre-copy has no more for now."""
        try:
            return self.client.read_file(self.fd, size)
        except OSError as error:
            if error.errno == errno.ENOMSG:
                return b""
            raise

    def read_all(self) -> bytes:
        """All that there is."""
        parts = []
        while part := self.read():
            parts.append(part)
        return b"".join(parts)

    def write(self, data: bytes) -> int:
        """Write bytes of a device's state."""
        return self.client.write_file(self.fd, data)

    def precopy_info(self) -> PrecopyInfo:
        """VFIO_MIG_GET_PRECOPY_INFO."""
        payload = _blank_info(PrecopyInfo.SIZE)
        return PrecopyInfo.parse(self.client.ioctl(self.fd, c.VFIO_MIG_GET_PRECOPY_INFO, payload)[1])

    def close(self) -> None:
        """Close the fd."""
        self.client.close(self.fd)


_GET: Final = c.VFIO_DEVICE_FEATURE_GET
_SET: Final = c.VFIO_DEVICE_FEATURE_SET
