# SPDX-License-Identifier: MIT
"""Whose memory a container's mappings are: what vfio_dma_rw() asks before it goes to an address."""

from vfioemu.core.base.caller import AddressSpace


class Owners:
    """The address spaces that mappings name, with how many each has."""

    __slots__ = ("_counts", "_seen")

    def __init__(self) -> None:
        self._counts: dict[AddressSpace, int] = {}
        self._seen: dict[AddressSpace, int] = {}

    def add(self, space: AddressSpace) -> None:
        """Count a new mapping of the owner's memory; what the owner changed before does not matter to it."""
        count = self._counts.get(space, 0)
        if not count:
            self._seen[space] = space.changes
        self._counts[space] = count + 1

    def drop(self, space: AddressSpace) -> None:
        """Discount a removed mapping of the owner's memory."""
        if self._counts[space] > 1:
            self._counts[space] -= 1
        else:
            del self._counts[space], self._seen[space]

    def are(self, current: AddressSpace | None) -> bool:
        """Tell whether all of it may be accessed by `current` (None: a kernel thread), and its owner lives."""
        return not any(
            space.gone() or (current is not None and space is not current) for space in self._counts
        )

    def changed(self) -> bool:
        """Tell whether a window that a mapping was made with may have been taken back since `note`."""
        return any(space.changes != seen for space, seen in self._seen.items())

    def note(self) -> None:
        """All mappings have been looked at: none has an old window."""
        for space in self._seen:
            self._seen[space] = space.changes
