# SPDX-License-Identifier: MIT
"""DMA of a device behind an IOMMU: what the hardware does with the page tables that MAP_DMA fills.

No function of type1 is called for it, so nothing that those look at matters here: whose call it is, whether a vaddr is valid,
what has become of the addresses, whether the mapper lives. There is a translation with IOMMU_READ and IOMMU_WRITE, to the pages
that were pinned (core/base/pages.py); all else is an IOMMU fault, EFAULT here. The other way is vfio_dma_rw(): external.py.

Marks: type1 does not see hardware write, and reports all of a mapping as dirty instead; the device's own log does. The
mapping's bitmap is marked all the same for a model that asks for it: too much may be reported, too little never.
"""

import errno
from typing import TYPE_CHECKING

from vfioemu.core.base.effects import Buffer, PagesRead, PagesWrite, Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.pages import Pages
from vfioemu.core.memory import batches
from vfioemu.core.memory.iova_map import PROT_READ, PROT_WRITE, Dma
from vfioemu.core.type1.state import Iommu
from vfioemu.native.dma import DmaBatch

if TYPE_CHECKING:
    from vfioemu.native.log import DirtyLog


def dma_read(iommu: Iommu, iova: int, size: int) -> Steps[bytes]:
    """Read for the device: EFAULT for what is not mapped, or without READ."""
    # Here and below: UNMAP_DMA takes this lock, and returns when no transfer to what it removes is under way any more.
    yield from iommu.hold()
    try:
        return (yield from _read(iommu, iova, size))
    finally:
        iommu.lock.release()


def dma_write(iommu: Iommu, iova: int, data: Buffer) -> Steps[None]:
    """Write for the device: EFAULT for what is not mapped, or without WRITE; the bytes before that are written."""
    yield from iommu.hold()
    try:
        yield from _write(iommu, iova, memoryview(data).cast("B"))
    finally:
        iommu.lock.release()


def dma_batch(iommu: Iommu, batch: DmaBatch, log: "DirtyLog | None") -> Steps[int]:
    """Do many transfers: by one C call where this process maps the memory, by effects for the rest.

    Writes are marked after the data is there. What becomes of each transfer is its status; one that fails stays SLOW.

    Returns:
        How many are done.
    """
    yield from iommu.hold()
    try:
        # 6.12 at 2^64: type1's lookups go astray, which neither hardware nor the index copies
        done = batches.leave_to_python(batch) if iommu.map.tangled else iommu.index.dma(batch, log)
        if done < len(batch):
            done += yield from batches.finish(
                batch,
                log,
                lambda iova, size: _read(iommu, iova, size),
                lambda iova, data, seen: _write(iommu, iova, data, seen),
            )
        return done
    finally:
        iommu.lock.release()


def _translate(iommu: Iommu, iova: int, size: int, right: int) -> tuple[Dma, Pages, int, int]:
    """Find the mapping, the pages pinned for it, the offset in those, and how many bytes of the transfer are there."""
    # By where mappings start, which is right in any tree; type1's own lookups have a mistake at 2^64.
    dma = iommu.map.starting_before(iova + 1)
    if dma is None or dma.pages is None or iova >= dma.iova + dma.size:
        raise IoctlError(errno.EFAULT, f"IOMMU fault: nothing is mapped at iova {iova:#x}")
    if not dma.prot & right:
        raise IoctlError(
            errno.EFAULT, f"IOMMU fault: {'write to' if right == PROT_WRITE else 'read of'} the {dma}"
        )
    offset = iova - dma.iova
    return dma, dma.pages, offset, min(size, dma.size - offset)


def _read(iommu: Iommu, iova: int, size: int) -> Steps[bytes]:
    parts = []
    while size:
        _, pages, offset, count = _translate(iommu, iova, size, PROT_READ)
        data: bytes = yield PagesRead(pages, offset, count)
        parts.append(data)
        iova, size = iova + count, size - count
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write(iommu: Iommu, iova: int, data: memoryview, seen: bool = True) -> Steps[None]:
    while data:
        dma, pages, offset, count = _translate(iommu, iova, len(data), PROT_WRITE)
        try:
            yield PagesWrite(pages, offset, data[:count])
        finally:
            if seen:  # also what has been written of a part that failed
                iommu.mark(dma, offset, count)
        iova, data = iova + count, data[count:]
