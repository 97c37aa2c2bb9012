# SPDX-License-Identifier: MIT
"""What a migration wants of whoever keeps a ledger of its devices' writes; ledger.py says what for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class LedgerError(Exception):
    """The daemon keeps no ledger, or keeps it no longer; the text says why."""


@dataclass(frozen=True, slots=True)
class TakenPages:
    """Pages that a device wrote.

    Attributes:
        device: who.
        block: the number of the RAM block.
        first: page of the block that the first bit stands for.
        bits: a bitmap in whole 64-bit words.
    """

    device: str
    block: int
    first: int
    bits: bytes


@dataclass(frozen=True, slots=True)
class DeviceWrite:
    """One write of a device.

    Attributes:
        device: who.
        seq: which of its writes since the ledger was begun, from 1.
        iova: where it began.
        size: in bytes.
        when: time.monotonic() at its end.
    """

    device: str
    seq: int
    iova: int
    size: int
    when: float


@dataclass(frozen=True, slots=True)
class DeviceCount:
    """How many writes a device has made.

    Attributes:
        writes: since the ledger was begun.
        stopped: how many of them in a migration state in which a device may not write.
    """

    writes: int
    stopped: int


class DeviceWrites(Protocol):
    """A ledger of the devices of a guest. Every method raises LedgerError."""

    async def begin(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Note all writes from now on; pages of `ranges` (iova, size), which are those of the RAM blocks, in order."""

    async def take(self) -> tuple[Mapping[str, DeviceCount], list[TakenPages]]:
        """Count the writes of each device, and take the pages written since the last call."""

    async def writes(self, device: str, since: int, *, stopped: bool) -> list[DeviceWrite]:
        """Return the last writes of a device after number `since`.

        Args:
            device: its name in the guest.
            since: a sequence number.
            stopped: only those that it made in a state in which it may not write.
        """

    async def end(self) -> None:
        """Note nothing any more; never fails."""
