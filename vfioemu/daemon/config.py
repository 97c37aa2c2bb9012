# SPDX-License-Identifier: MIT
"""The machine file: TOML, checked as far as a file can be before a machine is made of it.

profile = "linux-6.12"          # or linux-7.2
quirks = "recorded"             # or clean
memlock = "off"                 # or client, or a number of bytes
dma-entry-limit = 65535
manual-clear = "off"            # or as-posted, fixed, noclear-flag

[[group]]
number = 12
[group.iommu]                   # absent: devices without an IOMMU (mdev)
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
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from vfioemu.core.spec import DeviceSpec, GroupSpec, IommuSpec, MachineSpec, Quirks


class ConfigError(Exception):
    """A file that cannot be used: which, where in it, and why."""

    def __init__(self, path: str | os.PathLike[str], where: str, why: str) -> None:
        self.path = os.fspath(path)
        self.where = where
        self.why = why
        super().__init__(f"{self.path}: {where}: {why}" if where else f"{self.path}: {why}")


class _Table(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """A table of the file: keys with dashes, and none that we do not know."""


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
    profile: str = "linux-6.12"
    quirks: Quirks = "recorded"
    memlock: int | str = "off"
    dma_entry_limit: int = 65535
    manual_clear: str = "off"
    group: list[_Group] = []


def load_machine(path: str | os.PathLike[str]) -> MachineSpec:
    """Read a machine file.

    Raises:
        ConfigError: it cannot be read, or says something that no machine can be.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(path, "", getattr(error, "strerror", None) or str(error)) from None
    return parse_machine(text, path)


def parse_machine(text: str, path: str | os.PathLike[str] = "machine") -> MachineSpec:
    """`load_machine` for a text; `path` is for messages."""
    try:
        machine = msgspec.convert(tomllib.loads(text), _Machine)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(path, "", str(error)) from None
    except msgspec.ValidationError as error:
        raise ConfigError(path, *_explain(str(error))) from None
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, arrays of arrays of arrays.
        raise ConfigError(path, "", str(error)) from None
    groups = []
    devices = []
    for index, group in enumerate(machine.group):
        where = f"group[{index}]"
        try:
            iommu = None
            if group.iommu is not None:
                where += ".iommu"
                iommu = IommuSpec(
                    address_bits=group.iommu.address_bits,
                    pgsizes=group.iommu.pgsizes,
                    reserved=tuple(group.iommu.reserved),
                    coherent=group.iommu.coherent,
                    isolated_msi=group.iommu.isolated_msi,
                )
            groups.append(GroupSpec(number=group.number, iommu=iommu, viable=group.viable))
        except ValueError as error:
            raise ConfigError(path, where, str(error)) from None
        devices += [
            DeviceSpec(
                symbol=device.symbol,
                name=device.name,
                group=group.number,
                model=device.model,
                options=device.options,
            )
            for device in group.device
        ]
    if isinstance(machine.memlock, str) and machine.memlock not in ("off", "client"):
        raise ConfigError(path, "memlock", f'expected "off", "client" or bytes, got {machine.memlock!r}')
    try:
        return MachineSpec(
            groups=tuple(groups),
            devices=tuple(devices),
            profile=machine.profile,
            quirks=machine.quirks,
            memlock=machine.memlock,  # type: ignore[arg-type]  # narrowed above, which mypy cannot see for str
            dma_entry_limit=machine.dma_entry_limit,
            manual_clear=machine.manual_clear,
        )
    except ValueError as error:
        raise ConfigError(path, "", str(error)) from None


def _explain(message: str) -> tuple[str, str]:
    """Turn msgspec's message into (where in the file, what is wrong there)."""
    what, _, where = message.partition(" - at ")
    key = where.strip("`").removeprefix("$").removeprefix(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what)
    if unknown:
        return f"{key}.{unknown[1]}".lstrip("."), "no such key"
    missing = re.fullmatch(r"Object missing required field `(.*)`", what)
    if missing:
        return f"{key}.{missing[1]}".lstrip("."), "is missing"
    return key, what[:1].lower() + what[1:].replace("`", "")
