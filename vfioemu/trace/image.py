# SPDX-License-Identifier: MIT
"""Keep the parts of a caller's memory that a call touched."""

import bisect

Bytes = bytes | bytearray | memoryview


class Image:
    """Sparse memory; a later put() overwrites an earlier one.

    Attributes:
        budget: bytes that may still be put; more are left out, and `cut` is set.
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
        """Store a copy of the data at `address`."""
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
        # Merge it with the parts that overlap or touch it.
        start = min(starts[first], address)
        merged = bytearray(max(starts[last - 1] + len(self._parts[last - 1]), end) - start)
        for n in range(first, last):
            merged[starts[n] - start : starts[n] - start + len(self._parts[n])] = self._parts[n]
        merged[address - start : end - start] = data
        starts[first:last] = [start]
        self._parts[first:last] = [merged]

    def prefix(self, address: int, size: int) -> memoryview:
        """Return the bytes at `address` up to the first unknown one, `size` at most."""
        n = bisect.bisect_right(self._starts, address) - 1
        if n < 0:
            return memoryview(b"")
        offset = address - self._starts[n]
        return memoryview(self._parts[n])[offset : offset + max(size, 0)]

    def get(self, address: int, size: int) -> bytes | None:
        """Return `size` bytes at `address`; None if some are unknown."""
        found = self.prefix(address, size)
        return bytes(found) if len(found) == size else None

    def filled(self, address: int, size: int) -> bytes:
        """Return `size` bytes at `address`, with zeros for unknown ones."""
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
        """Return True if any of these bytes is known."""
        n = bisect.bisect_right(self._starts, address) - 1
        if n >= 0 and address < self._starts[n] + len(self._parts[n]):
            return size > 0
        return n + 1 < len(self._starts) and self._starts[n + 1] < address + size

    def overlaid(self, other: "Image") -> "Image":
        """Return a new image: this one, overwritten with what `other` knows."""
        made = Image(1 << 62)
        for start, part in (*self.parts(), *other.parts()):
            made.put(start, part)
        return made

    def parts(self) -> list[tuple[int, bytearray]]:
        """Return (address, bytes) of all known parts, ascending; no two of them touch."""
        return list(zip(self._starts, self._parts, strict=True))
