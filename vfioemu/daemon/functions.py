# SPDX-License-Identifier: MIT
"""Bind PCI functions to vfio-pci and unbind them: bind, unbind, driver_override, new_id, remove and rescan in sysfs.

Kernel: drivers/base/bus.c, dd.c, drivers/pci/pci-driver.c, pci-sysfs.c. vfio-pci is the only driver for emulated functions. An
unbound function stays in /sys, and vfio does not know it.
"""

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.machine import Machine
from vfioemu.core.objects.device import Device
from vfioemu.daemon import function_files, sysfs
from vfioemu.daemon.function_files import DRIVER
from vfioemu.daemon.tree import Tree
from vfioemu.world import refusal

log: Final = logging.getLogger(__name__)

_ANY: Final = 0xFFFFFFFF
_MOST_IDS: Final = 1024
_LONGEST_OVERRIDE: Final = 4095


@dataclass(slots=True)
class Function:
    """A PCI function.

    Attributes:
        device: its device; after an unbind, the former one.
        bound: bound to vfio-pci.
        override: driver_override; "" for none.
        present: on the bus.
        enabled: enable count of the `enable` file.
        rom: reads of its ROM are enabled.
    """

    device: Device
    bound: bool = True
    override: str = DRIVER
    present: bool = True
    enabled: int = 0
    rom: bool = False

    @property
    def path(self) -> str:
        """Its directory in the tree."""
        return sysfs.device_path(self.device)


class Functions:
    """The PCI functions of a machine.

    Args:
        machine: the machine.
        tree: shows them.
        appeared: called with a device after its function was bound.
        gone: called with the symbol of a device after its function was unbound.
    """

    def __init__(
        self,
        machine: Machine,
        tree: Tree,
        appeared: Callable[[Device], None],
        gone: Callable[[str], None],
    ) -> None:
        self._machine = machine
        self._tree = tree
        self._appeared = appeared
        self._gone = gone
        self._ids: list[tuple[int, ...]] = []
        self._functions = {
            device.name: Function(device)
            for device in machine.devices.values()
            if sysfs.bus_of(device.name) == "pci" and tree.placed(device.name)
        }

    def find(self, name: str) -> Function | None:
        """Return the function at a PCI address; None if it is not on the bus."""
        function = self._functions.get(name)
        return function if function is not None and function.present else None

    def at(self, path: str) -> Function | None:
        """Return the function whose directory is `path`; None if there is none."""
        function = self.find(path.rpartition("/")[2])
        return function if function is not None and function.path == path else None

    # --- the driver's files ---

    def bind(self, driver: str, name: str) -> bool:
        """Bind a function: bind_store(), ENODEV, EBUSY. Return False if it is not an emulated one."""
        function = self.find(name)
        if function is None:
            return self._not_ours(driver, name)
        if driver != DRIVER or not self._matches(function):
            raise IoctlError(errno.ENODEV, f"{name} does not match driver {driver}; driver_override decides")
        if function.bound:
            raise IoctlError(errno.EBUSY, f"{name} is bound to {DRIVER} already")
        self._bind(function)
        return True

    def unbind(self, driver: str, name: str) -> bool:
        """Unbind a function: unbind_store(), ENODEV; EBUSY where the kernel would wait for the last close."""
        function = self.find(name)
        if function is None:
            return self._not_ours(driver, name)
        if driver != DRIVER or not function.bound:
            raise IoctlError(errno.ENODEV, f"{name} is not bound to {driver}")
        self._unbind(function)
        return True

    def probe(self, name: str) -> bool:
        """Bind an unbound function if vfio-pci matches it: drivers_probe_store(). Return False if it is not emulated."""
        function = self.find(name)
        if function is None:
            return False
        if not function.bound and self._matches(function):
            self._bind(function)
        return True

    def _not_ours(self, driver: str, name: str) -> bool:
        if driver == DRIVER:  # this driver is emulated: it does not take real functions
            raise IoctlError(errno.ENODEV, f"there is no emulated function {name}")
        return False

    def new_id(self, text: str) -> None:
        """Add an id, and bind the functions that match it: new_id_store(), EINVAL, EEXIST, ENOMEM."""
        number = _numbers(text)
        if number in self._ids:
            raise IoctlError(errno.EEXIST, f"id {text.strip()!r} exists already")
        if len(self._ids) >= _MOST_IDS:
            raise IoctlError(errno.ENOMEM, f"the limit of {_MOST_IDS} ids is reached")
        self._ids.append(number)
        for function in self._functions.values():
            if function.present and not function.bound and self._matches(function):
                try:
                    self._bind(function)
                except IoctlError as error:  # as __driver_attach(): go on with the next one, and keep the id
                    log.info("new_id: %s", error.why)

    def remove_id(self, text: str) -> None:
        """Remove an id: remove_id_store(), EINVAL, ENODEV."""
        wanted = _numbers(text)
        for number in self._ids:
            if number[:2] == wanted[:2] and wanted[2:4] in ((_ANY, _ANY), number[2:4]):
                self._ids.remove(number)
                return
        raise IoctlError(errno.ENODEV, f"id {text.strip()!r} was not added")

    def _matches(self, function: Function) -> bool:
        """Return True if vfio-pci matches the function: pci_match_device()."""
        if function.override:
            return function.override == DRIVER
        found = function_files.identity(self._tree.config(function.device))
        for number in self._ids:
            pairs = zip(number[:4], found[:4], strict=True)
            same = all(want in (_ANY, have) for want, have in pairs)
            if same and not (number[4] ^ found[4]) & number[5]:
                return True
        return False

    def _bind(self, function: Function) -> None:
        """Make the function's device: probe(). ENOMEM if memory, an fd or a file is lacking; nothing has changed then."""
        try:
            # The device first, its files after it: programs open a node as soon as they see it.
            device = self._machine.add_device(function.device.spec)
            try:
                self._tree.bind(device)
            except OSError:
                self._machine.remove_device(device.symbol)
                raise
        except (OSError, MemoryError) as error:
            raise self._no_room(function, error) from error
        function.device = device
        function.bound = True
        self._appeared(device)

    def _no_room(self, function: Function, error: Exception) -> IoctlError:
        """Make the error for a device that could not be made."""
        told = refusal(error)
        return IoctlError(errno.ENOMEM, f"{function.device.name}: {error if told is None else told.what}")

    def _unbind(self, function: Function) -> None:
        self._machine.remove_device(function.device.symbol)  # first: EBUSY must leave everything as it was
        function.bound = False
        function.enabled = 0
        self._gone(function.device.symbol)
        self._tree.unbind(function.device)

    # --- the function's files ---

    def set_override(self, function: Function, text: str) -> None:
        """Set driver_override: driver_override_store(), EINVAL if the text is too long."""
        if len(text) >= _LONGEST_OVERRIDE:
            raise IoctlError(
                errno.EINVAL, f"driver_override has {len(text)} bytes, the limit is {_LONGEST_OVERRIDE - 1}"
            )
        function.override = text.partition("\n")[0]
        shown = function.override or function_files.UNSET
        self._tree.write(f"{function.path}/driver_override", f"{shown}\n".encode("utf-8", "surrogateescape"))

    def set_enabled(self, function: Function, value: int) -> None:
        """Change the enable count: enable_store(). EBUSY while bound, EIO to disable a disabled function."""
        if function.bound:
            raise IoctlError(errno.EBUSY, f"{function.device.name} is enabled by its driver")
        if not value and not function.enabled:
            raise IoctlError(errno.EIO, f"{function.device.name} is not enabled")
        function.enabled += 1 if value else -1
        self._tree.write(f"{function.path}/enable", f"{function.enabled}\n".encode())

    def remove(self, function: Function) -> None:
        """Take the function off the bus until a rescan: remove_store(). EBUSY while it is open."""
        if function.bound:
            self._unbind(function)
        function.present = False
        function.override = ""  # it is lost with the struct pci_dev
        self._tree.remove(function.device)

    def rescan(self) -> None:
        """Put removed functions back on the bus, as far as their files can be made: rescan_store(). They may stay unbound."""
        for function in self._functions.values():
            if function.present:
                continue
            try:
                self._tree.add(function.device, bound=False)
            except OSError as error:
                log.info("rescan: %s", self._no_room(function, error).why)
                continue
            function.present = True
            if self._matches(function):
                try:
                    self._bind(function)
                except IoctlError as error:
                    log.info("rescan: %s", error.why)


def _numbers(text: str) -> tuple[int, ...]:
    """Parse the numbers of new_id as sscanf() does: EINVAL without vendor and device."""
    numbers: list[int] = []
    for word in text.split()[:7]:
        try:
            numbers.append(int(word, 16) & _ANY)
        except ValueError:
            break
    if len(numbers) < 2:
        raise IoctlError(errno.EINVAL, f"{text.strip()!r} is not a vendor and device in hexadecimal")
    defaults = (0, 0, _ANY, _ANY, 0, 0)
    return (*numbers, *defaults[len(numbers) :])[:6]
