# SPDX-License-Identifier: MIT
"""Parse devices on a command line, ``MODEL[,key=value...]``, and add them to a machine.

Keys that every device has:

  bus=pci|mdev      a PCI function behind an IOMMU of its own, or a mediated device without one
  name=NAME         the function's address, or the mediated device's UUID
  group=N           N of /dev/vfio/N

All others are options of the model. A value is a number (also 0x...), true, false, a list [a,b], or a text.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.model.device import Factory
from vfioemu.core.objects.spec import GROUP_MAX, DeviceSpec, GroupSpec, MachineSpec
from vfioemu.daemon import real
from vfioemu.daemon.names import checked_name
from vfioemu.daemon.sysfs import bus_of
from vfioemu.devices.options import read_pairs, split_pairs
from vfioemu.devices.registry import default_bus, is_class
from vfioemu.devices.registry import options as options_of

COMMON: Final[Mapping[str, str]] = {
    "bus": "pci: a function behind an IOMMU; mdev: a mediated device",
    "name": "its PCI address or UUID (default: the first that is free)",
    "group": "N of /dev/vfio/N (default: the first that is free)",
}
_IOMMU: Final = IommuSpec(reserved=((0xFEE00000, 0xFEEFFFFF),))
_BUSES: Final = ("pci", "mdev")


class DeviceError(Exception):
    """A device description that cannot be used; `hint` says what would work."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceArgument:
    """A device as described on the command line."""

    model: str
    bus: str | None = None
    name: str | None = None
    group: int | None = None
    options: Mapping[str, object] = field(default_factory=dict)


def parse_device(text: str) -> DeviceArgument:
    """Parse ``MODEL[,key=value...]``.

    Raises:
        DeviceError: the text is not a device.
    """
    model, *pairs = split_pairs(text)
    if not model or "=" in model:
        raise DeviceError(
            f"device {text!r}: no model name before the options", "as in --device dma-engine,type=3"
        )
    try:
        values = read_pairs(pairs)
    except ValueError as error:
        raise DeviceError(f"device {text!r}: {error}") from None
    bus, name, group = (values.pop(key, None) for key in ("bus", "name", "group"))
    if bus is not None and bus not in _BUSES:
        raise DeviceError(f"device {text!r}: bus must be one of {', '.join(_BUSES)}, not {bus!r}")
    if group is not None and (
        not isinstance(group, int) or isinstance(group, bool) or not 0 <= group <= GROUP_MAX
    ):
        raise DeviceError(f"device {text!r}: group must be a number in 0..{GROUP_MAX}, not {group!r}")
    return DeviceArgument(
        model=model,
        bus=None if bus is None else str(bus),
        name=None if name is None else str(name),
        group=group,
        options=values,
    )


def unknown(what: str, name: str, known: Iterable[str], where: str) -> DeviceError:
    """Make the error for an unknown name, with the most similar known one as a hint."""
    close = difflib.get_close_matches(name.lower(), list(known), 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return DeviceError(f"unknown {what} {name!r}", f"{hint}`{where}` lists all")


def with_devices(
    spec: MachineSpec, arguments: Sequence[DeviceArgument], models: Mapping[str, Factory]
) -> MachineSpec:
    """Return the machine with more devices, each in a group of its own unless it names one.

    A default group number is one that neither this machine nor any of the arguments uses. The free numbers differ from machine to
    machine, and two devices must not share a group on some machines only.

    Raises:
        DeviceError: an unknown model or option, or a name that is taken or does not fit the bus.
    """
    groups = {group.number: group for group in spec.groups}
    named = {argument.group for argument in arguments if argument.group is not None}
    devices = list(spec.devices)
    for argument in arguments:
        if argument.model not in models:
            raise unknown("device", argument.model, models, "vfioemu devices")
        factory = models[argument.model]
        options = options_of(factory)
        for key in argument.options:
            if key not in options and key != "migration":  # an option of every model that migrates
                known = [*options, *COMMON, "migration"]
                raise unknown(f"option of {argument.model}:", key, known, f"vfioemu devices {argument.model}")
        if argument.name is None:
            bus = argument.bus or default_bus(factory)
            name = _free_name(bus, {device.name for device in devices})
        else:
            try:
                name = checked_name(argument.name)
            except ValueError as error:
                raise DeviceError(f"device {argument.model}: name={error}") from None
            bus = bus_of(name)
            if bus not in _BUSES or argument.bus not in (None, bus):
                kind = "a PCI address (1000:00:01.0)" if argument.bus == "pci" else "a UUID"
                raise DeviceError(f"device {argument.model}: name={name} is not {kind}")
            if bus == "pci" and real.has(name):
                raise DeviceError(
                    f"device {argument.model}: this machine has a PCI device {name} of its own",
                    f"name={real.free_domain()}:{name.partition(':')[2]} would be free",
                )
            if any(device.name == name for device in devices):
                raise DeviceError(f"device {argument.model}: name={name} is taken")
        number = argument.group
        if number is None:
            number = real.free_group({*groups, *named})
        if number not in groups:
            groups[number] = GroupSpec(number=number, iommu=_IOMMU if bus == "pci" else None)
        if bus == "pci" and groups[number].iommu is None:
            raise DeviceError(
                f"device {argument.model}: group={number} has no IOMMU, and a PCI function needs one",
                "without group= it gets a group of its own; bus=mdev is a mediated device, which needs no IOMMU",
            )
        symbols = {device.symbol for device in devices}
        stem = _stem(argument.model)
        symbol = next(s for n in range(len(devices) + 1) if (s := f"{stem}{n}") not in symbols)
        devices.append(
            DeviceSpec(symbol=symbol, name=name, group=number, model=argument.model, options=argument.options)
        )
    return dataclasses.replace(spec, groups=tuple(groups.values()), devices=tuple(devices))


def _stem(model: str) -> str:
    """Return the prefix of the symbols of a model's devices: its name; ``door-bell`` for ``package.module:DoorBell``."""
    return (
        re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", model.rpartition(":")[2]).lower() if is_class(model) else model
    )


def _free_name(bus: str, taken: set[str]) -> str:
    domain = real.free_domain()
    candidates = (
        f"{domain}:00:{n:02x}.0" if bus == "pci" else f"00000000-0000-4000-8000-{n:012x}"
        for n in range(1, 32 if bus == "pci" else 1 << 16)
    )
    for name in candidates:
        if name not in taken:
            return name
    raise DeviceError(f"no free {bus} name for another device", "give it a name= on another bus")
