# SPDX-License-Identifier: MIT
"""`vfio-pci`: a PCI function with nothing behind its BARs but memory.

Use it for a group behind an IOMMU with a device that does no DMA of its own and never pins, so that all of its container's
memory counts as dirty, and for a function of any shape, when programs that look at PCI functions are tried.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final

from msgspec import Meta

from vfioemu.core.base.effects import Breathe, Steps
from vfioemu.devices.options import OptionTable
from vfioemu.devices.pci.hardware.card import PciHardware
from vfioemu.devices.pci.hardware.description import Bar, Encodes, Express, Function, Msi, MsiX
from vfioemu.devices.pci.hardware.memory import FREED
from vfioemu.devices.pci.hardware.registers import BAR_COUNT
from vfioemu.devices.pci.vfio_pci.driver import VfioPci
from vfioemu.devices.pci.vfio_pci.options import PciOptions

MIN_BAR: Final = 16
MAX_BAR: Final = 1 << 30
_TABLE_BAR_SIZE: Final = 1 << 16
_LAST_BAR: Final = BAR_COUNT - 1


class PlainOptions(PciOptions, frozen=True):
    """The options of a plain function: what it shall look like."""

    vendor: Annotated[int, Meta(ge=0, le=0xFFFF, description="vendor id")] = 0x1234
    device: Annotated[int, Meta(ge=0, le=0xFFFF, description="device id")] = 0x11E8
    bars: Annotated[
        tuple[int, ...],
        Meta(
            max_length=BAR_COUNT,
            description=f"sizes of its BARs: powers of two from {MIN_BAR} to {MAX_BAR}, 0 for one that is not there",
        ),
    ] = (1 << 20,)
    msi: Annotated[int, Meta(ge=0, le=32, description="MSI vectors: a power of two, or 0")] = 1
    msix: Annotated[
        int,
        Meta(ge=0, le=2048, description="MSI-X vectors; their table is in the last BAR, which must be free"),
    ] = 0
    pcie: Annotated[
        bool,
        Meta(description="whether it is a PCI Express function: 4 KiB of config space, the error interrupt"),
    ] = False
    reset: Annotated[
        bool, Meta(description="whether the function can be reset; makes it a PCI Express function")
    ] = False

    def __post_init__(self) -> None:
        for size in self.bars:
            if size and not (MIN_BAR <= size <= MAX_BAR and not size & (size - 1)):
                raise ValueError(f"bars: 0 or a power of two from {MIN_BAR} to {MAX_BAR}, not {size}")
        if self.msi & (self.msi - 1):
            raise ValueError(f"msi: 0 or a power of two up to 32, not {self.msi}")
        if self.msix and self.bars[_LAST_BAR:] and self.bars[_LAST_BAR]:
            raise ValueError(f"msix: BAR {_LAST_BAR} is taken, and the MSI-X table belongs there")


class PlainCard(PciHardware):
    """The card."""

    def read_bar(self, bar: int, offset: int, size: int) -> bytes:
        """Read memory."""
        return self.bar_memory(bar).read(offset, size)

    def write_bar(self, bar: int, offset: int, data: bytes) -> None:
        """Write memory."""
        self.bar_memory(bar).write(offset, data)

    def reset_function(self) -> Steps[None]:
        """Make the BARs zero again, step by step: there may be GiBs in them."""
        for index in self.function.bars:
            memory = self.bar_memory(index)
            for offset in range(0, memory.size, FREED):
                memory.clear(offset, FREED)
                yield Breathe()


class PlainFunction(VfioPci):
    """A PCI function of any shape with nothing behind its BARs but memory."""

    OPTIONS: ClassVar[Mapping[str, str]] = OptionTable(PlainOptions)

    def __init__(self, options: Mapping[str, object]) -> None:
        super().__init__(options, PlainCard(_describe(PlainOptions.parse(options))))


def _describe(options: PlainOptions) -> Function:
    bars = {index: Bar(size, memory=True) for index, size in enumerate(options.bars) if size}
    capabilities: list[Encodes] = []
    if options.msi:
        capabilities.append(Msi(options.msi))
    if options.msix:
        bars[_LAST_BAR] = Bar(_TABLE_BAR_SIZE, registers=0)
        capabilities.append(
            MsiX(options.msix, table_bar=_LAST_BAR, pba_bar=_LAST_BAR, pba_offset=_TABLE_BAR_SIZE // 2)
        )
    if options.pcie or options.reset:
        capabilities.append(Express(flr=options.reset))
    return Function(
        vendor=options.vendor,
        device=options.device,
        class_code=0x00FF00,
        revision=0x10,
        interrupt_pin=1,
        bars=bars,
        capabilities=tuple(capabilities),
    )
