# SPDX-License-Identifier: MIT
"""The group: drivers/vfio/group.c.

A group is opened once at a time. Every opened device holds a reference to the group's file, as does every call on it,
so what closing the group fd does (leaving the container, being free for the next open) waits for the last of them.
"""

import errno

from vfioemu.core.base.effects import Steps, locked
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.locks import Lock
from vfioemu.core.base.profile import DEFAULT, Profile
from vfioemu.core.memory.backend import Backend
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.container import Container
from vfioemu.core.objects.device import Device
from vfioemu.core.objects.spec import GroupSpec


class Group:
    """struct vfio_group.

    Attributes:
        spec: its number, the IOMMU behind it, whether it is viable.
        devices: its devices, newest first.
        lock: group_lock; held before the container's and a device's.
        container: where it is; None outside.
        opened_devices: how many of its devices are open; container_users is one more while it has a container.
        is_open: something refers to its open file still.
    """

    def __init__(self, spec: GroupSpec, profile: Profile = DEFAULT) -> None:
        self._profile = profile
        self.spec = spec
        self.devices: list[Device] = []
        self.lock = Lock(f"group {spec.number}")
        self.container: Container | None = None
        self.opened_devices = 0
        self.is_open = False
        self._references = 0

    @property
    def number(self) -> int:
        """N of /dev/vfio/N."""
        return self.spec.number

    @property
    def iommu(self) -> IommuSpec | None:
        """The hardware behind it."""
        return self.spec.iommu

    @property
    def behind_iommu(self) -> bool:
        """Tell whether the DMA of its devices goes through an IOMMU."""
        return self.spec.iommu is not None

    @property
    def viable(self) -> bool:
        """Tell whether no other driver holds a device of it."""
        return self.spec.viable

    @property
    def attached(self) -> bool:
        """Tell whether it is in a container."""
        return self.container is not None

    @property
    def backend(self) -> Backend | None:
        """The IO address space of its devices: that of its container, once it has one."""
        container = self.container
        return None if container is None else container.iommu

    @property
    def profile(self) -> Profile:
        """The kernel release whose answers are given: the container's, or the machine's outside of any container."""
        container = self.container
        return self._profile if container is None else container.profile

    def open(self) -> Steps[None]:
        """vfio_group_fops_open(): ENODEV without a device, EBUSY while it or one of its devices is open."""
        # SET_CONTAINER, UNSET_CONTAINER and the last close of the file before hold it over their yields; an open waits for them.
        yield from locked(self.lock)
        try:
            if not self.devices:
                raise IoctlError(errno.ENODEV, f"group {self.number} has no device")
            if self.is_open:
                raise IoctlError(errno.EBUSY, f"group {self.number} is open")
            self.is_open = True
            self._references = 1
        finally:
            self.lock.release()

    def device_opened(self) -> None:
        """Count the first open of a device, with the container's backend there. Kernel: vfio_group_use_container()."""
        self.opened_devices += 1
        self.get_file()

    def device_closed(self) -> Steps[None]:
        """Count the last close, or failed first open, of a device. Kernel: vfio_group_unuse_container()."""
        self.opened_devices -= 1
        yield from self.put_file()

    def get_file(self) -> None:
        """Take one more reference to the open file. Kernel: get_file()."""
        self._references += 1

    def put_file(self) -> Steps[None]:
        """Drop a file's reference; the last one releases the group. Kernel: fput(), vfio_group_fops_release()."""
        self._references -= 1
        if self._references:
            return
        # The group's lock, then in detach() the container's: the order of SET_CONTAINER.
        yield from locked(self.lock)
        try:
            if self.container is not None:
                yield from self.container.detach(self)
            self.is_open = False
        finally:
            self.lock.release()
