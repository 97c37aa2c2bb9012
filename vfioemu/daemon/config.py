# SPDX-License-Identifier: MIT
"""Read the machine file: TOML, checked as far as possible before a machine is made.

profile = "linux-6.12"          # a kernel release: a module of vfioemu/uapi/releases
quirks = "recorded"             # or clean
memlock = "off"                 # or client, or a number of bytes
dma-entry-limit = 65535
manual-clear = "off"            # or as-posted, fixed, noclear-flag

[[group]]
number = 12
[group.iommu]                   # absent: devices without an IOMMU, which are mediated ones, with a UUID
address-bits = 48
pgsizes = 0x40201000
reserved = [[0xfee00000, 0xfeefffff]]
coherent = false
[[group.device]]
symbol = "dma0"
name = "00000000-0000-4000-8000-000000000001"
model = "dma-engine"
[group.device.options]          # as the model documents
"""

import os
import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from vfioemu.core.base.profile import DEFAULT, PROFILES, Quirks
from vfioemu.core.machine import OptionsError
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.model.device import Factory
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.daemon.names import checked_name
from vfioemu.daemon.sysfs import bus_of
from vfioemu.devices.registry import options as options_of
from vfioemu.tomlfile import KeyPath, TomlError, TomlFile, guess, parse, read

ConfigError: TypeAlias = TomlError
_FIELDS: Final = re.compile(r"\b(address_bits|dma_entry_limit|isolated_msi|manual_clear)\b")
"""Field names that the core uses in error texts; the file spells them with dashes."""


class _Table(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """A table of the file: keys with dashes, unknown ones refused."""


class _Device(_Table, frozen=True):
    symbol: str
    name: str
    model: str
    options: dict[str, Any] = {}


class _Iommu(_Table, frozen=True):
    address_bits: int = 48
    pgsizes: int = 0x40201000
    reserved: list[tuple[int, int]] = []
    coherent: bool = False
    isolated_msi: bool = True


class _Group(_Table, frozen=True):
    number: int
    viable: bool = True
    iommu: _Iommu | None = None
    device: list[_Device] = []


class _Machine(_Table, frozen=True):
    profile: str = DEFAULT.name
    quirks: Quirks = "recorded"
    memlock: int | str = "off"
    dma_entry_limit: int = 65535
    manual_clear: str = "off"
    group: list[_Group] = []


def load_machine(path: str | os.PathLike[str], models: Mapping[str, Factory] | None = None) -> MachineSpec:
    """Read a machine file.

    Args:
        path: the file.
        models: the known models; if given, devices and their options are checked against them.

    Raises:
        ConfigError: the file cannot be read, or does not describe a possible machine.
    """
    return _machine_of(read(path), models)


def parse_machine(text: str, path: str | os.PathLike[str] = "machine") -> MachineSpec:
    """Read a machine from a text; `path` is for messages."""
    return _machine_of(parse(text, path), None)


def refused_options(path: str | os.PathLike[str], error: OptionsError) -> ConfigError | None:
    """Turn the refusal of a model into an error of the file with its device; None if the file does not have the device."""
    file = read(path)
    for index, group in enumerate(file.value(("group",)) or ()):
        for position, device in enumerate(group.get("device", ())):
            if device.get("symbol") == error.device.symbol:
                return _because(file, ("group", index, "device", position, "options"), error.why)
    return None


def _machine_of(file: TomlFile, models: Mapping[str, Factory] | None) -> MachineSpec:
    if isinstance(file.data.get("group"), dict):
        raise file.error(("group",), "group is a list: write [[group]], not [group]")
    for index, table in enumerate(file.value(("group",)) or ()):
        if isinstance(table, dict) and isinstance(table.get("device"), dict):
            raise file.error(
                ("group", index, "device"), "device is a list: write [[group.device]], not [group.device]"
            )
    machine = file.convert(_Machine)
    groups: list[GroupSpec] = []
    devices: list[DeviceSpec] = []
    for index, group in enumerate(machine.group):
        at: KeyPath = ("group", index)
        if any(other.number == group.number for other in groups):
            raise file.error((*at, "number"), f"group number {group.number} is used twice")
        groups.append(_group_of(file, at, group))
        for position, device in enumerate(group.device):
            devices.append(_device_of(file, (*at, "device", position), group, device, devices, models))
    _check_machine(file, machine)
    try:
        return MachineSpec(
            groups=tuple(groups),
            devices=tuple(devices),
            profile=machine.profile,
            quirks=machine.quirks,
            memlock=machine.memlock,  # type: ignore[arg-type]  # checked above, which mypy cannot see for str
            dma_entry_limit=machine.dma_entry_limit,
            manual_clear=machine.manual_clear,
        )
    except ValueError as error:
        raise _because(file, (), str(error)) from None


def _check_machine(file: TomlFile, machine: _Machine) -> None:
    if machine.profile not in PROFILES:
        raise file.error(("profile",), f"there is no {machine.profile!r}{guess(machine.profile, PROFILES)}")
    if isinstance(machine.memlock, str) and machine.memlock not in ("off", "client"):
        raise file.error(("memlock",), f'expected "off", "client" or bytes, got {machine.memlock!r}')


def _group_of(file: TomlFile, at: KeyPath, group: _Group) -> GroupSpec:
    iommu = None
    if group.iommu is not None:
        try:
            iommu = IommuSpec(
                address_bits=group.iommu.address_bits,
                pgsizes=group.iommu.pgsizes,
                reserved=tuple(group.iommu.reserved),
                coherent=group.iommu.coherent,
                isolated_msi=group.iommu.isolated_msi,
            )
        except ValueError as error:
            raise _because(file, (*at, "iommu"), str(error)) from None
    try:
        return GroupSpec(number=group.number, iommu=iommu, viable=group.viable)
    except ValueError as error:
        raise _because(file, (*at, "number"), str(error)) from None


def _device_of(
    file: TomlFile,
    at: KeyPath,
    group: _Group,
    device: _Device,
    others: list[DeviceSpec],
    models: Mapping[str, Factory] | None,
) -> DeviceSpec:
    for key in ("symbol", "name"):
        value = getattr(device, key)
        if any(getattr(other, key) == value for other in others):
            raise file.error((*at, key), f"two devices have the same {key}, {value!r}")
    try:
        name = checked_name(device.name)
    except ValueError as error:
        raise file.error((*at, "name"), str(error)) from None
    if any(other.name == name for other in others):
        raise file.error((*at, "name"), f"two devices have the same name, {name!r}")
    if (
        group.iommu is None and bus_of(name) == "pci"
    ):  # vfio_group_find_or_alloc() fails without an IOMMU group
        why = f"{name!r} is a PCI function, which needs an IOMMU: group {group.number} has no [group.iommu]"
        raise file.error((*at, "name"), why)
    if models is not None:
        _check_model(file, at, device, models)
    return DeviceSpec(
        symbol=device.symbol, name=name, group=group.number, model=device.model, options=device.options
    )


def _check_model(file: TomlFile, at: KeyPath, device: _Device, models: Mapping[str, Factory]) -> None:
    if device.model not in models:
        raise file.error((*at, "model"), f"there is no model {device.model!r}{guess(device.model, models)}")
    known = {*options_of(models[device.model]), "migration"}
    for key in device.options:
        if key not in known:
            why = f"no such option of {device.model}{guess(key, known)}"
            raise file.error((*at, "options", key), why)


def _because(file: TomlFile, at: KeyPath, why: str) -> TomlError:
    """Turn an error text of the core into an error of the file, at the key that the text names, if any."""
    why = _FIELDS.sub(lambda match: match[1].replace("_", "-"), why)
    named = [word for word in re.findall(r"[a-z-]+", why) if file.value((*at, word)) is not None]
    return file.error((*at, *named[:1]), why.removeprefix(f"{named[0]}: ") if named else why)
