# SPDX-License-Identifier: MIT
"""The needs of a device and a container of an IO address space, whoever implements it. Read docs/backend.md first.

Kernel: struct vfio_iommu_driver_ops in drivers/vfio/vfio.h; `Backend` is what vfio core calls on behalf of devices,
`ContainerBackend` adds what it calls on behalf of a container. Hardware is part of it here: where Linux leaves DMA of a
device behind an IOMMU to the machine, `dma_read`, `dma_write` and `dma_batch` do it.

Two rules hold for every operation:

* **It takes the backend's lock itself**, by the effect Locked, and releases it before it ends, but for `attach_group`,
  `detach_group` and `release`, whose caller holds it. A caller of any other operation must not hold it.
* **A page is written first and marked dirty after it**, never the other way round, so that a harvest between the two
  cannot lose the mark. A write that fails half way marks what it has written.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import Buffer, Steps
from vfioemu.core.base.locks import Lock
from vfioemu.core.base.profile import Profile, Quirks
from vfioemu.core.memory.accounting import Accounting
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.memory.manual_clear import OFF, ManualClear

if TYPE_CHECKING:
    from vfioemu.native.dma import DmaBatch
    from vfioemu.native.log import DirtyLog


class IommuGroup(Protocol):
    """A group, as far as a backend needs to know it (struct iommu_group). Two groups are the same if they are one object."""

    @property
    def number(self) -> int:
        """N of /dev/vfio/N, for messages."""

    @property
    def iommu(self) -> IommuSpec | None:
        """The hardware behind it; None for devices whose DMA their driver makes (mdev)."""


class PinningDevice(Protocol):
    """An open device, as far as a backend needs to know it (struct vfio_device)."""

    @property
    def group(self) -> IommuGroup:
        """Its group, the very object that was attached."""

    @property
    def has_dma_unmap(self) -> bool:
        """Tell whether its driver has a dma_unmap callback; without one it cannot pin."""

    def dma_unmap(self, iova: int, size: int) -> Steps[None]:
        """Give back every pin in the range: called before mappings go, without the backend's lock."""

    def pins_taken(self, iova: int, size: int) -> None:
        """Its pins in the range are gone: it did not give them back when it was told to."""


class Backend(Protocol):
    """An IO address space, as devices use it. Addresses and sizes are bytes of IOVA, pages have 4 KiB.

    vfio core checks before it calls: the device is open, a size is not 0, `npages` is 1 to 512.
    """

    # --- a device comes and goes: the backend tells registered devices before mappings go ---

    def register_device(self, device: PinningDevice) -> Steps[None]:
        """Note a device with a dma_unmap callback at its first open; from now on it is told before a mapping goes.

        Raises:
            IoctlError: EINVAL when the backend has been released meanwhile.

        Kernel: vfio_iommu_type1_register_device().
        """

    def unregister_device(self, device: PinningDevice) -> Steps[None]:
        """Forget a device at its last close; it holds no pin any more. Kernel: vfio_iommu_type1_unregister_device()."""

    # --- what drivers do: vfio_pin_pages(), vfio_unpin_pages(), vfio_dma_rw() ---

    def pin_pages(self, device: PinningDevice, iova: int, npages: int, prot: int) -> Steps[int]:
        """Pin all of the pages or none; they are dirty from now on. Return `npages`.

        Args:
            device: who asks; it is registered.
            iova: the first page; a pin is of this exact IOVA, aligned or not.
            npages: how many pages.
            prot: what the device will do: 1 read, 2 write.

        Raises:
            IoctlError: EACCES, EBUSY, EINVAL (not mapped), EPERM (more than the mapping allows), ENODEV (whoever made the
                mapping is gone), EFAULT, ENOMEM (locked memory), and what the release says of a range past 2^64.
        """

    def unpin_pages(self, device: PinningDevice, iova: int, npages: int) -> Steps[None]:
        """Give back one pin of each page; never fails, and leaves dirty bits as they are."""

    def rw_read(self, iova: int, size: int) -> Steps[bytes]:
        """Read at the address that was mapped, in the name of whoever's call this is.

        Raises:
            IoctlError: EBUSY, EINVAL (not mapped), EPERM (no READ, or the owner is dead), EFAULT (memory of another process
                than the one that calls, or not there).
        """

    def rw_write(self, iova: int, data: Buffer) -> Steps[None]:
        """Write, and mark each page that was written; the mapping needs READ as well as WRITE. Errors as `rw_read`."""

    def rw_batch(self, batch: "DmaBatch", log: "DirtyLog | None") -> Steps[int]:
        """Make many transfers as `rw_read` and `rw_write` would; return how many are done.

        What becomes of each is its status in `batch`; one that fails stays SLOW and is no error of the whole. Marks go to
        the backend's bitmaps and, if it is given, to the device's own `log`.

        Raises:
            IoctlError: EBUSY; nothing is done then.
        """

    # --- what hardware behind an IOMMU does: it has pages, and no address of a process ---

    def dma_read(self, iova: int, size: int) -> Steps[bytes]:
        """Read through the IOMMU. EFAULT for what is not mapped, or not with READ."""

    def dma_write(self, iova: int, data: Buffer) -> Steps[None]:
        """Write through the IOMMU, and mark after it. EFAULT for what is not mapped, or not with WRITE."""

    def dma_batch(self, batch: "DmaBatch", log: "DirtyLog | None") -> Steps[int]:
        """Make many transfers as `dma_read` and `dma_write` would; return how many are done, as `rw_batch`."""

    # --- for whoever watches ---

    def count_mappings(self) -> int:
        """Count the mappings, quickly: it is asked at each close of an fd that somebody traces."""


class ContainerBackend(Backend, Protocol):
    """A backend that a container owns, from SET_IOMMU until its last group has left."""

    def attach_group(self, group: IommuGroup) -> Steps[None]:
        """Take a group in, with all that is mapped; on an error nothing has changed. The caller holds the lock.

        Raises:
            IoctlError: EBUSY, EINVAL, EPERM, EFAULT, ENOMEM.

        Kernel: vfio_iommu_type1_attach_group().
        """

    def detach_group(self, group: IommuGroup) -> Steps[None]:
        """Let a group go; never fails. The caller holds the lock. Kernel: vfio_iommu_type1_detach_group()."""

    def release(self) -> Steps[None]:
        """Give up all mappings, pins and charges; a call that waits for the lock gets EINVAL. The caller holds the lock."""

    def ioctl(self, caller: Caller, cmd: int, arg: int) -> Steps[int]:
        """Serve an ioctl of the container's fd that vfio core does not know; ENOTTY for one that nobody knows."""

    def gauges(self) -> dict[str, int]:
        """Tell what is held, for statistics and for the checks of fuzzers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The values that a container gives the backend that it opens.

    Attributes:
        lock: the container's: it guards the backend, too.
        profile: the kernel release whose answers are given.
        quirks: whether the kernel's own mistakes are answered as recorded.
        accounting: who has how much memory locked.
        dma_avail: how many mappings there may be.
        manual_clear: whether and how the dirty log can be cleared by hand.
    """

    lock: Lock
    profile: Profile
    quirks: Quirks
    accounting: Accounting
    dma_avail: int
    manual_clear: ManualClear = OFF


class IommuDriver(Protocol):
    """The opener of backends for containers: struct vfio_iommu_driver_ops, as vfio_register_iommu_driver() is given it."""

    def check_extension(self, profile: Profile, iommu: ContainerBackend | None, extension: int) -> int:
        """Answer VFIO_CHECK_EXTENSION: 0, or what it has of an extension; `iommu` is None before SET_IOMMU."""

    def open(self, type: int, setting: Setting) -> ContainerBackend:
        """Make a backend for VFIO_SET_IOMMU with `type`, which `check_extension` has answered with more than 0.

        Raises:
            IoctlError: EINVAL for what is an extension, and no type.
        """
