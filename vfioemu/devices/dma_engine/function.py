# SPDX-License-Identifier: MIT
"""A dma-engine as a PCI function."""

from vfioemu.abi import dma_engine as u
from vfioemu.core.base.limits import PAGE_SIZE
from vfioemu.devices.dma_engine.memory import BIG_BAR
from vfioemu.devices.pci import Bar, Function, Msi, MsiX, PowerManagement


def describe(big_bar: int) -> Function:
    """Describe the function; `big_bar` is the size of BAR 4 in bytes, or 0."""
    bars = {
        0: Bar(u.BAR_SIZE, areas=((u.RING_OFFSET, u.BAR_SIZE - u.RING_OFFSET),)),
        2: Bar(
            PAGE_SIZE, areas=()
        ),  # QEMU without KVM asks for the dirty bitmap of mapped BARs in pieces around a table
    }
    if big_bar:
        bars[BIG_BAR] = Bar(big_bar, kind="mem64", prefetchable=True, memory=True)
    return Function(
        vendor=u.VENDOR_ID,
        device=u.DEVICE_ID,
        revision=1,
        class_code=0x088000,
        subsystem=(u.VENDOR_ID, 1),
        interrupt_pin=1,
        bars=bars,
        capabilities=(
            PowerManagement(),
            Msi(u.MSI_VECTORS, is_64bit=True),
            MsiX(u.MSIX_VECTORS, table_bar=2, table_offset=0, pba_bar=2, pba_offset=0x800),
        ),
    )
