# SPDX-License-Identifier: MIT
"""`dma-engine`: a scriptable DMA device, of all three kinds that there are in the field.

=====  =====================================  ============================================================
type   its group                              how its writes become known to the container
=====  =====================================  ============================================================
1      emulated (an mdev)                     every write is marked (vfio_dma_rw), and so are pinned pages
2      behind an IOMMU, does not pin          not at all: everything that is mapped counts as dirty, always
3      behind an IOMMU, pins what it uses     by its pins; until the first one everything counts as dirty
=====  =====================================  ============================================================

Beside that it logs its DMA itself (DMA logging) and migrates with its state: registers, counters and generator move, and
the destination goes on with the write after the source's last one. The registers are in `vfioemu.abi.dma_engine`.
"""

from vfioemu.devices.dma_engine.driver import DmaEngine

__all__ = ["DmaEngine"]
