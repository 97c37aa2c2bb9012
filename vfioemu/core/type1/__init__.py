# SPDX-License-Identifier: MIT
"""The type1 IOMMU backend (drivers/vfio/vfio_iommu_type1.c): an instance, and its calls by name.

state.py has what an instance knows; each call is a module beside it. `Type1` is the face that containers, groups and
devices use.
"""

import errno
from typing import TYPE_CHECKING

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import Buffer, Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.locks import Lock
from vfioemu.core.base.profile import Profile, Quirks
from vfioemu.core.memory.accounting import Accounting
from vfioemu.core.memory.manual_clear import OFF, ManualClear
from vfioemu.core.type1 import attach, dirty_pages, external, hardware, info, map_dma, unmap_dma
from vfioemu.core.type1.state import Iommu, PinningDevice
from vfioemu.native.dma import DmaBatch
from vfioemu.uapi.constants import VFIO_TYPE1_IOMMU, VFIO_TYPE1_NESTING_IOMMU, VFIO_TYPE1v2_IOMMU

if TYPE_CHECKING:
    from vfioemu.core.objects.group import Group
    from vfioemu.native.log import DirtyLog

__all__ = ["Type1", "check_extension"]

check_extension = info.check_extension


class Type1(Iommu):
    """A type1 instance with its calls. Ioctls are named as in the registry."""

    @classmethod
    def open(
        cls,
        type: int,
        *,
        lock: Lock,
        profile: Profile,
        quirks: Quirks,
        accounting: Accounting,
        dma_avail: int,
        manual_clear: ManualClear = OFF,
    ) -> "Type1":
        """vfio_iommu_type1_open(): EINVAL for what is an extension but no type (VFIO_UNMAP_ALL)."""
        if type not in (VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU, VFIO_TYPE1_NESTING_IOMMU):
            raise IoctlError(errno.EINVAL, f"type {type} is an extension, and no type of IOMMU")
        return cls(
            lock=lock,
            v2=type != VFIO_TYPE1_IOMMU,
            nesting=type == VFIO_TYPE1_NESTING_IOMMU,
            profile=profile,
            quirks=quirks,
            accounting=accounting,
            dma_avail=dma_avail,
            manual_clear=manual_clear,
        )

    def release(self) -> Steps[None]:
        """vfio_iommu_type1_release(): the last group has left; calls on their way find out in `hold()`."""
        yield from self.remove_all()
        self.released = True

    # --- ioctls ---

    def iommu_get_info(self, caller: Caller, arg: int) -> Steps[int]:
        """``VFIO_IOMMU_GET_INFO``: EFAULT, EINVAL."""
        return info.get_info(self, caller, arg)

    def map_dma(self, caller: Caller, arg: int) -> Steps[int]:
        """``VFIO_IOMMU_MAP_DMA``: EFAULT, EINVAL, EOVERFLOW, EEXIST, ENOENT, ENOSPC, ENOMEM."""
        return map_dma.map_dma(self, caller, arg)

    def unmap_dma(self, caller: Caller, arg: int) -> Steps[int]:
        """``VFIO_IOMMU_UNMAP_DMA``: EFAULT, EINVAL, EOVERFLOW, EBUSY."""
        return unmap_dma.unmap_dma(self, caller, arg)

    def dirty_pages(self, caller: Caller, arg: int) -> Steps[int]:
        """``VFIO_IOMMU_DIRTY_PAGES``: EACCES, EFAULT, EINVAL, EOVERFLOW, ENOMEM."""
        return dirty_pages.dirty_pages(self, caller, arg)

    # --- groups; the container holds the lock ---

    def attach_group(self, group: "Group") -> Steps[None]:
        """A group comes: EBUSY, EINVAL, EPERM, EFAULT, ENOMEM."""
        return attach.attach_group(self, group)

    def detach_group(self, group: "Group") -> Steps[None]:
        """A group goes."""
        return attach.detach_group(self, group)

    # --- devices ---

    def register_device(self, device: PinningDevice) -> Steps[None]:
        """A device with a dma_unmap callback is open."""
        return external.register_device(self, device)

    def unregister_device(self, device: PinningDevice) -> Steps[None]:
        """It is closed."""
        return external.unregister_device(self, device)

    def pin_pages(self, device: PinningDevice, iova: int, npages: int, prot: int) -> Steps[int]:
        """vfio_pin_pages(): EACCES, EOVERFLOW, EBUSY, EINVAL, EPERM, ENODEV, EFAULT, ENOMEM."""
        return external.pin_pages(self, device, iova, npages, prot)

    def unpin_pages(self, device: PinningDevice, iova: int, npages: int) -> Steps[None]:
        """vfio_unpin_pages()."""
        return external.unpin_pages(self, device, iova, npages)

    def rw_read(self, iova: int, size: int) -> Steps[bytes]:
        """vfio_dma_rw(), read: EBUSY, EINVAL, EPERM, EFAULT."""
        return external.rw_read(self, iova, size)

    def rw_write(self, iova: int, data: Buffer) -> Steps[None]:
        """vfio_dma_rw(), write: EBUSY, EINVAL, EPERM, EFAULT."""
        return external.rw_write(self, iova, data)

    def rw_batch(self, batch: DmaBatch, log: "DirtyLog | None" = None) -> Steps[int]:
        """Many vfio_dma_rw() in one go: EBUSY; how many are done."""
        return external.rw_batch(self, batch, log)

    # --- hardware ---

    def dma_read(self, iova: int, size: int) -> Steps[bytes]:
        """A device reads through the IOMMU: EFAULT."""
        return hardware.dma_read(self, iova, size)

    def dma_write(self, iova: int, data: Buffer) -> Steps[None]:
        """A device writes through the IOMMU: EFAULT."""
        return hardware.dma_write(self, iova, data)

    def dma_batch(self, batch: DmaBatch, log: "DirtyLog | None" = None) -> Steps[int]:
        """A device makes many transfers through the IOMMU: how many are done."""
        return hardware.dma_batch(self, batch, log)
