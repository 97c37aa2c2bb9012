# SPDX-License-Identifier: MIT
"""The sysfs files of a PCI function: drivers/pci/pci-sysfs.c."""

import os
import struct
from collections.abc import Iterator, Mapping
from typing import Final

from vfioemu.core.objects.device import Device
from vfioemu.daemon.addresses import BarRange
from vfioemu.daemon.entries import Directory, Entries, File, text
from vfioemu.devices.pci.hardware import registers as r
from vfioemu.devices.pci.vfio_pci.driver import VfioPci

DRIVER: Final = "vfio-pci"
UNSET: Final = "(null)"
"""Content of driver_override if none is set."""
SETTABLE: Final[Mapping[str, tuple[str, ...]]] = {
    "broken_parity_status": ("0", "1"),
    "d3cold_allowed": ("1", "0"),
    "msi_bus": ("1", "0"),
    "numa_node": ("-1", "0"),
    "power/control": ("on", "auto"),
}
"""Attributes that keep what is written: their values, the initial one first."""

_IDS: Final = struct.Struct("<HH4xB3B32xHH")
_BARS: Final = 6
_ROM: Final = 6
_RESOURCES: Final = 13
_IO: Final = 0x40101
_MEM: Final = 0x40200
_MEM64: Final = 0x140204
_PREFETCH: Final = 0x2008
_ROM_FLAGS: Final = 0x46200


def is_binary(name: str) -> bool:
    """Return True for a live file with binary contents, which are not kept as text."""
    return name in ("config", "rom") or name.startswith("resource")


def bar_ranges(device: Device, config: bytes) -> dict[int, BarRange]:
    """Return the ranges that the BARs and the ROM decode, by index."""
    regions = device.model.regions()
    found: dict[int, BarRange] = {}
    for index in range(min(_ROM + 1, len(regions))):
        region = regions[index]
        if region is None or not region.size:
            continue
        size = 1 << (region.size - 1).bit_length()
        place = r.ROM_ADDRESS if index == _ROM else r.BASE_ADDRESS_0 + 4 * index
        value = int.from_bytes(config[place : place + 8].ljust(8, b"\0"), "little")
        if index == _ROM:
            found[index] = BarRange(value & 0xFFFFF800, size, _ROM_FLAGS)
        elif value & r.BASE_ADDRESS_IO:
            found[index] = BarRange(value & 0xFFFFFFFC, size, _IO)
        else:
            wide = bool(value & r.BASE_ADDRESS_MEM_64)
            flags = (_MEM64 if wide else _MEM) | (_PREFETCH if value & r.BASE_ADDRESS_PREFETCH else 0)
            found[index] = BarRange(value & (~0xF if wide else 0xFFFFFFF0), size, flags)
    return found


def wide(found: Mapping[int, BarRange]) -> frozenset[int]:
    """Return the indexes of the ranges that may lie above 4 GiB."""
    return frozenset(index for index, bar in found.items() if bar.flags & _MEM64 == _MEM64)


def uevent(device: Device, config: bytes, *, bound: bool) -> File:
    """Make the uevent file, from which udev reads a function's properties."""
    vendor, product, _, *classes, sub_vendor, sub_product = _identity(config)
    return text(
        *([f"DRIVER={DRIVER}"] if bound else []),
        f"PCI_CLASS={classes[2] << 16 | classes[1] << 8 | classes[0]:X}",
        f"PCI_ID={vendor:04X}:{product:04X}",
        f"PCI_SUBSYS_ID={sub_vendor:04X}:{sub_product:04X}",
        f"PCI_SLOT_NAME={device.name}",
        f"MODALIAS={_modalias(config)}",
        mode=0o644,
        live=True,
    )


def identity(config: bytes) -> tuple[int, int, int, int, int]:
    """Return (vendor, device, subsystem vendor, subsystem device, class), by which drivers match."""
    vendor, product, _, *classes, sub_vendor, sub_product = _identity(config)
    return vendor, product, sub_vendor, sub_product, classes[2] << 16 | classes[1] << 8 | classes[0]


def entries(
    path: str, device: Device, config: bytes, placed: Mapping[int, BarRange], *, bound: bool
) -> Entries:
    """Yield the files of a function's directory, without those that its driver makes.

    Args:
        path: the directory.
        device: the function.
        config: its config space, as in hardware.
        placed: the ranges of its BARs, by index.
        bound: the function is bound to vfio-pci.
    """
    vendor, product, sub_vendor, sub_product, code = identity(config)
    cpus = os.cpu_count() or 1
    plain = {
        "vendor": f"0x{vendor:04x}",
        "device": f"0x{product:04x}",
        "subsystem_vendor": f"0x{sub_vendor:04x}",
        "subsystem_device": f"0x{sub_product:04x}",
        "class": f"0x{code:06x}",
        "revision": f"0x{_identity(config)[2]:02x}",
        "irq": str(config[r.INTERRUPT_LINE] if len(config) > r.INTERRUPT_LINE else 0),
        "modalias": _modalias(config),
        "ari_enabled": "0",
        "consistent_dma_mask_bits": "32",
        "dma_mask_bits": "32",
        "local_cpulist": f"0-{cpus - 1}" if cpus > 1 else "0",
        "local_cpus": _mask(cpus),
        "power_state": "D0",
    }
    for name, value in plain.items():
        yield f"{path}/{name}", text(value)
    yield f"{path}/resource", text(*_resources(placed))
    yield f"{path}/uevent", uevent(device, config, bound=bound)
    yield f"{path}/power", Directory()
    for name, value in (("active_time", "0"), ("enabled", "forbidden"), ("status", "active")):
        yield f"{path}/power/runtime_{name}", text(value)
    yield f"{path}/power/runtime_suspended_time", text("0")
    for name, values in SETTABLE.items():
        yield f"{path}/{name}", text(values[0], mode=0o644, live=True)
    yield f"{path}/driver_override", text(DRIVER if bound else UNSET, mode=0o644, live=True)
    yield f"{path}/enable", text("1" if bound else "0", mode=0o644, live=True)
    yield f"{path}/config", File(config, 0o644, live=True)
    for name in ("remove", "rescan"):
        yield f"{path}/{name}", text(mode=0o200, live=True)
    if device.model.can_reset:
        yield f"{path}/reset", text(mode=0o200, live=True)
        yield f"{path}/reset_method", text("flr" if isinstance(device.model, VfioPci) else "device_specific")
    for index, bar in placed.items():
        if index == _ROM:
            yield f"{path}/rom", File(b"", 0o600, live=True, size=bar.size)
            continue
        yield f"{path}/resource{index}", File(b"", 0o600, live=True, size=bar.size)
        if bar.flags & _PREFETCH == _PREFETCH:
            yield f"{path}/resource{index}_wc", File(b"", 0o600, live=True, size=bar.size)


def _identity(config: bytes) -> tuple[int, ...]:
    return _IDS.unpack_from(config.ljust(64, b"\0"))


def _modalias(config: bytes) -> str:
    vendor, product, sub_vendor, sub_product, code = identity(config)
    return (
        f"pci:v{vendor:08X}d{product:08X}sv{sub_vendor:08X}sd{sub_product:08X}"
        f"bc{code >> 16:02X}sc{code >> 8 & 0xFF:02X}i{code & 0xFF:02X}"
    )


def _mask(cpus: int) -> str:
    """Format a cpumask: groups of eight hexadecimal digits."""
    digits = f"{(1 << cpus) - 1:x}"
    first = len(digits) % 8 or 8
    return ",".join([digits[:first], *(digits[at : at + 8] for at in range(first, len(digits), 8))])


def _resources(placed: Mapping[int, BarRange]) -> Iterator[str]:
    """Yield the lines of resource_show(): start, end and flags."""
    for index in range(_RESOURCES):
        bar = placed.get(index)
        if bar is None:
            yield f"0x{0:016x} 0x{0:016x} 0x{0:016x}"
        else:
            yield f"0x{bar.start:016x} 0x{bar.start + bar.size - 1:016x} 0x{bar.flags:016x}"
