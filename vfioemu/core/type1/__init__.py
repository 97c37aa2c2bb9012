# SPDX-License-Identifier: MIT
"""The type1 IOMMU backend (drivers/vfio/vfio_iommu_type1.c): one module for each thing that an instance does.

state.py has what an instance knows. `Type1` is a `ContainerBackend` (memory/backend.py) whose operations are the functions
of the modules beside this one; TABLE has its ioctls. It may import memory and base; it knows a group and a device as far
as memory/backend.py describes them.
"""

import errno
from types import MappingProxyType
from typing import Final

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.dispatch import Table, serving
from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.profile import Profile
from vfioemu.core.memory.backend import ContainerBackend, IommuDriver, Setting
from vfioemu.core.type1 import attach, dirty_pages, external, hardware, info, map_dma, unmap_dma
from vfioemu.core.type1.state import Iommu
from vfioemu.uapi import constants as c
from vfioemu.uapi.kinds import FdKind

TABLE: Final[Table[Iommu]] = {
    c.VFIO_IOMMU_GET_INFO: info.get_info,
    c.VFIO_IOMMU_MAP_DMA: map_dma.map_dma,
    c.VFIO_IOMMU_UNMAP_DMA: unmap_dma.unmap_dma,
    c.VFIO_IOMMU_DIRTY_PAGES: dirty_pages.dirty_pages,
}
"""Its ioctls. Kernel: vfio_iommu_type1_ioctl()."""


class Type1(Iommu):
    """A type1 instance as containers and devices use it."""

    attach_group = attach.attach_group
    detach_group = attach.detach_group
    register_device = external.register_device
    unregister_device = external.unregister_device
    pin_pages = external.pin_pages
    unpin_pages = external.unpin_pages
    rw_read = external.rw_read
    rw_write = external.rw_write
    rw_batch = external.rw_batch
    dma_read = hardware.dma_read
    dma_write = hardware.dma_write
    dma_batch = hardware.dma_batch

    def ioctl(self, caller: Caller, cmd: int, arg: int) -> Steps[int]:
        """Serve an ioctl of TABLE; ENOTTY for any other."""
        serve = serving(TABLE, self.profile, FdKind.CONTAINER, cmd)
        if serve is None:
            raise IoctlError(errno.ENOTTY, f"type1 has no ioctl {cmd:#x}")
        return serve(self, caller, arg)

    def release(self) -> Steps[None]:
        """vfio_iommu_type1_release(): the last group has left; calls on their way find out in `hold()`."""
        yield from self.remove_all()
        self.released = True


class Type1Driver:
    """The opener of type1 backends: vfio_iommu_driver_ops_type1."""

    _types: Final = MappingProxyType(
        {
            c.VFIO_TYPE1_IOMMU: {"v2": False, "nesting": False},
            c.VFIO_TYPE1v2_IOMMU: {"v2": True, "nesting": False},
            c.VFIO_TYPE1_NESTING_IOMMU: {"v2": True, "nesting": True},
        }
    )

    def check_extension(self, profile: Profile, iommu: ContainerBackend | None, extension: int) -> int:
        """Answer VFIO_CHECK_EXTENSION; asking for manual clear has an effect on `iommu`, as its proposal wants it."""
        if iommu is not None and not isinstance(iommu, Iommu):
            raise TypeError(f"{iommu!r} is not of type1")
        return info.check_extension(profile, iommu, extension)

    def open(self, type: int, setting: Setting) -> ContainerBackend:
        """vfio_iommu_type1_open(): EINVAL for what is an extension but no type (VFIO_UNMAP_ALL)."""
        kind = self._types.get(type)
        if kind is None:
            raise IoctlError(errno.EINVAL, f"type {type} is an extension, and no type of IOMMU")
        return Type1(setting, **kind)


DRIVER: Final[IommuDriver] = Type1Driver()
