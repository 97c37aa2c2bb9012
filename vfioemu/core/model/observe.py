# SPDX-License-Identifier: MIT
"""Events of device models that are invisible in calls. They cost nothing unless an observer is installed."""

from collections.abc import Iterable
from typing import Final, Protocol

from vfioemu.native.dma import DmaBatch, Op, Status

_WRITES: Final = {
    Op.WRITE: "dma_rw",
    Op.HARDWARE_WRITE: "by hardware",
    Op.HIDDEN_WRITE: "by hardware, without a mark",
}
_IOMMU_WRITE: Final = 2


class Observer(Protocol):
    """An observer. It is told in the middle of a device's work, so it must be quick and must not fail."""

    def state(self, device: str, old: int, new: int) -> None:
        """Note that a device made an arc of its migration state, or was reset."""

    def dirtied(self, device: str, ranges: Iterable[tuple[int, int]], how: str) -> None:
        """Note that a device wrote to ranges (IOVA, size in bytes), or pinned them for writing."""

    def interrupt(self, device: str, index: int, vector: int, heard: bool) -> None:
        """Note that a device raised an interrupt; `heard`: there was an eventfd for it."""


def batch(observer: Observer, device: str, done: DmaBatch) -> None:
    """Tell of the writes of a batch that has been done."""
    for op, how in _WRITES.items():
        ranges = [(dma.iova, dma.size) for dma in done if dma.op == op and dma.status == Status.DONE]
        if ranges:
            observer.dirtied(device, ranges, how)


def pinned(observer: Observer, device: str, iova: int, npages: int, prot: int) -> None:
    """Tell of pins: whoever pins for writing may write, so the pages count as dirty."""
    if npages and prot & _IOMMU_WRITE:
        observer.dirtied(device, [(iova, npages * 4096)], "pinned")
