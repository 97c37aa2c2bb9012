# SPDX-License-Identifier: MIT
"""A machine: groups, devices, and the device nodes by which programs reach them."""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vfioemu.core import type1
from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import Steps, locked
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File
from vfioemu.core.base.profile import PROFILES
from vfioemu.core.files.container import ContainerFile
from vfioemu.core.files.group import open_group
from vfioemu.core.memory.accounting import Accounting
from vfioemu.core.memory.backend import IommuDriver
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.memory.manual_clear import VARIANTS
from vfioemu.core.model.device import Factory
from vfioemu.core.model.observe import Observer
from vfioemu.core.objects.container import Container, Terms
from vfioemu.core.objects.device import Device
from vfioemu.core.objects.group import Group
from vfioemu.core.objects.migration_v1 import take_option
from vfioemu.core.objects.spec import ContainerOptions, DeviceSpec, GroupSpec, MachineSpec

__all__ = ["DeviceSpec", "GroupSpec", "IommuSpec", "Machine", "MachineSpec"]

CONTAINER_NODE = "/dev/vfio/vfio"
GROUP_NODES = "/dev/vfio/"


class OptionsError(ValueError):
    """A model refuses the options of a device.

    Attributes:
        device: which.
        why: what is wrong with them.
    """

    def __init__(self, device: DeviceSpec, why: str) -> None:
        super().__init__(f"device {device.symbol}: {why}")
        self.device = device
        self.why = why


class Machine:
    """A machine and all that is open on it.

    Args:
        spec: what it consists of.
        models: device models by name.
        iommu_drivers: what containers can choose from by SET_IOMMU.

    Raises:
        ValueError: a device's model does not exist or refuses its options.

    Attributes:
        groups: by number.
        devices: by symbol.
        parameters: module parameters, which may be changed; they apply to what is set up later.
        containers: those that an fd or a group refers to, oldest first.
    """

    def __init__(
        self,
        spec: MachineSpec,
        models: Mapping[str, Factory],
        iommu_drivers: Sequence[IommuDriver] = (type1.DRIVER,),
    ) -> None:
        self.spec = spec
        self.models = models
        self._iommu_drivers = tuple(iommu_drivers)
        self.accounting = Accounting(spec.memlock)
        self.parameters = {"dma_entry_limit": spec.dma_entry_limit}
        self.groups = {group.number: Group(group, PROFILES[spec.profile]) for group in spec.groups}
        self.devices: dict[str, Device] = {}
        self._groups: dict[
            str, Group
        ] = {}  # of each device: one that is being removed is in no list of its group
        self.containers: dict[int, Container] = {}
        self._serial = 0
        self._observer: Observer | None = None
        for device in spec.devices:
            self.add_device(device)

    def open(self, caller: Caller, path: str) -> Steps[File]:
        """open(2) of a device node; the container's may have options behind it: ``/dev/vfio/vfio,profile=RELEASE``.

        Raises:
            IoctlError: ENOENT for any other path, and for a group that does not exist; EINVAL for an unknown
                container option; EBUSY, ENODEV from the group.
        """
        node, comma, options = path.partition(",")
        if node == CONTAINER_NODE:
            yield from ()
            try:
                return ContainerFile(self._new_container(ContainerOptions.parse(options or comma)))
            except ValueError as error:
                raise IoctlError(errno.EINVAL, str(error)) from None
        name = path.removeprefix(GROUP_NODES)
        group = (
            self.groups.get(int(name))
            if name.isdecimal() and name.isascii() and str(int(name)) == name
            else None
        )
        if group is None or path == name:
            raise IoctlError(errno.ENOENT, f"there is no {path}")
        return (yield from open_group(group))

    def add_device(self, spec: DeviceSpec) -> Device:
        """Create a device; its group is created too if it is new: as in the machine's description, or as an mdev's.

        Raises:
            ValueError: the symbol is taken, the model does not exist or refuses its options.
        """
        if spec.symbol in self.devices:
            raise ValueError(f"there is a device {spec.symbol} already")
        factory = self.models.get(spec.model)
        if factory is None:
            raise ValueError(
                f"device {spec.symbol}: model {spec.model!r} is none of {', '.join(sorted(self.models))}"
            )
        options = dict(spec.options)
        try:
            protocol = take_option(options)
            model = factory(options)
        except ValueError as error:
            raise OptionsError(spec, str(error)) from None
        group = self.groups.get(spec.group)
        if group is None:
            described = {group.number: group for group in self.spec.groups}
            group = Group(
                described.get(spec.group, GroupSpec(number=spec.group)), PROFILES[self.spec.profile]
            )
            self.groups[spec.group] = group
        device = Device(spec, model, group, protocol)
        device.observe(self._observer)
        device.all_devices = self.devices.values
        group.devices.insert(0, device)
        self.devices[spec.symbol] = device
        self._groups[spec.symbol] = group
        return device

    @property
    def group_numbers(self) -> frozenset[int]:
        """Numbers that no new group can have: also those of described groups, whose devices may come back."""
        return frozenset(self.groups) | {group.number for group in self.spec.groups}

    def remove_device(self, symbol: str) -> None:
        """Take a device away, and its group's node with the last one.

        Raises:
            KeyError: there is none of that name.
            IoctlError: EBUSY while it is open (the kernel would wait for its last close), or while it is the last of a
                group in a container (the kernel would take the group out).
        """
        device = self.devices[symbol]
        if device.open_count:
            raise IoctlError(errno.EBUSY, f"device {symbol} is open")
        group = self._groups[symbol]
        if group.container is not None and len(group.devices) == 1:
            raise IoctlError(errno.EBUSY, f"group {group.number} is in a container")
        del self.devices[symbol], self._groups[symbol]
        group.devices.remove(device)
        if not group.devices:
            del self.groups[group.number]

    def withdraw(self, device: Device) -> None:
        """Let nobody open a device any more; those who have it open keep it. Kernel: vfio_device_group_unregister()."""
        self._groups[device.symbol].devices.remove(device)

    def is_withdrawn(self, device: Device) -> bool:
        """Tell whether `withdraw` was called for it."""
        return device not in self._groups[device.symbol].devices

    def take_away(self, device: Device) -> Steps[None]:
        """Take a device away that was withdrawn and closed, with the last one its group, out of its container too.

        Kernel: vfio_device_remove_group().
        """
        group = self._groups[device.symbol]
        yield from locked(group.lock)
        try:
            if not group.devices and group.container is not None:
                yield from group.container.detach(group)
        finally:
            group.lock.release()
        del self.devices[device.symbol], self._groups[device.symbol]
        if not group.devices:
            self.groups.pop(group.number, None)

    def observe(self, observer: Observer | None) -> None:
        """Tell `observer` what all devices do from now on; None: nobody."""
        self._observer = observer
        for device in self.devices.values():
            device.observe(observer)

    def set_parameter(self, name: str, value: int) -> None:
        """Set a module parameter: KeyError for no such, ValueError for no such value."""
        if name not in self.parameters:
            raise KeyError(name)
        replace(self.spec, dma_entry_limit=value)  # checks it
        self.parameters[name] = value

    def gauges(self) -> dict[int, dict[str, int]]:
        """Return what each container holds, by the container's number."""
        return {number: container.gauges() for number, container in self.containers.items()}

    def keep(self, container: Container) -> None:
        """Forget a container if nothing refers to it any more; called when its last reference may have gone."""
        if container.is_open or container.groups:
            self.containers[container.number] = container
        else:
            self.containers.pop(container.number, None)

    def _new_container(self, options: ContainerOptions) -> Container:
        self._serial += 1
        spec = self.spec
        terms = Terms(
            drivers=self._iommu_drivers,
            profile=PROFILES[options.profile or spec.profile],
            quirks=options.quirks or spec.quirks,
            manual_clear=VARIANTS[options.manual_clear or spec.manual_clear],
            accounting=self.accounting,
            parameters=self.parameters,
        )
        container = Container(self._serial, terms, self.keep)
        self.keep(container)
        return container
