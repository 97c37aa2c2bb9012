# SPDX-License-Identifier: MIT
"""What hardware holds of an in-memory process: its allocations themselves, wherever they are mapped by now."""

from vfioemu.core.base.effects import Buffer
from vfioemu.core.base.pages import Pages
from vfioemu.testing.memory import Memory


class MemoryPages(Pages):
    """Pinned pages.

    Args:
        memory: the process's.
        vaddr: where they are at this moment.
        size: bytes.
    """

    def __init__(self, memory: Memory, vaddr: int, size: int) -> None:
        self._parts = memory.parts(vaddr, size)

    def host(self) -> int | None:
        """Return the address of a shared allocation in this process."""
        if len(self._parts) != 1:
            return None
        region, start, _ = self._parts[0]
        return None if region.window is None else region.window + start

    def readdress(self, space: object, vaddr: int) -> None:
        """Nothing is ever lost here."""

    def release(self) -> None:
        """Drop the allocations; each goes when nobody has it any more."""

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from `offset` on."""
        return b"".join(bytes(part) for part in self._views(offset, size))

    def write(self, offset: int, data: Buffer) -> None:
        """Change bytes from `offset` on."""
        source = memoryview(data).cast("B")
        for part in self._views(offset, len(source)):
            part[:] = source[: len(part)]
            source = source[len(part) :]

    def _views(self, offset: int, size: int) -> list[memoryview]:
        views = []
        for region, start, count in self._parts:
            if offset < count and size:
                part = min(size, count - offset)
                views.append(memoryview(region.data)[start + offset : start + offset + part])
                size -= part
                offset = 0
            else:
                offset -= count if size else 0
        return views
