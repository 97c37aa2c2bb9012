# SPDX-License-Identifier: MIT
"""`vfio-pci`: a PCI function bound to the vfio-pci driver, with nothing behind its BARs but memory.

What it is good for: a group behind an IOMMU with a device that does no DMA of its own and never pins, so that all of
its container's memory counts as dirty (type 2 of the three kinds of devices). Names, regions and interrupts are told as
vfio-pci tells them; the config space has the identity registers and ignores writes; INTx cannot be masked.
"""

import errno
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from vfioemu.core.errors import IoctlError
from vfioemu.core.irqs import Irq
from vfioemu.core.model import ABSENT, READ_WRITE, DeviceModel, Region
from vfioemu.uapi import constants as c

MAX_BAR: Final = 1 << 30
_EVENTFD: Final = c.VFIO_IRQ_INFO_EVENTFD
_NORESIZE: Final = _EVENTFD | c.VFIO_IRQ_INFO_NORESIZE


class VfioPci(DeviceModel):
    """The function; see the module."""

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "vendor": "vendor id (default 0x1234)",
        "device": "device id (default 0x11e8)",
        "bars": "sizes of up to six BARs, 0 for one that is not there (default one of 1 MiB)",
        "msi": "MSI vectors (default 1)",
        "msix": "MSI-X vectors (default 0)",
        "pcie": "whether it is a PCI Express function: 4 KiB of config space, the error interrupt (default false)",
        "reset": "whether the function can be reset (default false)",
    }

    info_flags = c.VFIO_DEVICE_FLAGS_PCI
    info_size = 24
    keeps_cap_offset = True
    can_reset = False
    moves_position = True

    def __init__(self, options: Mapping[str, object]) -> None:
        super().__init__(options)
        pcie = bool(options.get("pcie", False))
        self.can_reset = bool(options.get("reset", False))
        if self.can_reset:
            self.info_flags |= c.VFIO_DEVICE_FLAGS_RESET
        bars = _sizes(options.get("bars", [1 << 20]))
        self._memory: dict[int, bytearray] = {}
        config = _config(
            _number(options, "vendor", 0x1234, 0xFFFF), _number(options, "device", 0x11E8, 0xFFFF)
        )
        self._config = config.ljust(4096 if pcie else 256, b"\0")
        self._regions: tuple[Region | None, ...] = (
            *(Region(size, READ_WRITE) if size else ABSENT for size in bars),
            ABSENT,
            Region(len(self._config), READ_WRITE),
            None,
        )
        self._irqs = (
            Irq(1, _EVENTFD | c.VFIO_IRQ_INFO_MASKABLE | c.VFIO_IRQ_INFO_AUTOMASKED),
            Irq(_number(options, "msi", 1, 32), _NORESIZE),
            Irq(msix := _number(options, "msix", 0, 2048), _EVENTFD if msix else _NORESIZE),
            Irq(1, _NORESIZE) if pcie else None,
            Irq(1, _NORESIZE),
        )

    def matches(self, name: str) -> bool:
        """vfio_pci_core_match(): the address, then blanks and options; `vf_token=UUID` is for virtual functions.

        Raises:
            IoctlError: EINVAL for an option that is unknown, malformed, repeated, or not for this function.
        """
        address = self.host.name
        if not name.startswith(address):
            return False
        rest = name[len(address) :]
        if rest and rest[0] != " ":
            return False
        if rest.strip(" "):  # a token is refused as well: this is neither a virtual function nor has any
            raise IoctlError(errno.EINVAL, f"options {rest.strip(' ')!r}")
        return True

    def regions(self) -> Sequence[Region | None]:
        """BARs, no ROM, config space, no VGA."""
        return self._regions

    def irqs(self) -> Sequence[Irq | None]:
        """INTx, MSI, MSI-X, the error interrupt of PCI Express, the request interrupt."""
        return self._irqs

    def reset(self) -> None:
        """The BARs are zero again."""
        self._memory.clear()

    def read_region(self, index: int, offset: int, size: int) -> bytes:
        """Memory, or the config space."""
        if index == c.VFIO_PCI_CONFIG_REGION_INDEX:
            return self._config[offset : offset + size]
        memory = self._memory.get(index)
        return bytes(size) if memory is None else bytes(memory[offset : offset + size])

    def write_region(self, index: int, offset: int, data: bytes) -> None:
        """Memory; config space writes are ignored."""
        if index == c.VFIO_PCI_CONFIG_REGION_INDEX:
            return
        memory = self._memory.get(index)
        if memory is None:
            region = self._regions[index]
            memory = self._memory[index] = bytearray(region.size if region else 0)
        memory[offset : offset + len(data)] = data


def _config(vendor: int, device: int) -> bytes:
    """The identity registers of a type 0 header: class 0x00ff00 (unclassified), INTA."""
    header = bytearray(64)
    header[0:2] = vendor.to_bytes(2, "little")
    header[2:4] = device.to_bytes(2, "little")
    header[4:8] = bytes((0x03, 0x01, 0x10, 0x00))
    header[8:12] = bytes((0x10, 0x00, 0xFF, 0x00))
    header[0x3D] = 1
    return bytes(header)


def _sizes(value: object) -> list[int]:
    if not isinstance(value, list) or len(value) > 6:
        raise ValueError(f"bars: a list of up to six sizes, not {value!r}")
    for size in value:
        if not isinstance(size, int) or not (size == 0 or (16 <= size <= MAX_BAR and not size & (size - 1))):
            raise ValueError(f"bars: {size!r} is neither 0 nor a power of two from 16 to {MAX_BAR}")
    return [*value, *[0] * (6 - len(value))]


def _number(options: Mapping[str, object], name: str, default: int, most: int) -> int:
    value = options.get(name, default)
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{name}: a number from 0 to {most}, not {value!r}")
    return value
