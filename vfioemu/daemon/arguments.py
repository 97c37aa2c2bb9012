# SPDX-License-Identifier: MIT
"""Devices named on a command line: ``MODEL[,key=value...]``, and the machine that has them.

Keys that every device has:

  bus=pci|mdev      a PCI function behind an IOMMU of its own, or a mediated device without one
  name=NAME         the function's address, or the mediated device's UUID
  group=N           N of /dev/vfio/N

All others are the model's; how values are written is in vfioemu/devices/options.py.
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
    """A device that cannot be had as it is described; `hint` says what can."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A device as somebody asked for it."""

    model: str
    bus: str | None = None
    name: str | None = None
    group: int | None = None
    options: Mapping[str, object] = field(default_factory=dict)


def parse_device(text: str) -> Wish:
    """Read ``MODEL[,key=value...]``.

    Raises:
        DeviceError: the text names no model, or has something other than key=value behind it.
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
        raise DeviceError(f"device {text!r}: bus is one of {', '.join(_BUSES)}, not {bus!r}")
    if group is not None and (
        not isinstance(group, int) or isinstance(group, bool) or not 0 <= group <= GROUP_MAX
    ):
        raise DeviceError(f"device {text!r}: group is a number up to {GROUP_MAX}, not {group!r}")
    return Wish(
        model=model,
        bus=None if bus is None else str(bus),
        name=None if name is None else str(name),
        group=group,
        options=values,
    )


def unknown(what: str, name: str, known: Iterable[str], where: str) -> DeviceError:
    """The error for a name that does not exist, with the most similar one that does."""
    close = difflib.get_close_matches(name.lower(), list(known), 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return DeviceError(f"unknown {what} {name!r}", f"{hint}`{where}` lists all")


def with_devices(spec: MachineSpec, wishes: Sequence[Wish], models: Mapping[str, Factory]) -> MachineSpec:
    """The machine with more devices, each in a group of its own unless it names one.

    A default group is none that this machine has, nor one that any other device names: which numbers are free differs from
    machine to machine, and who is with whom in a group must not.

    Raises:
        DeviceError: an unknown model or option, a name that is taken or of the wrong kind.
    """
    groups = {group.number: group for group in spec.groups}
    named = {wish.group for wish in wishes if wish.group is not None}
    devices = list(spec.devices)
    for wish in wishes:
        if wish.model not in models:
            raise unknown("device", wish.model, models, "vfioemu devices")
        factory = models[wish.model]
        options = options_of(factory)
        for key in wish.options:
            if key not in options and key != "migration":  # every model that migrates has that
                known = [*options, *COMMON, "migration"]
                raise unknown(f"option of {wish.model}:", key, known, f"vfioemu devices {wish.model}")
        if wish.name is None:
            bus = wish.bus or default_bus(factory)
            name = _free_name(bus, {device.name for device in devices})
        else:
            try:
                name = checked_name(wish.name)
            except ValueError as error:
                raise DeviceError(f"device {wish.model}: name={error}") from None
            bus = bus_of(name)
            if bus not in _BUSES or wish.bus not in (None, bus):
                kind = "a PCI address (1000:00:01.0)" if wish.bus == "pci" else "a UUID"
                raise DeviceError(f"device {wish.model}: name={name} is not {kind}")
            if bus == "pci" and real.has(name):
                raise DeviceError(
                    f"device {wish.model}: this machine has a PCI device {name} of its own",
                    f"name={real.free_domain()}:{name.partition(':')[2]} would be free",
                )
            if any(device.name == name for device in devices):
                raise DeviceError(f"device {wish.model}: name={name} is taken")
        number = wish.group
        if number is None:
            number = real.free_group({*groups, *named})
        if number not in groups:
            groups[number] = GroupSpec(number=number, iommu=_IOMMU if bus == "pci" else None)
        if bus == "pci" and groups[number].iommu is None:
            raise DeviceError(
                f"device {wish.model}: group={number} has no IOMMU, and PCI functions are behind one",
                "without group= it gets a group of its own; bus=mdev is a mediated device, which needs no IOMMU",
            )
        symbols = {device.symbol for device in devices}
        stem = _stem(wish.model)
        symbol = next(s for n in range(len(devices) + 1) if (s := f"{stem}{n}") not in symbols)
        devices.append(
            DeviceSpec(symbol=symbol, name=name, group=number, model=wish.model, options=wish.options)
        )
    return dataclasses.replace(spec, groups=tuple(groups.values()), devices=tuple(devices))


def _stem(model: str) -> str:
    """What symbols of a model's devices begin with: its name; of ``package.module:DoorBell``, ``door-bell``."""
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
    raise DeviceError(f"there is no room for another {bus} device", "give it a name=, on another bus")
