# SPDX-License-Identifier: MIT
"""The container and its fd: drivers/vfio/container.c.

A container outlives its fd while groups are in it. When its last group leaves it loses the backend with everything in
it, and SET_IOMMU may choose anew. Its one lock stands for the kernel's group_lock and iommu->lock.
"""

import errno
from typing import TYPE_CHECKING

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.dispatch import handler
from vfioemu.core.base.effects import Steps, locked
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File
from vfioemu.core.base.locks import Lock
from vfioemu.core.base.profile import PROFILES
from vfioemu.core.memory.manual_clear import VARIANTS
from vfioemu.core.objects.spec import ContainerOptions
from vfioemu.core.type1 import Type1, check_extension
from vfioemu.uapi.constants import VFIO_API_VERSION
from vfioemu.uapi.kinds import FdKind

if TYPE_CHECKING:
    from vfioemu.core.objects.group import Group
    from vfioemu.core.objects.machine import Machine


class Container:
    """struct vfio_container.

    Attributes:
        number: counts the machine's containers, for traces and statistics.
        lock: guards all of it, and the backend.
        groups: its groups, newest first.
        iommu: the backend; None before SET_IOMMU.
        is_open: an fd refers to it.
        profile: the kernel release whose answers it gives.
        quirks: how the backend answers where the kernel errs; read when SET_IOMMU succeeds.
        manual_clear: whether and how its dirty log can be cleared by hand; read when SET_IOMMU succeeds.
    """

    def __init__(self, machine: "Machine", number: int, options: ContainerOptions) -> None:
        self.machine = machine
        self.number = number
        self.lock = Lock(f"container {number}")
        self.groups: list[Group] = []
        self.iommu: Type1 | None = None
        self.is_open = True
        self.profile = PROFILES[options.profile or machine.spec.profile]
        self.quirks = options.quirks or machine.spec.quirks
        self.manual_clear = VARIANTS[options.manual_clear or machine.spec.manual_clear]

    def attach(self, group: "Group") -> Steps[None]:
        """Take a group in, which holds its own lock.

        Raises:
            IoctlError: EPERM when another driver owns the group's DMA; what the backend says.

        Kernel: vfio_container_attach_group().
        """
        yield from locked(self.lock)
        try:
            if not group.spec.viable:
                raise IoctlError(errno.EPERM, f"group {group.number} is not viable")
            if self.iommu is not None:
                yield from self.iommu.attach_group(group)
            self.groups.insert(0, group)
            group.container = self
        finally:
            self.lock.release()
        self.machine.keep(self)

    def detach(self, group: "Group") -> Steps[None]:
        """Let a group go, which holds its own lock. Kernel: vfio_group_detach_container()."""
        yield from locked(self.lock)
        try:
            if self.iommu is not None:
                yield from self.iommu.detach_group(group)
            self.groups.remove(group)
            group.container = None
            if not self.groups and self.iommu is not None:
                yield from self.iommu.release()
                self.iommu = None
        finally:
            self.lock.release()
        self.machine.keep(self)

    def set_iommu(self, type: int) -> Steps[None]:
        """Choose the backend. Kernel: vfio_ioctl_set_iommu().

        Raises:
            IoctlError: EINVAL without a group or with a backend, ENODEV for a type that nobody has, what the groups'
                attaching runs into.
        """
        yield from locked(self.lock)
        try:
            if not self.groups or self.iommu is not None:
                why = "no group yet" if self.iommu is None else "a type already"
                raise IoctlError(errno.EINVAL, f"type {type}: the container has {why}")
            machine = self.machine
            if not check_extension(self.profile, None, type):
                raise IoctlError(errno.ENODEV, f"type {type} is not to be had")
            iommu = Type1.open(
                type,
                lock=self.lock,
                profile=self.profile,
                quirks=self.quirks,
                accounting=machine.accounting,
                dma_avail=machine.parameters["dma_entry_limit"],
                manual_clear=self.manual_clear,
            )
            for group in self.groups:
                yield from iommu.attach_group(group)
            self.iommu = iommu
        finally:
            self.lock.release()

    def gauges(self) -> dict[str, int]:
        """What it holds."""
        held = {"groups": len(self.groups), "open": int(self.is_open)}
        if self.iommu is not None:
            held |= self.iommu.gauges()
        return held


class ContainerFile(File):
    """An open /dev/vfio/vfio."""

    kind = FdKind.CONTAINER

    def __init__(self, container: Container) -> None:
        self.container = container

    def ioctl(self, caller: Caller, cmd: int, arg: int) -> Steps[int]:
        """vfio_fops_unl_ioctl(): three calls are the container's own; all others are EINVAL without a backend.

        The backend answers ENOTTY to what it does not know.
        """
        serve = handler(self, self.kind, cmd)
        if serve is None:
            iommu = self.container.iommu
            if iommu is None:
                raise IoctlError(errno.EINVAL, f"ioctl {cmd:#x} before SET_IOMMU")
            serve = handler(iommu, self.kind, cmd)
            if serve is None:
                raise IoctlError(errno.ENOTTY, f"type1 has no ioctl {cmd:#x}")
        return (yield from serve(caller, arg))

    def get_api_version(self, caller: Caller, arg: int) -> Steps[int]:
        """``VFIO_GET_API_VERSION``; never fails."""
        del caller, arg
        yield from ()
        return VFIO_API_VERSION

    def check_extension(self, caller: Caller, arg: int) -> Steps[int]:
        """``VFIO_CHECK_EXTENSION``: 0 or 1, never an error; the argument has 64 bits."""
        del caller
        yield from ()
        return check_extension(self.container.profile, self.container.iommu, arg)

    def set_iommu(self, caller: Caller, arg: int) -> Steps[int]:
        """``VFIO_SET_IOMMU``: EINVAL, ENODEV, EPERM."""
        del caller
        yield from self.container.set_iommu(arg)
        return 0

    def release(self) -> Steps[None]:
        """vfio_fops_release(): the container goes with its last group, if it has one."""
        yield from ()
        self.container.is_open = False
        self.container.machine.keep(self.container)
