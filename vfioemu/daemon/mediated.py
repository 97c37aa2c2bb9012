# SPDX-License-Identifier: MIT
"""Make and remove mediated devices while the daemon runs, by commands and by files in /sys."""

import errno
import uuid
from collections.abc import Mapping

import trio

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.machine import Machine
from vfioemu.core.objects.device import Device
from vfioemu.core.objects.spec import DeviceSpec
from vfioemu.daemon import messages as d
from vfioemu.daemon import real
from vfioemu.daemon.needs import memory_of
from vfioemu.daemon.removal import Removals
from vfioemu.daemon.tree import MAX_MDEVS, Tree
from vfioemu.daemon.workers import Workers
from vfioemu.devices.registry import options, summary
from vfioemu.room import require_room
from vfioemu.wire.control import ControlError
from vfioemu.world import refusal

_ERRNOS = {"DeviceExists": errno.EEXIST, "TooManyDevices": errno.EUSERS, "NoRoom": errno.ENOMEM}


def _spelled(text: str) -> str:
    """Return a UUID as devices are named, from any spelling; ValueError if it is not a UUID."""
    return str(uuid.UUID(text))


class MediatedDevices:
    """The mediated devices made since the daemon started; those of the machine file do not count among them.

    Args:
        machine: gets the devices.
        workers: run their work.
        tree: shows them.
        removals: remove open ones.
    """

    def __init__(self, machine: Machine, workers: Workers, tree: Tree, removals: Removals) -> None:
        self._machine = machine
        self._workers = workers
        self._tree = tree
        self._removals = removals
        self._names: set[str] = set()

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._names

    def types(self) -> list[d.MdevType]:
        """List the types, one for each model."""
        models = self._machine.models
        return [
            d.MdevType(
                id=name,
                description=summary(models[name]),
                options=dict(options(models[name])),
                available=MAX_MDEVS - len(self._names),
            )
            for name in sorted(models)
        ]

    def start(self, model: str, text: str | None, settings: Mapping[str, object]) -> str:
        """Make a mediated device; return its name, a UUID.

        Args:
            model: its type.
            text: its UUID in any spelling; None for a random one.
            settings: options of the model.

        Raises:
            ControlError: it cannot be made.
        """
        if len(self._names) >= MAX_MDEVS:
            raise ControlError("TooManyDevices", f"the limit of {MAX_MDEVS} mediated devices is reached")
        try:
            name = str(uuid.uuid4()) if text is None else _spelled(text)
        except ValueError:
            raise ControlError("BadArguments", f"{text!r} is not a UUID") from None
        if any(device.name == name for device in self._machine.devices.values()):
            raise ControlError("DeviceExists", f"device {name} exists already")
        if model not in self._machine.models:
            known = ", ".join(sorted(self._machine.models))
            raise ControlError("TypeNotFound", f"no type {model!r}; known are {known}")
        group = real.free_group(self._machine.group_numbers)  # a new group, so it has no IOMMU
        try:
            require_room("the device", memory_of(self._machine.models[model], settings))
            # The device first, its files after it: programs open a node as soon as they see it.
            device = self._machine.add_device(
                DeviceSpec(symbol=name, name=name, group=group, model=model, options=settings)
            )
            try:
                self._tree.add(device)
            except OSError:
                self._machine.remove_device(name)
                raise
        except ValueError as error:
            raise ControlError("BadArguments", str(error)) from None
        except (OSError, MemoryError) as error:
            told = refusal(error)
            raise ControlError("NoRoom", str(error) if told is None else told.what) from error
        self._names.add(name)
        self._workers.add(device)
        self._tree.show_available(MAX_MDEVS - len(self._names))
        return name

    def stop(self, text: str) -> tuple[str, trio.Event | None]:
        """Remove a mediated device; return its name and, if it is open or its group is in a container, an event to wait for.

        Raises:
            ControlError: no such device was started.
        """
        device = self._find(text)
        if not self._machine.is_withdrawn(device):
            try:
                self._remove(device)
            except IoctlError:
                pass
            else:
                return device.symbol, None
        return device.symbol, self._removals.begin(device, lambda: self._gone(device))

    # --- the same, by files in /sys: attributes.Mdevs ---

    def create(self, name: str, model: str) -> None:
        """Make a device for a UUID written to a type's `create`: IoctlError EEXIST, EUSERS, ENOMEM."""
        try:
            self.start(model, name, {})
        except ControlError as error:
            raise IoctlError(_ERRNOS.get(error.kind, errno.EINVAL), str(error)) from None

    def delete(self, name: str) -> None:
        """Remove a device for a write to its `remove`: IoctlError ENODEV; EBUSY where the kernel would wait for the close."""
        try:
            device = self._find(name)
        except ControlError as error:
            raise IoctlError(errno.ENODEV, str(error)) from None
        if self._machine.is_withdrawn(device):
            raise IoctlError(errno.EBUSY, f"device {name} is being removed")
        self._remove(device)

    def _find(self, text: str) -> Device:
        try:
            name = _spelled(text)
        except ValueError:
            name = text
        device = self._machine.devices.get(name)
        if name not in self._names or device is None:
            raise ControlError("DeviceNotFound", f"no mediated device {text!r} was started")
        return device

    def _remove(self, device: Device) -> None:
        """Remove a device that is not open; IoctlError EBUSY otherwise."""
        self._machine.remove_device(device.symbol)  # first: EBUSY must leave everything as it was
        self._gone(device)

    def _gone(self, device: Device) -> None:
        self._names.remove(device.symbol)
        self._workers.remove(device.symbol)
        self._tree.remove(device)
        self._tree.show_available(MAX_MDEVS - len(self._names))
