# SPDX-License-Identifier: MIT
"""Quotas, of one holder and of all together: whatever a client can make grow has a limit.

The kernel lets a process have as much as it has memory, and ends the process when there is none. Here the memory is the
daemon's, and everybody's.
"""

import errno

from vfioemu.core.base.errors import IoctlError


class Quota:
    """The share that one holder has of one thing.

    Args:
        what: in plain words, with its unit.
        limit: how much of it, at most; None for any amount.
        whole: whose part it is: it counts there, too.
        whose: for messages.
    """

    __slots__ = ("_limit", "_what", "_whole", "_whose", "used")

    def __init__(
        self,
        what: str,
        limit: int | None = None,
        whole: "Quota | None" = None,
        *,
        whose: str = "all clients together",
    ) -> None:
        self._what = what
        self._limit = limit
        self._whole = whole
        self._whose = whose
        self.used = 0

    def take(self, amount: int) -> None:
        """Have so much more.

        Raises:
            IoctlError: ENOMEM, with the limit; nothing is taken then.
        """
        if self._limit is not None and self.used + amount > self._limit:
            raise IoctlError(
                errno.ENOMEM,
                f"{self._what}: {amount} more, {self._whose} may have {self._limit} and have {self.used}",
            )
        if self._whole is not None:
            self._whole.take(amount)
        self.used += amount

    def give(self, amount: int) -> None:
        """Have so much less."""
        self.used -= amount
        if self._whole is not None:
            self._whole.give(amount)


UNBOUNDED = Quota("anything")
"""Counts, and refuses nothing."""


class Quotas:
    """The memory of the daemon that a client's containers take.

    Attributes:
        mappings: how many there are.
        pins: areas of 16 MiB in which pages are pinned: some hundred bytes each.
        bitmaps: bytes of dirty bitmaps, as if each were full.
    """

    __slots__ = ("bitmaps", "mappings", "pins")

    def __init__(self, *, mappings: Quota, pins: Quota, bitmaps: Quota) -> None:
        self.mappings = mappings
        self.pins = pins
        self.bitmaps = bitmaps

    @classmethod
    def of(
        cls,
        *,
        mappings: int | None = None,
        pins: int | None = None,
        bitmaps: int | None = None,
        whole: "Quotas | None" = None,
        whose: str = "all clients together",
    ) -> "Quotas":
        """Limits of somebody, who is part of `whole`."""
        return cls(
            mappings=Quota("mappings", mappings, whole.mappings if whole is not None else None, whose=whose),
            pins=Quota(
                "areas of 16 MiB with pinned pages",
                pins,
                whole.pins if whole is not None else None,
                whose=whose,
            ),
            bitmaps=Quota(
                "bytes of dirty bitmaps", bitmaps, whole.bitmaps if whole is not None else None, whose=whose
            ),
        )
