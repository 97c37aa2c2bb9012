# SPDX-License-Identifier: MIT
"""PCI functions bound to vfio-pci. `PciFunction` is the layer; the models of this package sit on it.

A model says what it consists of and reacts to its BARs:

    class Bell(PciFunction):
        def __init__(self, options):
            super().__init__(options, Function(
                vendor=0x1234, device=1, class_code=0xFF0000, interrupt_pin=1,
                bars={0: Bar(0x1000)}, capabilities=(PowerManagement(), Msi(1))))

        def write_bar(self, bar, offset, data):
            yield from self.interrupt()

Callbacks, each a function or a generator of effects: `read_bar`, `write_bar`, `map_bar`, `bar_image`, `reset_function`,
`function_opened`, `function_closed`. What a model uses: `interrupt`, `set_intx`, `bus_master`, `memory_enabled`,
`io_enabled`, `dma_read`, `dma_write`, `bar_memory`, `raise_error`, `save_pci`, `load_pci`. All the rest of DeviceModel
(regions, interrupts, resets, config space) is done by the layer; migration and DMA logging are the model's, as ever.
"""

from vfioemu.devices.pci.description import (
    Bar,
    Capability,
    Express,
    ExtendedCapability,
    Function,
    Msi,
    MsiX,
    PowerManagement,
)
from vfioemu.devices.pci.function import PciFunction
from vfioemu.devices.pci.memory import SharedBar

__all__ = [
    "Bar",
    "Capability",
    "Express",
    "ExtendedCapability",
    "Function",
    "Msi",
    "MsiX",
    "PciFunction",
    "PowerManagement",
    "SharedBar",
]
