# SPDX-License-Identifier: MIT
"""A device."""

import errno
from collections.abc import Sequence
from typing import Final

from vfioemu.client.container import chain
from vfioemu.client.data import DataFd
from vfioemu.client.file import File
from vfioemu.syscalls import procmem
from vfioemu.uapi import constants as c
from vfioemu.uapi import structs as s

_PAGE: Final = 4096


class Device(File):
    """A device; every method raises OSError with the kernel's errno."""

    async def info(self) -> s.DeviceInfo:
        """Call VFIO_DEVICE_GET_INFO."""
        buffer = bytearray(s.DeviceInfo().build())
        await self.ioctl_buffer(c.VFIO_DEVICE_GET_INFO, buffer)
        return s.DeviceInfo.parse(buffer)

    async def region_info(self, index: int) -> s.RegionInfo:
        """Call VFIO_DEVICE_GET_REGION_INFO, without capabilities: EINVAL."""
        return s.RegionInfo.parse(await self._region_info(index, s.RegionInfo.SIZE))

    async def region_capabilities(self, index: int) -> dict[int, bytes]:
        """Return the capability chain of a region: id -> bytes from its header on."""
        size = (await self.region_info(index)).argsz
        return chain(await self._region_info(index, max(size, s.RegionInfo.SIZE)), s.RegionInfo)

    async def _region_info(self, index: int, size: int) -> bytes:
        buffer = bytearray(s.RegionInfo(argsz=size, index=index).build().ljust(size, b"\0"))
        await self.ioctl_buffer(c.VFIO_DEVICE_GET_REGION_INFO, buffer)
        return bytes(buffer)

    async def irq_info(self, index: int) -> s.IrqInfo:
        """Call VFIO_DEVICE_GET_IRQ_INFO: EINVAL."""
        buffer = bytearray(s.IrqInfo(index=index).build())
        await self.ioctl_buffer(c.VFIO_DEVICE_GET_IRQ_INFO, buffer)
        return s.IrqInfo.parse(buffer)

    async def set_irqs(self, flags: int, index: int, start: int, count: int, data: bytes = b"") -> None:
        """Call VFIO_DEVICE_SET_IRQS with raw data: EINVAL, ENOTTY, EBADF."""
        request = s.IrqSet(
            argsz=s.IrqSet.SIZE + len(data), flags=flags, index=index, start=start, count=count
        )
        await self.ioctl_buffer(c.VFIO_DEVICE_SET_IRQS, bytearray(request.build() + data))

    async def set_irq_eventfds(self, index: int, fds: Sequence[int], start: int = 0) -> None:
        """Connect interrupts to eventfds; -1 disconnects one."""
        data = b"".join(fd.to_bytes(4, "little", signed=True) for fd in fds)
        flags = c.VFIO_IRQ_SET_DATA_EVENTFD | c.VFIO_IRQ_SET_ACTION_TRIGGER
        await self.set_irqs(flags, index, start, len(fds), data)

    async def reset(self) -> None:
        """Call VFIO_DEVICE_RESET: EINVAL if the device has no reset."""
        await self.ioctl(c.VFIO_DEVICE_RESET)

    # --- VFIO_DEVICE_FEATURE ---

    async def feature(self, flags: int, payload: bytearray | None = None) -> int:
        """Call VFIO_DEVICE_FEATURE with `payload` after the header, updated in place: ENOTTY, EINVAL."""
        body = bytearray() if payload is None else payload
        header = s.DeviceFeature(argsz=s.DeviceFeature.SIZE + len(body), flags=flags)
        buffer = bytearray(header.build() + body)
        try:
            return await self.ioctl_buffer(c.VFIO_DEVICE_FEATURE, buffer)
        finally:
            body[:] = buffer[s.DeviceFeature.SIZE :]

    async def probe(self, feature: int, op: int = 0) -> bool:
        """Return True if the device has a feature (and, with VFIO_DEVICE_FEATURE_GET or _SET, that operation)."""
        try:
            await self.feature(feature | c.VFIO_DEVICE_FEATURE_PROBE | op)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                return False
            raise
        return True

    async def migration_flags(self) -> int:
        """Read VFIO_DEVICE_FEATURE_MIGRATION; return VFIO_MIGRATION_* flags. ENOTTY without migration."""
        payload = bytearray(s.DeviceFeatureMigration.SIZE)
        await self.feature(c.VFIO_DEVICE_FEATURE_GET | c.VFIO_DEVICE_FEATURE_MIGRATION, payload)
        return s.DeviceFeatureMigration.parse(payload).flags

    async def set_state(self, state: int) -> DataFd | None:
        """Set the migration state; return the data fd if a session begins. EINVAL, and errnos of the device."""
        payload = bytearray(s.DeviceFeatureMigState(device_state=state, data_fd=-1).build())
        await self.feature(c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, payload)
        fd = s.DeviceFeatureMigState.parse(payload).data_fd
        return DataFd(self.session, fd) if fd >= 0 else None

    async def get_state(self) -> int:
        """Return the migration state, VFIO_DEVICE_STATE_*."""
        payload = bytearray(s.DeviceFeatureMigState.SIZE)
        await self.feature(c.VFIO_DEVICE_FEATURE_GET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, payload)
        return s.DeviceFeatureMigState.parse(payload).device_state

    async def stop_copy_length(self) -> int:
        """Read VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, in bytes."""
        payload = bytearray(s.DeviceFeatureMigDataSize.SIZE)
        await self.feature(c.VFIO_DEVICE_FEATURE_GET | c.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, payload)
        return s.DeviceFeatureMigDataSize.parse(payload).stop_copy_length

    # --- DMA logging ---

    async def logging_start(self, page_size: int, ranges: Sequence[tuple[int, int]]) -> int:
        """Start DMA logging on (iova, length) ranges; return the page size that the device chose."""
        table = b"".join(
            s.DeviceFeatureDmaLoggingRange(iova=iova, length=length).build() for iova, length in ranges
        )
        address, keep = procmem.address_of(table)
        control = s.DeviceFeatureDmaLoggingControl(
            page_size=page_size, num_ranges=len(ranges), ranges=address
        )
        payload = bytearray(control.build())
        await self.feature(c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_DMA_LOGGING_START, payload)
        del keep
        return s.DeviceFeatureDmaLoggingControl.parse(payload).page_size

    async def logging_stop(self) -> None:
        """Stop DMA logging."""
        await self.feature(c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP)

    async def logging_report(
        self, iova: int, length: int, page_size: int = _PAGE, bitmap: bytearray | None = None
    ) -> bytearray:
        """Read DMA_LOGGING_REPORT: OR its bits into `bitmap` (a new one if None); the device clears them."""
        bits = -(-length // page_size)
        out = bytearray(-(-bits // 64) * 8) if bitmap is None else bitmap
        address, keep = procmem.address_of(out)
        report = s.DeviceFeatureDmaLoggingReport(
            iova=iova, length=length, page_size=page_size, bitmap=address
        )
        await self.feature(
            c.VFIO_DEVICE_FEATURE_GET | c.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, bytearray(report.build())
        )
        del keep
        return out
