# SPDX-License-Identifier: MIT
"""The parts of a caller's memory that a call has touched."""

import bisect

Bytes = bytes | bytearray | memoryview


class Image:
    """Sparse memory: what was put last counts.

    Attributes:
        budget: how many bytes may still be put; what is beyond is left out, and `cut` says so.
        cut: something was left out.
    """

    __slots__ = ("_parts", "_starts", "budget", "cut")

    def __init__(self, budget: int = 64 << 20) -> None:
        self._starts: list[int] = []
        self._parts: list[bytearray] = []
        self.budget = budget
        self.cut = False

    def __bool__(self) -> bool:
        return bool(self._parts)

    def put(self, address: int, data: Bytes) -> None:
        """These bytes are at `address`; the data is copied."""
        size = memoryview(data).nbytes
        if size > self.budget:
            self.cut = True
            data, size = memoryview(data).cast("B")[: self.budget], self.budget
        if not size:
            return
        self.budget -= size
        starts = self._starts
        if starts and address == starts[-1] + len(self._parts[-1]):
            self._parts[-1] += memoryview(data).cast("B")
            return
        end = address + size
        first = bisect.bisect_right(starts, address) - 1
        if first < 0 or starts[first] + len(self._parts[first]) < address:
            first += 1
        last = bisect.bisect_right(starts, end)
        if first == last:
            starts.insert(first, address)
            self._parts.insert(first, bytearray(data))
            return
        # One part or several overlap with it, or touch it: they become one.
        start = min(starts[first], address)
        merged = bytearray(max(starts[last - 1] + len(self._parts[last - 1]), end) - start)
        for n in range(first, last):
            merged[starts[n] - start : starts[n] - start + len(self._parts[n])] = self._parts[n]
        merged[address - start : end - start] = data
        starts[first:last] = [start]
        self._parts[first:last] = [merged]

    def prefix(self, address: int, size: int) -> memoryview:
        """As many of `size` bytes at `address` as are known without a gap."""
        n = bisect.bisect_right(self._starts, address) - 1
        if n < 0:
            return memoryview(b"")
        offset = address - self._starts[n]
        return memoryview(self._parts[n])[offset : offset + max(size, 0)]

    def get(self, address: int, size: int) -> bytes | None:
        """`size` bytes at `address`, or None if they are not all known."""
        found = self.prefix(address, size)
        return bytes(found) if len(found) == size else None

    def filled(self, address: int, size: int) -> bytes:
        """`size` bytes at `address`, zeros where nothing is known."""
        found = self.prefix(address, size)
        if len(found) == size:
            return bytes(found)
        whole = bytearray(size)
        for n in range(max(bisect.bisect_right(self._starts, address) - 1, 0), len(self._starts)):
            offset = self._starts[n] - address
            if offset >= size:
                break
            part = memoryview(self._parts[n])[max(-offset, 0) : size - offset]
            whole[max(offset, 0) : max(offset, 0) + len(part)] = part
        return bytes(whole)

    def touches(self, address: int, size: int) -> bool:
        """Whether any of these bytes is known."""
        n = bisect.bisect_right(self._starts, address) - 1
        if n >= 0 and address < self._starts[n] + len(self._parts[n]):
            return size > 0
        return n + 1 < len(self._starts) and self._starts[n + 1] < address + size

    def overlaid(self, other: "Image") -> "Image":
        """A new image: this one, and what `other` knows on top."""
        made = Image(1 << 62)
        for start, part in (*self.parts(), *other.parts()):
            made.put(start, part)
        return made

    def parts(self) -> list[tuple[int, bytearray]]:
        """(address, bytes) of all that is known, ascending; no two parts touch."""
        return list(zip(self._starts, self._parts, strict=True))
