# SPDX-License-Identifier: MIT
"""The migration stream of a mtty: a header of 24 bytes, and 36 bytes for each port.

Kernel: struct mtty_data, mtty_save_read(), mtty_precopy_ioctl(), mtty_resume_write() in samples/vfio-mdev/mtty.c.

======  ====  ==============================================================
offset  size  field
======  ====  ==============================================================
0       8     magic
8       4     major version, 1
12      4     minor version, 0
16      4     number of ports
20      4     flags, 0
24      36    each port; see uart.py
======  ====  ==============================================================

In pre-copy there is the header; the ports come when the device has stopped. The interrupt line of the config space
travels in a byte of the first port which the kernel's structure does not use (it has zero there, and so do we in a device
that no firmware has seen).
"""

import errno
import struct
from collections.abc import Callable
from typing import Final

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.model.streams import PRE_COPY, PRE_COPY_P2P, ResumingStream, SavingStream
from vfioemu.devices.mtty.uart import PORT
from vfioemu.uapi.flags import state_name

_HEADER: Final = struct.Struct("<QIIII")
_MAGIC: Final = 0x7E9D09898C3E2C4E
_MAJOR: Final = 1
_MINOR: Final = 0


def data_size(ports: int) -> int:
    """mtty_data_size(): the length of a whole stream."""
    return _HEADER.size + ports * PORT.size


def header(ports: int) -> bytes:
    """Build the header with which every stream begins: struct mtty_data without its ports."""
    return _HEADER.pack(_MAGIC, _MAJOR, _MINOR, ports, 0)


class MttySaving(SavingStream):
    """The stream of a source.

    Args:
        ports: how many ports the device has.
        state: says in which migration state it is.
    """

    def __init__(self, ports: int, state: Callable[[], int]) -> None:
        self._data = header(ports)
        self._position = 0
        self._state = state

    def stop(self, ports: bytes) -> None:
        """mtty_save_state(): the device has stopped, and this is what it was."""
        self._data += ports

    def peek(self, size: int) -> bytes:
        """Return the next bytes, at most `size`; at the end of pre-copy none, where others say ENOMSG: mtty_save_read()."""
        return self._data[self._position : self._position + size]

    def advance(self, size: int) -> None:
        """Consume."""
        self._position += size

    def before_info(self) -> None:
        """Refuse with EINVAL unless the device is in pre-copy, in this session or a later one."""
        state = self._state()
        if state not in (PRE_COPY, PRE_COPY_P2P):
            raise IoctlError(errno.EINVAL, f"device_state {state_name(state)} is not pre-copy")

    def precopy_info(self) -> tuple[int, int]:
        """Return the bytes left of the header as initial, and 0 as dirty: mtty_precopy_ioctl(). EINVAL as `before_info`."""
        self.before_info()
        return len(self._data) - self._position, 0


class MttyResuming(ResumingStream):
    """The stream of a destination."""

    def __init__(self, ports: int) -> None:
        self._header = header(ports)
        self._size = data_size(ports)
        self._data = b""

    def before_write(self, size: int) -> None:
        """Refuse more than a whole stream with ENOMEM; an ended stream counts from its beginning again (mtty_disable_file)."""
        self.reserve(size)

    def reserve(self, size: int) -> None:
        """Refuse more than a whole stream with ENOMEM."""
        if len(self._data) + size > self._size:
            raise IoctlError(errno.ENOMEM, f"{len(self._data)} + {size} bytes, a state has {self._size}")

    def append(self, data: bytes) -> None:
        """Take bytes: EFAULT for those that complete a header of another device. They are taken all the same."""
        had = len(self._data)
        self._data += data
        if had < len(self._header) <= len(self._data) and not self._data.startswith(self._header):
            raise IoctlError(
                errno.EFAULT, f"not the header of this device: {self._data[: len(self._header)].hex()}"
            )

    def end(self) -> None:
        """Drop the bytes, as the session has ended: mtty_disable_file()."""
        self._data = b""

    def ports(self) -> list[bytes]:
        """mtty_load_state(): the state of each port; EINVAL when bytes are missing."""
        if len(self._data) < self._size:
            raise IoctlError(errno.EINVAL, f"{len(self._data)} bytes, a state has {self._size}")
        return [self._data[at : at + PORT.size] for at in range(len(self._header), self._size, PORT.size)]
