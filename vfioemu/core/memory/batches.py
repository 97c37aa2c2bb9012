# SPDX-License-Identifier: MIT
"""Batches of DMA: what C leaves to Python, whichever backend it is made through, by a driver or by hardware."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import U64_MAX
from vfioemu.native.dma import DmaBatch, Op, Status

if TYPE_CHECKING:
    from vfioemu.native.log import DirtyLog

LOGGED: Final = frozenset({Op.WRITE, Op.HARDWARE_WRITE})
"""Writes that the device's own log sees."""


def leave_to_python(batch: DmaBatch) -> int:
    """Do nothing of a batch in C; returns how many are done."""
    for number in range(len(batch)):
        batch.set_status(number, Status.SLOW)
    return 0


def finish(
    batch: DmaBatch,
    log: "DirtyLog | None",
    read: Callable[[int, int], Steps[bytes]],
    write: Callable[[int, memoryview, bool], Steps[None]],
) -> Steps[int]:
    """Do what is pending, and mark the device's own log after it; returns how many are done.

    Args:
        batch: the transfers; one that fails stays SLOW.
        log: the device's own dirty log.
        read: reads (iova, size).
        write: writes (iova, data), and says so to the mapping's bitmap if the third is true.
    """
    local = memoryview(batch.local).cast("B")
    done = 0
    for number in batch.pending():
        transfer = batch[number]
        iova, size, at = transfer.iova, transfer.size, transfer.local
        if transfer.status == Status.BAD or at + size > len(local):
            batch.set_status(number, Status.BAD)
            continue
        try:
            if transfer.op == Op.READ:
                local[at : at + size] = yield from read(iova, size)
            else:
                yield from write(iova, local[at : at + size], transfer.op == Op.WRITE)
        except IoctlError:
            continue
        finally:
            if log is not None and transfer.op in LOGGED and 0 < size <= U64_MAX + 1 - iova:
                log.mark(iova, size)  # whatever has been written of a failed one is marked, too
        batch.set_status(number, Status.DONE)
        done += 1
    return done
