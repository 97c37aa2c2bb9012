# SPDX-License-Identifier: MIT
"""What /dev and /sys show of a machine: paths and what is there, as data. `daemon/tree.py` makes files of it.

Paths are those of the kernel, without the leading slash. Links name their target as a path from the root too.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from vfioemu.core.device import Device
from vfioemu.core.spec import GroupSpec, IommuSpec

Bus: TypeAlias = Literal["pci", "mdev", "platform"]

OWNERS: Final = "owner"
"""Who owns what: the preload library's notes, csrc/preload/path_look.c."""
DMA_ENTRY_LIMIT: Final = "sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
PARENT: Final = "sys/devices/virtual/vfioemu/vfioemu"
"""The parent of all mediated devices, as the mtty sample's is sys/devices/virtual/mtty/mtty."""

_PCI: Final = re.compile(r"([0-9a-f]{4,8}:[0-9a-f]{2}):[0-9a-f]{2}\.[0-7]")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME: Final = re.compile(r"[A-Za-z0-9_:@+-][A-Za-z0-9_.:@+-]*")
_MISC_MAJOR: Final = 10
_VFIO_MINOR: Final = 196
_GROUP_MAJOR: Final = 511
"""The last of the numbers that alloc_chrdev_region() gives out."""
_IDS: Final = struct.Struct("<HH4xB3B32xHH")
_BARS: Final = 6
_RESOURCES: Final = 13
_IO: Final = 0x40101
_MEM: Final = 0x40200
_MEM64: Final = 0x140204
_PREFETCH: Final = 0x2000
_FIRST_BAR: Final = 0xC0000000


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory. In a merged one the machine's own entries stay visible beside the emulated ones."""

    merged: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """A regular file."""

    content: bytes
    mode: int = 0o444


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link, relative as all links of sysfs are."""

    target: str


@dataclass(frozen=True, slots=True)
class Node:
    """A character device that the daemon serves."""

    mode: int


Entry: TypeAlias = Directory | File | Link | Node
Entries: TypeAlias = Iterator[tuple[str, Entry]]
"""In the order in which they are made: directories first, and last what others find a device by."""

_MERGED: Final = Directory(merged=True)


def text(*lines: str, mode: int = 0o444) -> File:
    """A file of lines."""
    return File("".join(f"{line}\n" for line in lines).encode(), mode)


def bus_of(name: str) -> Bus:
    """The bus that a device's name belongs to."""
    if _PCI.fullmatch(name):
        return "pci"
    return "mdev" if _UUID.fullmatch(name) else "platform"


def sysfsdev(name: str) -> str:
    """The path by which programs are told of a device: what QEMU calls sysfsdev."""
    return f"/sys/bus/{bus_of(name)}/devices/{name}"


def can_show(name: str) -> bool:
    """Whether a device can be called so in sysfs."""
    return _NAME.fullmatch(name) is not None


# --- what does not depend on devices ---


def machine_entries(dma_entry_limit: int, *, shared: bool) -> Entries:
    """What is there without any device.

    Args:
        dma_entry_limit: the module parameter.
        shared: other users have access.
    """
    yield "", _MERGED
    yield OWNERS, Directory()
    for path in ("dev", "sys", "sys/bus", "sys/bus/pci", "sys/bus/pci/devices", "sys/bus/pci/drivers"):
        yield path, _MERGED
    for path in ("sys/bus/mdev", "sys/bus/mdev/devices", "sys/class", "sys/class/misc", "sys/class/iommu"):
        yield path, _MERGED
    for path in ("sys/class/mdev_bus", "sys/dev", "sys/dev/char", "sys/devices", "sys/devices/virtual"):
        yield path, _MERGED
    for path in ("sys/devices/virtual/misc", "sys/kernel", "sys/kernel/iommu_groups", "sys/module"):
        yield path, _MERGED
    for path in ("dev/vfio", "sys/bus/mdev/drivers", "sys/bus/mdev/drivers/vfio_mdev", "sys/class/vfio"):
        yield path, Directory()
    yield "sys/class/vfio-dev", Directory()
    yield "sys/bus/pci/drivers/vfio-pci", Directory()
    yield "sys/bus/pci/drivers/vfio-pci/module", Link("sys/module/vfio_pci")
    for module in ("mdev", "vfio", "vfio_iommu_type1", "vfio_pci"):
        yield f"sys/module/{module}", Directory()
        yield f"sys/module/{module}/refcnt", text("0")
    yield "sys/module/vfio/parameters", Directory()
    yield "sys/module/vfio/parameters/enable_unsafe_noiommu_mode", text("N")
    yield "sys/module/vfio_iommu_type1/parameters", Directory()
    yield "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", text("N")
    yield "sys/module/vfio_iommu_type1/parameters/disable_hugepages", text("N")
    yield DMA_ENTRY_LIMIT, text(str(dma_entry_limit), mode=0o666 if shared else 0o644)
    yield from _class_device("misc", "vfio", f"{_MISC_MAJOR}:{_VFIO_MINOR}", "vfio/vfio")
    yield PARENT.rpartition("/")[0], Directory()
    yield PARENT, Directory()
    yield f"{PARENT}/uevent", text(mode=0o644)
    yield f"{PARENT}/mdev_supported_types", Directory()
    yield "sys/class/mdev_bus/vfioemu", Link(PARENT)
    yield "dev/vfio/vfio", Node(0o666)


def type_entries(model: str, description: str) -> Entries:
    """A type that mediated devices can be made of."""
    path = _type_path(model)
    yield path, Directory()
    yield f"{path}/devices", Directory()
    yield f"{path}/name", text(model)
    yield f"{path}/description", text(description)
    yield f"{path}/device_api", text("vfio-pci")


def group_entries(group: GroupSpec, *, shared: bool) -> Entries:
    """An IOMMU group and its node."""
    path = f"sys/kernel/iommu_groups/{group.number}"
    reserved = () if group.iommu is None else group.iommu.reserved
    yield path, Directory()
    yield f"{path}/devices", Directory()
    yield f"{path}/reserved_regions", text(*(f"0x{start:016x} 0x{end:016x} msi" for start, end in reserved))
    yield from _class_device(
        "vfio", str(group.number), f"{_GROUP_MAJOR}:{group.number}", f"vfio/{group.number}"
    )
    yield f"dev/vfio/{group.number}", Node(0o666 if shared else 0o600)


def unit_entries(unit: int, iommu: IommuSpec) -> Entries:
    """A DMA remapping unit, in the form of an Intel IOMMU: its capabilities tell the width of an IOVA."""
    path = f"sys/devices/virtual/iommu/dmar{unit}"
    yield "sys/devices/virtual/iommu", _MERGED
    yield path, Directory()
    yield f"{path}/devices", Directory()
    yield f"{path}/intel-iommu", Directory()
    yield f"{path}/intel-iommu/address", text(f"{0xFED90000 + (unit << 12):x}")
    yield f"{path}/intel-iommu/version", text("1:0")
    yield f"{path}/intel-iommu/cap", text(f"{_capabilities(iommu):x}")
    yield f"{path}/intel-iommu/ecap", text(f"{int(iommu.coherent) << 7 | 1 << 3:x}")
    yield f"{path}/subsystem", Link("sys/class/iommu")
    yield f"sys/class/iommu/dmar{unit}", Link(path)


def _capabilities(iommu: IommuSpec) -> int:
    """The capability register: MGAW, SAGAW, SLLPS (Intel VT-d specification, 11.4.2)."""
    width = min(iommu.address_bits, 57)
    levels = 1 << (2 if width > 39 else 1)
    large = (iommu.pgsizes >> 21 & 1) | (iommu.pgsizes >> 30 & 1) << 1
    return (width - 1) << 16 | levels << 8 | large << 34


def _class_device(kind: str, name: str, number: str, node: str) -> Entries:
    path = f"sys/devices/virtual/{kind}/{name}"
    major, _, minor = number.partition(":")
    yield f"sys/devices/virtual/{kind}", Directory(merged=kind == "misc")
    yield path, Directory()
    yield f"{path}/dev", text(number)
    yield f"{path}/uevent", text(f"MAJOR={major}", f"MINOR={minor}", f"DEVNAME={node}")
    yield f"{path}/subsystem", Link(f"sys/class/{kind}")
    yield f"sys/dev/char/{number}", Link(path)
    yield f"sys/class/{kind}/{name}", Link(path)


# --- devices ---


def device_path(device: Device) -> str:
    """Where a device is below /sys/devices."""
    bus = bus_of(device.name)
    if bus == "pci":
        return f"{_bridge(device.name)}/{device.name}"
    return f"{PARENT}/{device.name}" if bus == "mdev" else f"sys/devices/platform/{device.name}"


def device_entries(device: Device, serial: int, config: bytes, unit: int | None) -> Entries:
    """A device.

    Args:
        device: which.
        serial: K of vfioK.
        config: its PCI config space; empty for what has none.
        unit: K of the dmarK that it is behind; None without an IOMMU.
    """
    bus = bus_of(device.name)
    path = device_path(device)
    group = f"sys/kernel/iommu_groups/{device.group.number}"
    if bus == "pci":
        yield _bridge(device.name), _MERGED
    elif bus == "platform":
        yield "sys/bus/platform", _MERGED
        yield "sys/bus/platform/devices", _MERGED
        yield "sys/devices/platform", _MERGED
    yield path, Directory()
    yield f"{path}/subsystem", Link(f"sys/bus/{bus}")
    yield f"{path}/iommu_group", Link(group)
    if bus == "pci":
        yield from _pci_entries(path, device, config)
    elif bus == "mdev":
        yield f"{path}/driver", Link("sys/bus/mdev/drivers/vfio_mdev")
        yield f"{path}/mdev_type", Link(_type_path(device.spec.model))
        yield f"{path}/uevent", text("DRIVER=vfio_mdev", "MODALIAS=mdev:vfio_mdev")
        yield f"{_type_path(device.spec.model)}/devices/{device.name}", Link(path)
        yield f"sys/bus/mdev/drivers/vfio_mdev/{device.name}", Link(path)
    yield f"{path}/vfio-dev", Directory()
    yield f"{path}/vfio-dev/vfio{serial}", Directory()
    yield f"{path}/vfio-dev/vfio{serial}/device", Link(path)
    yield f"{path}/vfio-dev/vfio{serial}/subsystem", Link("sys/class/vfio-dev")
    yield f"sys/class/vfio-dev/vfio{serial}", Link(f"{path}/vfio-dev/vfio{serial}")
    if unit is not None:
        yield f"{path}/iommu", Link(f"sys/devices/virtual/iommu/dmar{unit}")
        yield f"sys/devices/virtual/iommu/dmar{unit}/devices/{device.name}", Link(path)
    yield f"{group}/devices/{device.name}", Link(path)
    yield sysfsdev(device.name)[1:], Link(path)


def _type_path(model: str) -> str:
    return f"{PARENT}/mdev_supported_types/vfioemu-{model}"


def _bridge(name: str) -> str:
    match = _PCI.fullmatch(name)
    assert match is not None
    return f"sys/devices/pci{match[1]}"


def _pci_entries(path: str, device: Device, config: bytes) -> Entries:
    vendor, product, revision, *classes, sub_vendor, sub_product = _IDS.unpack_from(config.ljust(64, b"\0"))
    code = classes[2] << 16 | classes[1] << 8 | classes[0]
    modalias = (
        f"pci:v{vendor:08X}d{product:08X}sv{sub_vendor:08X}sd{sub_product:08X}"
        f"bc{classes[2]:02X}sc{classes[1]:02X}i{classes[0]:02X}"
    )
    yield f"{path}/driver", Link("sys/bus/pci/drivers/vfio-pci")
    yield f"{path}/driver_override", text("vfio-pci")
    yield f"{path}/vendor", text(f"0x{vendor:04x}")
    yield f"{path}/device", text(f"0x{product:04x}")
    yield f"{path}/subsystem_vendor", text(f"0x{sub_vendor:04x}")
    yield f"{path}/subsystem_device", text(f"0x{sub_product:04x}")
    yield f"{path}/class", text(f"0x{code:06x}")
    yield f"{path}/revision", text(f"0x{revision:02x}")
    yield f"{path}/irq", text("0")
    yield f"{path}/enable", text("1")
    yield f"{path}/numa_node", text("-1")
    yield f"{path}/modalias", text(modalias)
    yield f"{path}/resource", text(*_resources(device, config))
    yield (
        f"{path}/uevent",
        text(
            "DRIVER=vfio-pci",
            f"PCI_CLASS={code:X}",
            f"PCI_ID={vendor:04X}:{product:04X}",
            f"PCI_SUBSYS_ID={sub_vendor:04X}:{sub_product:04X}",
            f"PCI_SLOT_NAME={device.name}",
            f"MODALIAS={modalias}",
        ),
    )
    yield f"{path}/config", File(config, 0o644)
    yield f"sys/bus/pci/drivers/vfio-pci/{device.name}", Link(path)


def _resources(device: Device, config: bytes) -> Iterator[str]:
    """The BARs as the kernel's resource_show() tells them; addresses are made up, nobody can use them."""
    regions = device.model.regions()
    position = _FIRST_BAR
    for bar in range(_RESOURCES):
        region = regions[bar] if bar < min(_BARS, len(regions)) else None
        if region is None or not region.size:
            yield f"0x{0:016x} 0x{0:016x} 0x{0:016x}"
            continue
        kind = config[0x10 + 4 * bar] if len(config) >= 64 else 0
        flags = _IO if kind & 1 else (_MEM64 if kind & 4 else _MEM) | (_PREFETCH if kind & 8 else 0)
        step = 1 << (region.size - 1).bit_length()
        position = (position + step - 1) & -step
        yield f"0x{position:016x} 0x{position + region.size - 1:016x} 0x{flags:016x}"
        position += step
