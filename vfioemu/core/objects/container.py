# SPDX-License-Identifier: MIT
"""The container: drivers/vfio/container.c.

A container outlives its fd while groups are in it. When its last group leaves it loses the backend with everything in
it, and SET_IOMMU may choose anew. Its one lock stands for the kernel's group_lock and iommu->lock.
"""

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vfioemu.core.base.effects import Steps, locked
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.locks import Lock
from vfioemu.core.base.profile import Profile, Quirks
from vfioemu.core.memory.accounting import Accounting
from vfioemu.core.memory.backend import ContainerBackend, IommuDriver, IommuGroup, Setting
from vfioemu.core.memory.manual_clear import ManualClear


class ContainedGroup(IommuGroup, Protocol):
    """A group, as far as a container needs to know it."""

    container: "Container | None"

    @property
    def viable(self) -> bool:
        """Tell whether no other driver holds a device of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The settings of a container from its first open on.

    Attributes:
        drivers: the IOMMU drivers of its machine, in the order in which they are asked.
        profile: the kernel release whose answers it gives.
        quirks: how the backend answers where the kernel errs; read when SET_IOMMU succeeds.
        manual_clear: whether and how its dirty log can be cleared by hand; read when SET_IOMMU succeeds.
        accounting: who has how much memory locked.
        parameters: the module parameters as they are now.
    """

    drivers: Sequence[IommuDriver]
    profile: Profile
    quirks: Quirks
    manual_clear: ManualClear
    accounting: Accounting
    parameters: Mapping[str, int]


class Container:
    """struct vfio_container.

    Args:
        number: counts the machine's containers, for traces and statistics.
        terms: see `Terms`.
        on_use: told whenever the last reference to it may have come or gone.

    Attributes:
        lock: guards all of it, and the backend. Who takes a group's lock as well takes that one first.
        groups: its groups, newest first.
        iommu: the backend; None before SET_IOMMU.
        is_open: an fd refers to it.
        profile: the kernel release whose answers it gives.
    """

    def __init__(self, number: int, terms: Terms, on_use: Callable[["Container"], None]) -> None:
        self.number = number
        self.terms = terms
        self.profile = terms.profile
        self.lock = Lock(f"container {number}")
        self.groups: list[ContainedGroup] = []
        self.iommu: ContainerBackend | None = None
        self.is_open = True
        self._driver: IommuDriver | None = None
        self._on_use = on_use

    def attach(self, group: ContainedGroup) -> Steps[None]:
        """Take a group in, whose lock the caller holds.

        Raises:
            IoctlError: EPERM when another driver owns the group's DMA; what the backend says.

        Kernel: vfio_container_attach_group().
        """
        # The group's lock comes first, as group_lock does in the kernel: SET_CONTAINER and UNSET_CONTAINER look under it
        # whether the group has a container. Tasks that took the two in both orders would wait for each other for ever.
        yield from locked(self.lock)
        try:
            if not group.viable:
                raise IoctlError(errno.EPERM, f"group {group.number} is not viable")
            if self.iommu is not None:
                yield from self.iommu.attach_group(group)
            self.groups.insert(0, group)
            group.container = self
        finally:
            self.lock.release()
        # Whoever is told looks at the groups, not at what the lock guards; and nothing of ours runs under it without need.
        self._on_use(self)

    def detach(self, group: ContainedGroup) -> Steps[None]:
        """Let a group go, whose lock the caller holds. Kernel: vfio_group_detach_container()."""
        # Detaching yields: an ioctl of the backend must not see a group that is half gone, nor a backend that is released.
        yield from locked(self.lock)
        try:
            if self.iommu is not None:
                yield from self.iommu.detach_group(group)
            self.groups.remove(group)
            group.container = None
            if not self.groups and self.iommu is not None:
                yield from self.iommu.release()
                self.iommu = None
                self._driver = None
        finally:
            self.lock.release()
        # After the release, as in attach(): this may have been the last reference, and the machine forgets the container.
        self._on_use(self)

    def check_extension(self, extension: int) -> int:
        """Answer VFIO_CHECK_EXTENSION: of the backend once there is one, of any driver before.

        Kernel: vfio_container_ioctl_check_extension().
        """
        if self._driver is not None:
            return self._driver.check_extension(self.profile, self.iommu, extension)
        return max(
            (driver.check_extension(self.profile, None, extension) for driver in self.terms.drivers),
            default=0,
        )

    def set_iommu(self, type: int) -> Steps[None]:
        """Choose the backend. Kernel: vfio_ioctl_set_iommu().

        Raises:
            IoctlError: EINVAL without a group or with a backend, ENODEV for a type that no driver has, what the groups'
                attaching runs into.
        """
        # Attaching yields: no group may come or go, and no other type be chosen, until all have joined.
        yield from locked(self.lock)
        try:
            if not self.groups or self.iommu is not None:
                why = "no group yet" if self.iommu is None else "a type already"
                raise IoctlError(errno.EINVAL, f"type {type}: the container has {why}")
            driver, iommu = self._open(type)
            for group in self.groups:
                yield from iommu.attach_group(group)
            # Only when every group has joined: after a failure the container has no type, and SET_IOMMU may try another.
            self.iommu = iommu
            self._driver = driver
        finally:
            self.lock.release()

    def _open(self, type: int) -> tuple[IommuDriver, ContainerBackend]:
        terms = self.terms
        setting = Setting(
            lock=self.lock,
            profile=self.profile,
            quirks=terms.quirks,
            accounting=terms.accounting,
            dma_avail=terms.parameters["dma_entry_limit"],
            manual_clear=terms.manual_clear,
        )
        for driver in terms.drivers:
            if driver.check_extension(self.profile, None, type) > 0:
                return driver, driver.open(type, setting)
        raise IoctlError(errno.ENODEV, f"IOMMU type {type} is not supported")

    def closed(self) -> None:
        """Its fd is closed for good; it goes with its last group, if it has one. Kernel: vfio_fops_release()."""
        self.is_open = False
        self._on_use(self)

    def gauges(self) -> dict[str, int]:
        """Return what the container holds, in numbers."""
        held = {"groups": len(self.groups), "open": int(self.is_open)}
        if self.iommu is not None:
            held |= self.iommu.gauges()
        return held
