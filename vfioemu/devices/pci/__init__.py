# SPDX-License-Identifier: MIT
"""PCI functions bound to vfio-pci: `PciHardware` is a card, `VfioPci` is the driver that holds it and is the model.

A card says what it consists of and reacts to its BARs:

    class BellCard(PciHardware):
        def __init__(self):
            super().__init__(Function(
                vendor=0x1234, device=1, class_code=0xFF0000, interrupt_pin=1,
                bars={0: Bar(0x1000)}, capabilities=(PowerManagement(), Msi(1))))

        def write_bar(self, bar, offset, data):
            yield from self.interrupt()

    class Bell(VfioPci):
        def __init__(self, options):
            super().__init__(options, BellCard())

Callbacks of a card, each a function or a generator of effects: `read_bar`, `write_bar`, `map_bar`, `bar_image`,
`reset_function`, `function_opened`, `function_closed`, `work`. What it uses: `interrupt`, `set_intx`, `bus_master`,
`memory_enabled`, `dma_read`, `dma_write`, `bar_memory`, `host`. All that DeviceModel has to do with vfio-pci is done by the driver;
migration and DMA logging are added by a class derived from it, with `save_pci` and `load_pci`, as variant drivers of Linux do.

The rooms import downwards: cards, vfio_pci, hardware.
"""

from vfioemu.devices.pci.hardware.card import PciHardware
from vfioemu.devices.pci.hardware.description import (
    Bar,
    Capability,
    Express,
    ExtendedCapability,
    Function,
    Msi,
    MsiX,
    PowerManagement,
)
from vfioemu.devices.pci.hardware.memory import SharedBar
from vfioemu.devices.pci.vfio_pci.driver import VfioPci

__all__ = [
    "Bar",
    "Capability",
    "Express",
    "ExtendedCapability",
    "Function",
    "Msi",
    "MsiX",
    "PciHardware",
    "PowerManagement",
    "SharedBar",
    "VfioPci",
]
