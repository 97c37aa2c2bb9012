# SPDX-License-Identifier: MIT
"""Config space of a device of the guest. Its own state has none: whoever migrates it restores it, as QEMU does.

The source reads it when the device has stopped, and sends it behind the device's state; the destination writes what a guest
can have written before the device runs: capabilities (QEMU has those in its own copy), then as QEMU's vfio_pci_load_config() BARs, ROM,
interrupt line, and COMMAND at last. Bits of the host are left as they are (verify/config_masks.py).

======  ==========================
size    behind the device's state
======  ==========================
n       config space
4       magic, ``CFG1``
4       n
======  ==========================
"""

import errno
import struct
from typing import Final

from vfioemu import client
from vfioemu.migration.verify.config_masks import masked
from vfioemu.uapi import constants as u

_TAIL: Final = struct.Struct("<4sI")
_MAGIC: Final = b"CFG1"
_LARGEST: Final = 4096
_HEADER: Final = 0x40
_COMMAND: Final = (0x04, 2)
_PLACES: Final = ((0x0C, 1), *((0x10 + 4 * bar, 4) for bar in range(6)), (0x30, 4), (0x3C, 1), _COMMAND)
"""(offset, size) of what is written, in this order."""
_READ_WRITE: Final = u.VFIO_REGION_INFO_FLAG_READ | u.VFIO_REGION_INFO_FLAG_WRITE


class ConfigSpace:
    """That of one device, if it has any.

    Args:
        file: the device.
    """

    def __init__(self, file: client.Device) -> None:
        self._file = file
        self._offset = 0
        self._size = 0

    async def open(self) -> None:
        """Find out where it is."""
        try:
            region = await self._file.region_info(u.VFIO_PCI_CONFIG_REGION_INDEX)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return
        if region.flags & _READ_WRITE == _READ_WRITE:
            self._offset, self._size = region.offset, min(region.size, _LARGEST)

    async def save(self) -> bytes:
        """Read what goes behind the device's state."""
        data = await self._file.pread(self._size, self._offset) if self._size else b""
        return data + _TAIL.pack(_MAGIC, len(data))

    async def restore(self, data: bytes) -> None:
        """Write what the source has read, as far as it differs."""
        await self._restore_capabilities(data)
        for place, size in _PLACES:
            saved = data[place : place + size]
            if place + size > min(len(data), self._size):
                continue
            if await self._file.pread(size, self._offset + place) != saved:
                await self._file.pwrite(saved, self._offset + place)

    async def _restore_capabilities(self, data: bytes) -> None:
        """Write the words behind the header that are others than here; what cannot be written stays as it is."""
        size = min(len(data), self._size) & ~3
        if size <= _HEADER:
            return
        theirs, ours = masked(data), masked(await self._file.pread(self._size, self._offset))
        for place in range(_HEADER, size, 4):
            if theirs[place : place + 4] != ours[place : place + 4]:
                await self._file.pwrite(data[place : place + 4], self._offset + place)


def is_end(piece: bytes | bytearray) -> bool:
    """Whether a piece of a state ends as the last one does."""
    size = len(piece) - _TAIL.size
    if size < 0:
        return False
    magic, length = _TAIL.unpack_from(piece, size)
    return bool(magic == _MAGIC and length <= min(size, _LARGEST))


def split(end: bytes) -> tuple[bytes, bytes]:
    """Split the last piece of a state: (what is the device's own, config space).

    Raises:
        OSError: EINVAL, there is no config space.
    """
    if not is_end(end):
        raise OSError(errno.EINVAL, "the state of the device has no config space at its end")
    size = len(end) - _TAIL.size
    start = size - _TAIL.unpack_from(end, size)[1]
    return end[:start], end[start:size]
