# SPDX-License-Identifier: MIT
"""Contents of /dev and /sys for a machine, as data: paths and entries (daemon/entries.py)."""

import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias

from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.device import Device
from vfioemu.core.objects.spec import GroupSpec
from vfioemu.daemon import function_files
from vfioemu.daemon.addresses import BarRange
from vfioemu.daemon.entries import Directory, Entries, Link, Node, text

Bus: TypeAlias = Literal["pci", "mdev", "platform"]

OWNERS: Final = "owner"
"""Directory with the preload library's notes about owners: csrc/preload/path_look.c."""
DMA_ENTRY_LIMIT: Final = "sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
PCI_BUS: Final = "sys/bus/pci"
DRIVERS: Final = f"{PCI_BUS}/drivers"
PARENT: Final = "sys/devices/virtual/vfioemu/vfioemu"
"""The parent of all mediated devices, as the mtty sample's is sys/devices/virtual/mtty/mtty."""

_PCI: Final = re.compile(r"([0-9a-f]{4,8}:[0-9a-f]{2}):[0-9a-f]{2}\.[0-7]")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME: Final = re.compile(r"[A-Za-z0-9_:@+-][A-Za-z0-9_.:@+-]*")
_MISC_MAJOR: Final = 10
_VFIO_MINOR: Final = 196
_GROUP_MAJOR: Final = 511
"""Last major number that alloc_chrdev_region() gives out."""


_MERGED: Final = Directory(merged=True)


def bus_of(name: str) -> Bus:
    """Return the bus that a device's name belongs to."""
    if _PCI.fullmatch(name):
        return "pci"
    return "mdev" if _UUID.fullmatch(name) else "platform"


def sysfsdev(name: str) -> str:
    """Return the path by which programs name a device; QEMU's `sysfsdev`."""
    return f"/sys/bus/{bus_of(name)}/devices/{name}"


def can_show(name: str) -> bool:
    """Return True if sysfs can have an entry of this name."""
    return _NAME.fullmatch(name) is not None


# --- what does not depend on devices ---


def machine_entries(dma_entry_limit: int, real_drivers: Iterable[str]) -> Entries:
    """Yield the entries that exist without any device.

    Args:
        dma_entry_limit: the module parameter.
        real_drivers: PCI drivers of the real machine; writes that bind emulated functions must not reach them.
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
    yield from _bus_entries(real_drivers)
    for module in ("mdev", "vfio", "vfio_iommu_type1", "vfio_pci"):
        yield f"sys/module/{module}", Directory()
        yield f"sys/module/{module}/refcnt", text("0")
        yield f"sys/module/{module}/initstate", text("live")  # keeps modprobe from loading the real module
    # No kernel has it. driverctl checks it before it calls modprobe, which finds no modules in a container.
    yield "sys/module/vfio-pci", Link("sys/module/vfio_pci")
    yield "sys/module/vfio_pci/drivers", Directory()
    yield "sys/module/vfio_pci/drivers/pci:vfio-pci", Link(f"{DRIVERS}/{function_files.DRIVER}")
    yield "sys/module/vfio/parameters", Directory()
    yield "sys/module/vfio/parameters/enable_unsafe_noiommu_mode", text("N")
    yield "sys/module/vfio_iommu_type1/parameters", Directory()
    yield "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", text("N")
    yield "sys/module/vfio_iommu_type1/parameters/disable_hugepages", text("N")
    yield DMA_ENTRY_LIMIT, text(str(dma_entry_limit), mode=0o644, live=True)
    yield from _class_device("misc", "vfio", f"{_MISC_MAJOR}:{_VFIO_MINOR}", "vfio/vfio")
    yield PARENT.rpartition("/")[0], Directory()
    yield PARENT, Directory()
    yield f"{PARENT}/uevent", text(mode=0o644, live=True)
    yield f"{PARENT}/subsystem", Link("sys/class/vfioemu")
    yield "sys/class/vfioemu", Directory()
    yield "sys/class/vfioemu/vfioemu", Link(PARENT)
    yield f"{PARENT}/mdev_supported_types", Directory()
    yield "sys/class/mdev_bus/vfioemu", Link(PARENT)
    yield "dev/vfio/vfio", Node(0o666)


def _bus_entries(real_drivers: Iterable[str]) -> Entries:
    """Yield the files that bind functions: all of vfio-pci's, and those of real drivers that take a function's address."""
    for name in ("drivers_probe", "rescan"):
        yield f"{PCI_BUS}/{name}", text(mode=0o200, live=True)
    yield f"{DRIVERS}/{function_files.DRIVER}", Directory()
    yield f"{DRIVERS}/{function_files.DRIVER}/module", Link("sys/module/vfio_pci")
    for name in ("bind", "unbind", "new_id", "remove_id"):
        yield f"{DRIVERS}/{function_files.DRIVER}/{name}", text(mode=0o200, live=True)
    for driver in sorted(set(real_drivers) - {function_files.DRIVER}):
        yield f"{DRIVERS}/{driver}", _MERGED
        for name in ("bind", "unbind"):
            yield f"{DRIVERS}/{driver}/{name}", text(mode=0o200, live=True)


def available(count: int) -> str:
    """Format available_instances."""
    return f"{count}\n"


def type_entries(model: str, description: str, count: int) -> Entries:
    """Yield the entries of a type of mediated devices; `count` more can be made."""
    path = type_path(model)
    yield path, Directory()
    yield f"{path}/devices", Directory()
    yield f"{path}/name", text(model)
    yield f"{path}/description", text(description)
    yield f"{path}/device_api", text("vfio-pci")
    yield f"{path}/available_instances", text(str(count))
    yield f"{path}/create", text(mode=0o200, live=True)


def group_entries(group: GroupSpec) -> Entries:
    """Yield the entries of an IOMMU group."""
    path = f"sys/kernel/iommu_groups/{group.number}"
    reserved = () if group.iommu is None else group.iommu.reserved
    yield path, Directory()
    yield f"{path}/devices", Directory()
    yield f"{path}/reserved_regions", text(*(f"0x{start:016x} 0x{end:016x} msi" for start, end in reserved))
    yield f"{path}/type", text("unknown" if group.iommu is None else "DMA", mode=0o644, live=True)
    if group.iommu is None:
        yield (
            f"{path}/name",
            text("vfio-noiommu"),
        )  # vfio_noiommu_group_alloc() names it, also for mediated devices


def node_entries(group: GroupSpec, *, shared: bool) -> Entries:
    """Yield a group's node, which exists while vfio has a device of the group."""
    yield from _class_device(
        "vfio", str(group.number), f"{_GROUP_MAJOR}:{group.number}", f"vfio/{group.number}"
    )
    yield f"dev/vfio/{group.number}", Node(0o666 if shared else 0o600)


def unit_entries(unit: int, iommu: IommuSpec) -> Entries:
    """Yield a DMA remapping unit, as an Intel IOMMU; its capability register shows the width of an IOVA."""
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
    """Build the capability register: MGAW, SAGAW, SLLPS (Intel VT-d specification, 11.4.2)."""
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
    yield f"{path}/uevent", text(f"MAJOR={major}", f"MINOR={minor}", f"DEVNAME={node}", mode=0o644, live=True)
    yield f"{path}/subsystem", Link(f"sys/class/{kind}")
    yield f"sys/dev/char/{number}", Link(path)
    yield f"sys/class/{kind}/{name}", Link(path)


# --- devices ---


def device_path(device: Device) -> str:
    """Return the directory of a device below /sys/devices."""
    bus = bus_of(device.name)
    if bus == "pci":
        return f"{_bridge(device.name)}/{device.name}"
    return f"{PARENT}/{device.name}" if bus == "mdev" else f"sys/devices/platform/{device.name}"


def device_entries(
    device: Device, config: bytes, placed: Mapping[int, BarRange], unit: int | None, *, bound: bool
) -> Entries:
    """Yield the entries of a device, without those that its driver makes.

    Args:
        device: the device.
        config: its PCI config space, as in hardware; empty if it has none.
        placed: the ranges of its BARs, by index.
        unit: K of the dmarK that translates its DMA; None without an IOMMU.
        bound: a vfio driver is bound to it.
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
        yield from function_files.entries(path, device, config, placed, bound=bound)
    elif bus == "mdev":
        yield f"{path}/mdev_type", Link(type_path(device.spec.model))
        yield f"{path}/uevent", text("DRIVER=vfio_mdev", "MODALIAS=mdev:vfio_mdev", mode=0o644, live=True)
        yield f"{path}/remove", text(mode=0o200, live=True)
        yield f"{type_path(device.spec.model)}/devices/{device.name}", Link(path)
    if unit is not None:
        yield f"{path}/iommu", Link(f"sys/devices/virtual/iommu/dmar{unit}")
        yield f"sys/devices/virtual/iommu/dmar{unit}/devices/{device.name}", Link(path)
    yield f"{group}/devices/{device.name}", Link(path)
    yield sysfsdev(device.name)[1:], Link(path)


def driver_entries(device: Device, serial: int) -> Entries:
    """Yield the entries that a vfio driver makes for a device; `serial` is K of vfioK."""
    path = device_path(device)
    yield f"{path}/vfio-dev", Directory()
    yield f"{path}/vfio-dev/vfio{serial}", Directory()
    yield f"{path}/vfio-dev/vfio{serial}/device", Link(path)
    yield f"{path}/vfio-dev/vfio{serial}/subsystem", Link("sys/class/vfio-dev")
    yield f"sys/class/vfio-dev/vfio{serial}", Link(f"{path}/vfio-dev/vfio{serial}")
    driver = {"pci": f"{DRIVERS}/{function_files.DRIVER}", "mdev": "sys/bus/mdev/drivers/vfio_mdev"}.get(
        bus_of(device.name)
    )
    if driver is not None:
        yield f"{path}/driver", Link(driver)
        yield f"{driver}/{device.name}", Link(path)


def type_path(model: str) -> str:
    """Return the directory of a type below /sys/devices."""
    return f"{PARENT}/mdev_supported_types/vfioemu-{model}"


def _bridge(name: str) -> str:
    match = _PCI.fullmatch(name)
    assert match is not None
    return f"sys/devices/pci{match[1]}"
