# SPDX-License-Identifier: MIT
"""PCI functions and their driver: what is written to bind, unbind, driver_override, new_id, remove and rescan.

Kernel: drivers/base/bus.c, dd.c, drivers/pci/pci-driver.c, pci-sysfs.c. vfio-pci is the only driver that emulated functions
can have. A function without it stays in /sys; vfio knows nothing of it then.
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
        device: what it is; after an unbind, what it was.
        bound: vfio-pci has it.
        override: driver_override; empty for none.
        present: it is on the bus.
        enabled: how often it has been enabled by hand.
        rom: its ROM can be read.
    """

    device: Device
    bound: bool = True
    override: str = DRIVER
    present: bool = True
    enabled: int = 0
    rom: bool = False

    @property
    def path(self) -> str:
        """Its directory."""
        return sysfs.device_path(self.device)


class Functions:
    """The PCI functions of a machine.

    Args:
        machine: whose.
        tree: shows them.
        appeared: is told of a device that vfio has from now on.
        gone: is told of the symbol of one that it has no more.
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
        """The function of that address that is on the bus."""
        function = self._functions.get(name)
        return function if function is not None and function.present else None

    def at(self, path: str) -> Function | None:
        """The function whose directory that is."""
        function = self.find(path.rpartition("/")[2])
        return function if function is not None and function.path == path else None

    # --- the driver's files ---

    def bind(self, driver: str, name: str) -> bool:
        """bind_store(): ENODEV, EBUSY; False if it is about nothing of ours."""
        function = self.find(name)
        if function is None:
            return self._not_ours(driver, name)
        if driver != DRIVER or not self._matches(function):
            raise IoctlError(errno.ENODEV, f"{name} is not for {driver}: its driver_override decides")
        if function.bound:
            raise IoctlError(errno.EBUSY, f"{name} has the driver {DRIVER} already")
        self._bind(function)
        return True

    def unbind(self, driver: str, name: str) -> bool:
        """unbind_store(): ENODEV; EBUSY where the kernel would wait for the last close."""
        function = self.find(name)
        if function is None:
            return self._not_ours(driver, name)
        if driver != DRIVER or not function.bound:
            raise IoctlError(errno.ENODEV, f"{name} does not have the driver {driver}")
        self._unbind(function)
        return True

    def probe(self, name: str) -> bool:
        """drivers_probe_store(): a function without a driver gets one, if there is one for it."""
        function = self.find(name)
        if function is None:
            return False
        if not function.bound and self._matches(function):
            self._bind(function)
        return True

    def _not_ours(self, driver: str, name: str) -> bool:
        if driver == DRIVER:  # emulated as a whole: a real function is not given to it
            raise IoctlError(errno.ENODEV, f"there is no emulated function {name}")
        return False

    def new_id(self, text: str) -> None:
        """new_id_store(): EINVAL, EEXIST; functions that match get the driver."""
        number = _numbers(text)
        if number in self._ids:
            raise IoctlError(errno.EEXIST, f"{text.strip()!r} is known already")
        if len(self._ids) >= _MOST_IDS:
            raise IoctlError(errno.ENOMEM, f"{_MOST_IDS} ids are known")
        self._ids.append(number)
        for function in self._functions.values():
            if function.present and not function.bound and self._matches(function):
                try:
                    self._bind(function)
                except IoctlError as error:  # __driver_attach(): the next one is tried, and the id stays
                    log.info("new_id: %s", error.why)

    def remove_id(self, text: str) -> None:
        """remove_id_store(): EINVAL, ENODEV."""
        wanted = _numbers(text)
        for number in self._ids:
            if number[:2] == wanted[:2] and wanted[2:4] in ((_ANY, _ANY), number[2:4]):
                self._ids.remove(number)
                return
        raise IoctlError(errno.ENODEV, f"{text.strip()!r} is no id that was added")

    def _matches(self, function: Function) -> bool:
        """pci_match_device()."""
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
        """probe(): ENOMEM if the system has no memory, fd or file for it; then nothing has changed."""
        try:
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
        """What is said of a function that could not be made."""
        told = refusal(error)
        return IoctlError(errno.ENOMEM, f"{function.device.name}: {error if told is None else told.what}")

    def _unbind(self, function: Function) -> None:
        self._machine.remove_device(function.device.symbol)
        function.bound = False
        function.enabled = 0
        self._gone(function.device.symbol)
        self._tree.unbind(function.device)

    # --- the function's files ---

    def set_override(self, function: Function, text: str) -> None:
        """driver_override_store(): EINVAL for what is too long."""
        if len(text) >= _LONGEST_OVERRIDE:
            raise IoctlError(errno.EINVAL, f"driver_override: {len(text)} bytes")
        function.override = text.partition("\n")[0]
        shown = function.override or function_files.UNSET
        self._tree.write(f"{function.path}/driver_override", f"{shown}\n".encode("utf-8", "surrogateescape"))

    def set_enabled(self, function: Function, value: int) -> None:
        """enable_store(): EBUSY while a driver has it, EIO for one `disable` too many."""
        if function.bound:
            raise IoctlError(errno.EBUSY, f"{function.device.name} is enabled by its driver")
        if not value and not function.enabled:
            raise IoctlError(errno.EIO, f"{function.device.name} is not enabled")
        function.enabled += 1 if value else -1
        self._tree.write(f"{function.path}/enable", f"{function.enabled}\n".encode())

    def remove(self, function: Function) -> None:
        """remove_store(): it is on the bus no more, until it is looked for again; EBUSY while it is open."""
        if function.bound:
            self._unbind(function)
        function.present = False
        function.override = ""  # of a struct pci_dev that is gone
        self._tree.remove(function.device)

    def rescan(self) -> None:
        """rescan_store(): what was removed is found again, as far as there is room to show it; it may have no driver then."""
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
    """Vendor, device and more of new_id, as sscanf() reads them: EINVAL without the first two."""
    numbers: list[int] = []
    for word in text.split()[:7]:
        try:
            numbers.append(int(word, 16) & _ANY)
        except ValueError:
            break
    if len(numbers) < 2:
        raise IoctlError(errno.EINVAL, f"{text.strip()!r} is no vendor and device in hexadecimal digits")
    defaults = (0, 0, _ANY, _ANY, 0, 0)
    return (*numbers, *defaults[len(numbers) :])[:6]
