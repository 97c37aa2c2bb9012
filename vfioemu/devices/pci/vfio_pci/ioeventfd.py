# SPDX-License-Identifier: MIT
"""VFIO_DEVICE_IOEVENTFD: an eventfd which, when signalled, has a value written to a BAR. vfio_pci_ioeventfd()."""

import errno
from collections.abc import Callable
from typing import Final, NamedTuple

from vfioemu.core.base.effects import Steps, Watch, Watcher, locked, read_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.locks import Lock
from vfioemu.core.model.irqs import take_eventfd
from vfioemu.core.model.regions import OFFSET_SHIFT
from vfioemu.devices.pci.hardware import registers as r
from vfioemu.devices.pci.hardware.card import PciHardware
from vfioemu.devices.pci.vfio_pci.bars import BarAccess
from vfioemu.uapi import constants as c
from vfioemu.uapi.structs import DeviceIoeventfd

MOST: Final = 1000
"""VFIO_PCI_IOEVENTFD_MAX."""
_MINSZ: Final = 28
_QWORD: Final = 8
_OFFSET_MASK: Final = (1 << OFFSET_SHIFT) - 1


class Rule(NamedTuple):
    """One rule: the data that is written, and where."""

    bar: int
    offset: int
    data: int
    size: int


class IoEventFds:
    """The rules of one open function."""

    def __init__(self, hardware: PciHardware, bars: BarAccess) -> None:
        self._hardware = hardware
        self._access = bars
        self._lock = Lock("ioeventfds")
        self._rules: dict[Rule, Watcher] = {}

    def ioctl(self, arg: int) -> Steps[int]:
        """Add a rule, or remove it if fd is -1: vfio_pci_ioeventfd().

        Raises:
            IoctlError: EFAULT; EINVAL for a place that is not in a BAR or in the MSI-X table, and for 8 bytes in some
                releases; EEXIST; ENODEV for a rule to be removed that is not there; ENOSPC; EBADF.
        """
        data = yield from read_user(arg, _MINSZ)
        asked = DeviceIoeventfd.parse(data.ljust(DeviceIoeventfd.SIZE, b"\0"))
        if asked.argsz < _MINSZ:
            raise IoctlError(errno.EINVAL, f"argsz {asked.argsz} < {_MINSZ}")
        if asked.flags & ~c.VFIO_DEVICE_IOEVENTFD_SIZE_MASK:
            raise IoctlError(errno.EINVAL, f"unknown flags {asked.flags:#x}")
        if asked.flags.bit_count() != 1 or asked.fd < -1:
            raise IoctlError(errno.EINVAL, f"flags {asked.flags:#x} name not one size, or fd is {asked.fd}")
        rule = Rule(asked.offset >> OFFSET_SHIFT, asked.offset & _OFFSET_MASK, asked.data, asked.flags)
        self._check(rule)
        # ioeventfds_lock: the eventfd is looked up with a yield, and two calls would both find that the rule is new.
        yield from locked(self._lock)
        try:
            yield from self._change(rule, asked.fd)
        finally:
            self._lock.release()
        return 0

    def _change(self, rule: Rule, fd: int) -> Steps[None]:
        if rule in self._rules:
            if fd != -1:
                raise IoctlError(errno.EEXIST, f"{rule} exists")
            self._rules.pop(rule).close()
            return
        if fd < 0:
            raise IoctlError(errno.ENODEV, f"there is no {rule}")
        if len(self._rules) >= MOST:
            raise IoctlError(errno.ENOSPC, f"fd {fd}: {MOST} rules are there")
        eventfd = yield from take_eventfd(fd)
        if eventfd is not None:
            self._rules[rule] = yield Watch(eventfd, self._writer(rule))

    def _check(self, rule: Rule) -> None:
        bars = self._hardware.function.bars
        size = bars[rule.bar].size if rule.bar in bars else 0
        if rule.bar >= r.BAR_COUNT or rule.offset + rule.size > size:
            raise IoctlError(errno.EINVAL, f"{rule} is in no BAR")
        access = self._access
        if any(access.hidden(rule.bar, rule.offset + i, 1) for i in range(rule.size)):
            raise IoctlError(errno.EINVAL, f"{rule} is in the MSI-X table")
        if rule.size == _QWORD and not self._hardware.host.profile.ioeventfd_64:
            raise IoctlError(
                errno.EINVAL,
                f"flags: {self._hardware.host.profile.name} makes no writes of {rule.size} bytes",
            )

    def _writer(self, rule: Rule) -> Callable[[], Steps[None]]:
        """vfio_pci_ioeventfd_thread()."""

        def write() -> Steps[None]:
            if self._hardware.function.bars[rule.bar].kind == "io" or self._hardware.memory_enabled:
                mask = (1 << 8 * rule.size) - 1
                data = (rule.data & mask).to_bytes(rule.size, "little")
                yield from self._access.write(rule.bar, rule.offset, data)

        return write

    def close(self) -> None:
        """Close all rules with the function: vfio_pci_core_disable()."""
        for watcher in self._rules.values():
            watcher.close()
        self._rules.clear()
