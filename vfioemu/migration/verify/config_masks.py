# SPDX-License-Identifier: MIT
"""Config space as far as it is the guest's: without the bits that the host or vfio changes by themselves.

=====================  ===========================================================================================
Status                 error bits, which the bus sets; the interrupt bit stays, which says whether INTx is pending
PM                     PME status
MSI, MSI-X             the enable bit, how many vectors, the mask of all: what SET_IRQS has made of them
VPD                    address and data: a window into something else
PCI Express            status of device, link, slot and root
AER, serial number     what has happened to this card, and which card it is
=====================  ===========================================================================================
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_STATUS: Final = 0x06
_CAP_LIST: Final = 0x10
_FIRST: Final = 0x34
_EXTENDED: Final = 0x100
_PM, _VPD, _MSI, _EXP, _MSIX = 0x01, 0x03, 0x05, 0x10, 0x11
_AER, _DSN = 0x01, 0x03
_CAPS: Final = {
    _PM: ((5, b"\x80"),),
    _VPD: ((2, b"\xff" * 6),),
    _MSI: ((2, b"\x71"),),
    _EXP: (
        (0x0A, b"\xff\xff"),
        (0x12, b"\xff\xff"),
        (0x1A, b"\xff\xff"),
        (0x20, b"\xff" * 4),
        (0x2A, b"\xff\xff"),
        (0x32, b"\xff\xff"),
    ),
    _MSIX: ((3, b"\xc0"),),
}
"""Capability -> (offset in it, mask of the bits that do not count)."""
_LENGTHS: Final = {_EXP: 0x3C}
"""How long a capability is at most, where a mask could reach into the next one."""
_EXTENDED_CAPS: Final = {
    _AER: ((0x04, b"\xff" * 4), (0x10, b"\xff" * 4), (0x1C, b"\xff" * 16)),
    _DSN: ((0x04, b"\xff" * 8),),
}


@dataclass(frozen=True, slots=True)
class MsiX:
    """Where the MSI-X table and the pending bits are."""

    vectors: int
    table_bar: int
    table_offset: int
    pba_bar: int
    pba_offset: int


def masked(config: bytes) -> bytes:
    """Return config space with zeros where it is not the guest's."""
    out = bytearray(config)
    _clear(out, _STATUS, b"\x00\xf9")
    for cap, at in _chain(config):
        end = _next_after(config, at)
        for offset, mask in _CAPS.get(cap, ()):
            if at + offset + len(mask) <= end:
                _clear(out, at + offset, mask)
    for cap, at in _extended_chain(config):
        for offset, mask in _EXTENDED_CAPS.get(cap, ()):
            _clear(out, at + offset, mask)
    return bytes(out)


def msix(config: bytes) -> MsiX | None:
    """Find the MSI-X capability."""
    for cap, at in _chain(config):
        if cap == _MSIX and at + 12 <= len(config):
            control, table, pba = (
                int.from_bytes(config[at + offset : at + offset + size], "little")
                for offset, size in ((2, 2), (4, 4), (8, 4))
            )
            return MsiX((control & 0x7FF) + 1, table & 7, table & ~7, pba & 7, pba & ~7)
    return None


def _chain(config: bytes) -> Iterator[tuple[int, int]]:
    """Yield (id, offset) of each capability; a chain that runs in a circle ends."""
    if len(config) <= _FIRST or not config[_STATUS] & _CAP_LIST:
        return
    at = config[_FIRST] & ~3
    seen = set()
    while at >= 0x40 and at + 2 <= min(len(config), _EXTENDED) and at not in seen:
        seen.add(at)
        yield config[at], at
        at = config[at + 1] & ~3


def _next_after(config: bytes, at: int) -> int:
    """Where the next capability begins behind `at`, or config space without the extended part ends."""
    behind = [other for _, other in _chain(config) if other > at]
    return min(behind, default=min(len(config), _EXTENDED))


def _extended_chain(config: bytes) -> Iterator[tuple[int, int]]:
    at = _EXTENDED
    seen = set()
    while _EXTENDED <= at and at + 4 <= len(config) and at not in seen:
        seen.add(at)
        header = int.from_bytes(config[at : at + 4], "little")
        if not header & 0xFFFF:
            return
        yield header & 0xFFFF, at
        at = header >> 20 & ~3


def _clear(data: bytearray, at: int, mask: bytes) -> None:
    for i, bits in enumerate(mask):
        if at + i < len(data):
            data[at + i] &= ~bits & 0xFF
