# SPDX-License-Identifier: MIT
"""What a device shows through VFIO while it stands still: read on both sides, compared as texts.

====================  ===================================================================================================
device                flags of GET_INFO, of each region and of each interrupt; sizes, counts
config space          in words of 32 bits, without the bits that belong to the host (config_masks.py)
MSI-X table, PBA      where the capability says
region N              its memory, as far as it can be mapped: digests of up to 256 parts
====================  ===================================================================================================

Nothing is read that may change by being read: registers of an unknown device are left alone. Those that the guest's driver knows
are one more view (`registers`), which the caller adds.
"""

import errno
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import trio

from vfioemu import client
from vfioemu.migration.deadlines import DaemonSilent, asked
from vfioemu.migration.messages import DeviceView
from vfioemu.migration.verify import config_masks as masks
from vfioemu.migration.verify.mapped import digest_areas
from vfioemu.uapi import constants as u
from vfioemu.uapi.structs import RegionInfo

T = TypeVar("T")
MAX_REGIONS: Final = 48
"""A device with more shows only so many: the others are named as not compared."""
_LARGEST_CONFIG: Final = 4096
_CONFIG: Final = u.VFIO_PCI_CONFIG_REGION_INDEX
_MSIX_ENTRY: Final = 16
_AREA: Final = struct.Struct("<QQ")
_AREAS: Final = 16
"""Where the areas begin in the capability VFIO_REGION_INFO_CAP_SPARSE_MMAP, header included."""


class Views:
    """Reads the views of one device.

    Args:
        file: the device.
    """

    def __init__(self, file: client.Device) -> None:
        self._file = file
        self._regions: dict[int, RegionInfo] = {}
        self._shape: DeviceView | None = None
        self._areas: dict[int, list[tuple[int, int]]] = {}

    async def prepare(self) -> None:
        """Read what does not change while the device runs, so that it costs nothing while the guest stands still."""
        self._regions.clear()
        self._areas.clear()
        self._shape = await self._viewed("device", self._read_shape)

    def forget(self) -> None:
        """Forget what was read before: the device is about to become another one."""
        self._shape = None

    async def read(self) -> list[DeviceView]:
        """Read all of them; what cannot be read says why. DaemonSilent if there is no answer."""
        if self._shape is None:
            await self.prepare()
        views = [self._shape] if self._shape is not None else []
        config = b""
        if _CONFIG in self._regions:
            try:
                config = await self._config_bytes()
            except DaemonSilent:
                raise
            except OSError as error:
                views.append(_unread("config space", error))
            else:
                views.append(DeviceView(what="config space", values=_words(masks.masked(config))))
        found = masks.msix(config)
        if found is not None:
            views.append(await self._viewed("MSI-X table", lambda: self._table(found)))
            views.append(await self._viewed("MSI-X pending bits", lambda: self._pending(found)))
        for index, region in self._regions.items():
            if region.flags & u.VFIO_REGION_INFO_FLAG_MMAP and region.size:
                views.append(await self._viewed(f"region {index}", partial(self._memory, index)))
        return views

    async def _viewed(self, what: str, read: Callable[[], Awaitable[dict[str, str]]]) -> DeviceView:
        try:
            return DeviceView(what=what, values=await read())
        except DaemonSilent:
            raise  # that says nothing of the device
        except OSError as error:
            return _unread(what, error)

    async def _read_shape(self) -> dict[str, str]:
        info = await asked(self._file, "VFIO_DEVICE_GET_INFO", self._file.info())
        values = {
            "flags": hex(info.flags),
            "regions": str(info.num_regions),
            "interrupts": str(info.num_irqs),
        }
        for index in range(min(info.num_regions, MAX_REGIONS)):
            asking = self._file.region_info(index)
            region = await _or_none(asked(self._file, "VFIO_DEVICE_GET_REGION_INFO", asking))
            if region is not None:
                self._regions[index] = region
                values[f"region {index}"] = f"{region.size:#x} bytes, flags {region.flags:#x}"
        for index in range(min(info.num_irqs, MAX_REGIONS)):
            counting = self._file.irq_info(index)
            irq = await _or_none(asked(self._file, "VFIO_DEVICE_GET_IRQ_INFO", counting))
            values[f"interrupt {index}"] = "none" if irq is None else f"{irq.count}, flags {irq.flags:#x}"
        return values

    async def _config_bytes(self) -> bytes:
        region = self._regions[_CONFIG]
        return await self._pread(_CONFIG, 0, min(region.size, _LARGEST_CONFIG))

    async def _table(self, where: masks.MsiX) -> dict[str, str]:
        data = await self._pread(where.table_bar, where.table_offset, where.vectors * _MSIX_ENTRY)
        return {
            f"entry {at // _MSIX_ENTRY}": data[at : at + _MSIX_ENTRY].hex()
            for at in range(0, len(data), _MSIX_ENTRY)
        }

    async def _pending(self, where: masks.MsiX) -> dict[str, str]:
        return _words(await self._pread(where.pba_bar, where.pba_offset, -(-where.vectors // 64) * 8))

    async def _pread(self, index: int, offset: int, size: int) -> bytes:
        region = self._regions.get(index)
        if region is None or offset + size > region.size:
            raise OSError(errno.EINVAL, f"region {index} has no {size} bytes at {offset:#x}")
        reading = self._file.pread(size, region.offset + offset)
        data = await asked(self._file, f"a read of region {index}", reading)
        if len(data) < size:
            raise OSError(
                errno.EIO, f"{len(data)} of {size} bytes at {offset:#x} of region {index} can be read"
            )
        return data

    async def _memory(self, index: int) -> dict[str, str]:
        region = self._regions[index]
        areas = self._areas.get(index)
        if areas is None:
            areas = self._areas[index] = await self._read_areas(index, region.size)
        values = {}
        for offset, size in areas:
            mapping = self._file.mmap_fd(size, 1, region.offset + offset)  # PROT_READ
            fd, start = await asked(self._file, f"mmap of region {index}", mapping)
            values.update(await trio.to_thread.run_sync(digest_areas, fd, start, size, offset, len(areas)))
        return values

    async def _read_areas(self, index: int, size: int) -> list[tuple[int, int]]:
        reading = self._file.region_capabilities(index)
        caps = await asked(self._file, "VFIO_DEVICE_GET_REGION_INFO", reading)
        sparse = caps.get(u.VFIO_REGION_INFO_CAP_SPARSE_MMAP)
        if sparse is None:
            return [(0, size)]
        count = int.from_bytes(sparse[8:12], "little")
        return [_AREA.unpack_from(sparse, _AREAS + i * _AREA.size) for i in range(count)]


def _words(data: bytes) -> dict[str, str]:
    return {f"{at:#x}": data[at : at + 4][::-1].hex() for at in range(0, len(data), 4)}


async def _or_none(call: Awaitable[T]) -> T | None:
    """Return what a call does, or None for an index that there is not."""
    try:
        return await call
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None


def _unread(what: str, error: OSError) -> DeviceView:
    return DeviceView(what=what, why=f"it cannot be read: {error.strerror or error}"[:400])
