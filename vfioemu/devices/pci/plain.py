# SPDX-License-Identifier: MIT
"""`vfio-pci`: a PCI function with nothing behind its BARs but memory.

What it is good for: a group behind an IOMMU with a device that does no DMA of its own and never pins, so that all of its
container's memory counts as dirty; and a function of any shape for programs that look at PCI functions.
"""

from collections.abc import Mapping
from typing import ClassVar, Final

from vfioemu.core.base.effects import Breathe, Steps
from vfioemu.devices.pci.description import Bar, Encodes, Express, Function, Msi, MsiX
from vfioemu.devices.pci.function import PciFunction
from vfioemu.devices.pci.memory import FREED

MAX_BAR: Final = 1 << 30
_TABLE_BAR_SIZE: Final = 1 << 16


class PlainFunction(PciFunction):
    """A PCI function of any shape with nothing behind its BARs but memory."""

    OPTIONS: ClassVar[Mapping[str, str]] = {
        **PciFunction.OPTIONS,
        "vendor": "vendor id (default 0x1234)",
        "device": "device id (default 0x11e8)",
        "bars": "sizes of up to six BARs, 0 for one that is not there (default one of 1 MiB)",
        "msi": "MSI vectors: 0, 1, 2, 4, 8, 16 or 32 (default 1)",
        "msix": "MSI-X vectors (default 0); their table is in the last BAR, which must be free",
        "pcie": "whether it is a PCI Express function: 4 KiB of config space, the error interrupt (default false)",
        "reset": "whether the function can be reset (default false); makes it a PCI Express function",
    }

    def __init__(self, options: Mapping[str, object]) -> None:
        super().__init__(options, _describe(options))

    def read_bar(self, bar: int, offset: int, size: int) -> bytes:
        """Memory."""
        return self.bar_memory(bar).read(offset, size)

    def write_bar(self, bar: int, offset: int, data: bytes) -> None:
        """Memory."""
        self.bar_memory(bar).write(offset, data)

    def reset_function(self) -> Steps[None]:
        """Make the BARs zero again, step by step: there may be GiBs in them."""
        for index in self.function.bars:
            memory = self.bar_memory(index)
            for offset in range(0, memory.size, FREED):
                memory.clear(offset, FREED)
                yield Breathe()


def _describe(options: Mapping[str, object]) -> Function:
    sizes = _sizes(options.get("bars", [1 << 20]))
    bars = {index: Bar(size, memory=True) for index, size in enumerate(sizes) if size}
    capabilities: list[Encodes] = []
    if vectors := _number(options, "msi", 1, 32):
        if vectors & (vectors - 1):
            raise ValueError(f"msi: a power of two, not {vectors}")
        capabilities.append(Msi(vectors))
    if vectors := _number(options, "msix", 0, 2048):
        if 5 in bars:
            raise ValueError("msix: BAR 5 is taken, and the MSI-X table belongs there")
        bars[5] = Bar(_TABLE_BAR_SIZE, registers=0)
        capabilities.append(MsiX(vectors, table_bar=5, pba_bar=5, pba_offset=_TABLE_BAR_SIZE // 2))
    reset = _flag(options, "reset")
    if _flag(options, "pcie") or reset:
        capabilities.append(Express(flr=reset))
    return Function(
        vendor=_number(options, "vendor", 0x1234, 0xFFFF),
        device=_number(options, "device", 0x11E8, 0xFFFF),
        class_code=0x00FF00,
        revision=0x10,
        interrupt_pin=1,
        bars=bars,
        capabilities=tuple(capabilities),
    )


def _sizes(value: object) -> list[int]:
    if not isinstance(value, list) or len(value) > 6:
        raise ValueError(f"bars: a list of up to six sizes, not {value!r}")
    for size in value:
        if not isinstance(size, int) or not (size == 0 or (16 <= size <= MAX_BAR and not size & (size - 1))):
            raise ValueError(f"bars: {size!r} is neither 0 nor a power of two from 16 to {MAX_BAR}")
    return value


def _number(options: Mapping[str, object], name: str, default: int, most: int) -> int:
    value = options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{name}: a number from 0 to {most}, not {value!r}")
    return value


def _flag(options: Mapping[str, object], name: str) -> bool:
    value = options.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"{name}: true or false, not {value!r}")
    return value
