# SPDX-License-Identifier: MIT
"""Which BARs can be mapped: vfio_pci_probe_mmaps().

A memory BAR of a page and more can. A smaller one can if it lies at the beginning of a page of the bus, and nothing else
lies in the rest of that page, which vfio-pci then reserves: what is mapped is the whole page.
"""

from collections.abc import Mapping

from vfioemu.core.base.limits import PAGE_SIZE
from vfioemu.devices.pci.hardware.config import rom_size
from vfioemu.devices.pci.hardware.description import Function
from vfioemu.devices.pci.hardware.registers import ROM_BAR


def mappable_bars(function: Function, addresses: Mapping[int, int]) -> frozenset[int]:
    """Find the indices of BARs that can be mapped; they lie on the bus at `addresses` (6: the ROM): vfio_pci_probe_mmaps()."""
    places = {index: (addresses[index], bar.size) for index, bar in function.bars.items() if bar.kind != "io"}
    if function.rom is not None:
        places[ROM_BAR] = addresses[ROM_BAR], rom_size(function)
    found = set()
    for index, bar in function.bars.items():
        if bar.kind == "io" or bar.areas == ():
            continue
        start, size = places[index]
        rest, end = start + size, start + PAGE_SIZE
        taken = any(
            at < end and rest < at + length for other, (at, length) in places.items() if other != index
        )
        if size >= PAGE_SIZE or (not start % PAGE_SIZE and not taken):
            found.add(index)
    return frozenset(found)
