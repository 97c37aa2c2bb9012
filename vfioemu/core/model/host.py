# SPDX-License-Identifier: MIT
"""The services of vfio core for a device: `self.host` of a model."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar

from vfioemu.core.base.effects import Buffer, Steps
from vfioemu.core.base.profile import Profile
from vfioemu.core.model.irqs import IrqTable

if TYPE_CHECKING:
    from vfioemu.native.dma import DmaBatch
    from vfioemu.native.log import DirtyLog

T = TypeVar("T")


class Neighbour(Protocol):
    """Another device of the machine: the part that a device may read and act on."""

    @property
    def name(self) -> str:
        """The name that GET_DEVICE_FD expects."""

    @property
    def group_number(self) -> int:
        """N of its group's /dev/vfio/N."""

    @property
    def open_count(self) -> int:
        """The number of files that are open on it."""

    @property
    def needs_reset(self) -> bool:
        """See `DeviceModel.needs_reset`."""

    def reset_by_bus(self) -> Steps[None]:
        """Reset it, open or not; its model cannot refuse."""

    def reset_if_closed(self) -> Steps[None]:
        """Reset it by its bus unless somebody has it open by now."""


class Host(Protocol):
    """The services of vfio core for a device: `self.host` of a model. It is the Device of core/objects/device.py."""

    @property
    def name(self) -> str:
        """The device's name: an mdev's uuid, a PCI function's address."""

    @property
    def group_number(self) -> int:
        """N of the group's /dev/vfio/N."""

    @property
    def profile(self) -> Profile:
        """The kernel release whose answers are given."""

    @property
    def all_devices(self) -> Callable[[], Iterable[Neighbour]]:
        """The devices of the machine, this one among them: for what reaches beyond one device (a reset of a PCI bus)."""

    @property
    def irqs(self) -> IrqTable:
        """The eventfds that SET_IRQS gave the device."""

    @property
    def migration_state(self) -> int:
        """The migration state (VFIO_DEVICE_STATE_*); while an arc is made, the one that it leaves."""

    @property
    def npinned(self) -> int:
        """The number of pins (counting repeats) that the device holds."""

    def pin(self, iova: int, npages: int, prot: int) -> Steps[int]:
        """vfio_pin_pages(): pin pages; prot: 1 = the device reads, 2 = it writes. Returns npages.

        Raises:
            IoctlError: EINVAL, E2BIG (more than 512), ENOTTY, EACCES, EBUSY, EPERM, EFAULT, ENOMEM; nothing is pinned.
        """

    def unpin(self, iova: int, npages: int) -> Steps[int]:
        """vfio_unpin_pages() for those of the pages that the device holds; returns how many they were."""

    def unpin_range(self, iova: int, size: int) -> Steps[None]:
        """Give back every pin in [iova, iova+size): what `dma_unmap` has to do before it returns."""

    def dma_read(self, iova: int, size: int) -> Steps[bytes]:
        """Let the device read guest memory.

        Behind an IOMMU that is hardware's affair: it reaches the pages that MAP_DMA pinned with READ, and everything else
        is EFAULT. Without one (an mdev) it is `rw_read`.
        """

    def dma_write(self, iova: int, data: Buffer) -> Steps[None]:
        """Let the device write guest memory: pages are written, then marked dirty. WRITE instead of READ, as `dma_read`."""

    def rw_read(self, iova: int, size: int) -> Steps[bytes]:
        """vfio_dma_rw() read, which a driver calls: EINVAL, ENOTTY, EBUSY, EPERM, EFAULT.

        It is made in the name of whoever's call this is: memory that another process has mapped is EFAULT then. What
        `work` does is in nobody's name, as in a kernel thread, and reaches all.
        """

    def rw_write(self, iova: int, data: Buffer) -> Steps[None]:
        """vfio_dma_rw() write: the mapping needs READ as well. Errors as `rw_read`."""

    def dma_batch(self, batch: "DmaBatch", log: "DirtyLog | None" = None) -> Steps[int]:
        """Many DMA transfers in one call of the C kernel; returns how many succeeded.

        With `log`, the device's own dirty log is marked in the same C call as the copy. ENOTTY and EBUSY without an
        IOMMU; what becomes of each transfer is in the batch.
        """

    def signal_irq(self, index: int, subindex: int) -> Steps[bool]:
        """Raise an interrupt; False when no eventfd is set for it."""

    def active(self, steps: Steps[T], *, dma: bool = True) -> Steps[T | None]:
        """Run `steps` as the device's own activity, as `work` is run; None if the migration state forbids that.

        Args:
            steps: what to do.
            dma: it is DMA, which a device that cannot tell DMA to other devices apart does not do in the P2P states.
        """

    def wake(self) -> None:
        """Ask for `work` to be called soon: something that it waits for has changed."""
