# SPDX-License-Identifier: MIT
"""The model's groups and devices: pins and DMA as a driver asks for them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.fuzzing.model.mapping import PAGE, READ, WRITE, Mapping, Refusal
from tests.fuzzing.model.oracle import STOP_SIZE, Log, Migration

if TYPE_CHECKING:
    from tests.fuzzing.model.container import Container

MAX_PIN: Final = 512
MAX_RW: Final = 64 << 10


@dataclass(eq=False, kw_only=True)
class Group:
    """A group of one device; `ranges` are the IOVAs that its IOMMU takes, None for an emulated one."""

    ranges: tuple[tuple[int, int], ...] | None
    container: "Container | None" = None
    tracks: bool = False
    opened: bool = False

    @property
    def backed(self) -> bool:
        """It is behind an IOMMU."""
        return self.ranges is not None


@dataclass(eq=False, kw_only=True)
class Device:
    """A device that pins, reads and writes on command."""

    group: Group
    has_dma_unmap: bool = True
    opened: int = 0
    pins: Counter[int] = field(default_factory=Counter)
    notes: list[tuple[int, int]] = field(default_factory=list)
    migration: Migration | None = None
    logs: bool = False
    log: Log | None = None

    @property
    def container(self) -> "Container":
        """Where its group is."""
        if self.group.container is None:
            raise AssertionError("an open device without a container")
        return self.group.container

    def open(self) -> None:
        """A new device fd: the first one needs a container with an IOMMU."""
        if not self.opened:
            if self.group.container is None or self.group.container.type is None:
                raise Refusal("EINVAL")
            self.notes.clear()
            if self.migration is not None:
                self.migration.stop_size = STOP_SIZE
                self.migration.reset()
        self.opened += 1

    def close(self) -> None:
        """A device fd less; with the last one the device lets go of everything."""
        self.opened -= 1
        if not self.opened:
            self._release(0, 1 << 64)
            self.reset()
            self.log = None

    def reset(self) -> None:
        """VFIO_DEVICE_RESET."""
        if self.migration is not None:
            self.migration.reset()

    def pin(self, iova: int, npages: int, prot: int) -> int:
        """Pin pages: vfio_pin_pages()."""
        if not npages or not self.has_dma_unmap:
            raise Refusal("EINVAL")
        if not 0 < npages <= MAX_PIN:
            raise Refusal("E2BIG")
        container = self.container
        if container.type == 1:
            raise Refusal("EACCES")
        if container.invalid:
            raise Refusal("EBUSY")
        new: list[tuple[Mapping, int]] = []
        try:
            for page in range(iova, iova + npages * PAGE, PAGE):
                mapping = container.find(page)
                if mapping is None:
                    raise Refusal("EINVAL")
                if prot & ~mapping.prot:
                    raise Refusal("EPERM")
                if not mapping.pins[page]:
                    if not mapping.space.alive:
                        raise Refusal("ENODEV")
                    vaddr = mapping.vaddr + page - mapping.iova
                    if mapping.space.accessible(vaddr, PAGE, write=bool(mapping.prot & WRITE)) < PAGE:
                        raise Refusal("EFAULT")
                    mapping.mark(page, 1)  # and stays marked should a later page fail
                mapping.pins[page] += 1
                new.append((mapping, page))
        except Refusal:
            for mapping, page in new:
                mapping.unpin(page)
            raise
        for _, page in new:
            self.pins[page] += 1
        self.group.tracks = True
        return npages

    def unpin(self, iova: int, npages: int) -> int:
        """Unpin those of the pages that the device holds; returns how many these were."""
        done = 0
        for page in range(iova, iova + npages * PAGE, PAGE):
            if self.pins[page] > 0:
                self.pins[page] -= 1
                self.container.unpin(page)
                done += 1
        self.pins += Counter()
        return done

    def write(self, iova: int, data: bytes, caller: object) -> None:
        """DMA write: vfio_dma_rw(), in the name of `caller`."""
        self._rw(iova, len(data), data, caller)

    def read(self, iova: int, size: int, caller: object) -> bytes:
        """DMA read: vfio_dma_rw(), in the name of `caller`."""
        return self._rw(iova, size, None, caller)

    def unmapped(self, iova: int, size: int) -> None:
        """The dma_unmap callback."""
        self.notes.append((iova, size))
        self._release(iova, size)

    def _release(self, iova: int, size: int) -> None:
        for page in [page for page in self.pins if iova <= page < iova + size]:
            for _ in range(self.pins.pop(page)):
                self.container.unpin(page)

    def _rw(self, iova: int, size: int, data: bytes | None, caller: object) -> bytes:
        if size > MAX_RW:
            raise Refusal("E2BIG")
        if size == 0:
            raise Refusal("EINVAL")
        if self.container.invalid:
            raise Refusal("EBUSY")
        result = b""
        while size:
            mapping = self.container.find(iova)
            if mapping is None:
                raise Refusal("EINVAL")
            if not mapping.prot & READ or (data is not None and not mapping.prot & WRITE):
                raise Refusal("EPERM")
            part = min(size, mapping.iova + mapping.size - iova)
            if not mapping.space.alive:
                raise Refusal("EPERM")
            if mapping.space is not caller:
                raise Refusal("EFAULT")
            if data is not None and self.container.clean:
                mapping.mark(iova, part)  # what may be written is dirty, even if the write fails half-way
            vaddr = mapping.vaddr + iova - mapping.iova
            reached = mapping.space.accessible(vaddr, part, write=data is not None)
            if data is None:
                result += mapping.space.expected(vaddr, reached)
            else:
                mapping.space.dma_write(vaddr, data[:reached])
                data = data[part:]
            if reached < part:
                raise Refusal("EFAULT")
            if data is not None:
                mapping.mark(iova, part)
            iova, size = iova + part, size - part
        return result
