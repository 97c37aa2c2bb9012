# SPDX-License-Identifier: MIT
"""The oracle's migration streams: their contents are a pattern, their lengths are parameters (ms_read, ms_write)."""

import errno
from collections.abc import Callable
from typing import Final, NamedTuple

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import U64_MAX
from vfioemu.core.model.streams import ResumingStream, SavingStream

STREAM_LIMIT: Final = 1 << 20
_PATTERN: Final = bytes((i * 7 + 3) & 0xFF for i in range(256))


class Sizes(NamedTuple):
    """The lengths of the parts of a stream, in bytes."""

    stop: int = 256
    initial: int = 96
    dirty: int = 64


def stream_bytes(first: int, size: int) -> bytes:
    """Return bytes [first, first+size) of every migration stream of an oracle device: byte i is 7 * i + 3."""
    return (_PATTERN * (-(-size // 256) + 1))[first & 0xFF :][:size]


class OracleSaving(SavingStream):
    """`initial + dirty` bytes while pre-copying, `stop` more in STOP_COPY (ms_read, ms_ioctl)."""

    chunk = 64
    returns_flags = False  # it fills in a structure of its own

    def __init__(self, current: Callable[[], Sizes], precopy: bool) -> None:
        sizes = current()
        self.precopy = precopy
        self._current = current
        self._position = 0
        self._pre_end = (sizes.initial + sizes.dirty) & U64_MAX
        self._total = (self._pre_end + sizes.stop) & U64_MAX if precopy else sizes.stop

    def peek(self, size: int) -> bytes:
        """Return the next bytes, at most `size`; ENOMSG when all of pre-copy has been read."""
        end = self._pre_end if self.precopy else self._total
        if self.precopy and self._position >= end:
            raise IoctlError(errno.ENOMSG, f"size {size}: pre-copy has no more for now")
        return stream_bytes(self._position, max(0, min(size, end - self._position)))

    def advance(self, size: int) -> None:
        """Consume."""
        self._position += size

    def precopy_info(self) -> tuple[int, int]:
        """Return the bytes that pre-copy still has as (initial, dirty); EINVAL outside of it."""
        if not self.precopy:
            raise IoctlError(errno.EINVAL, "device_state STOP_COPY: this is for PRE_COPY and PRE_COPY_P2P")
        initial = self._current().initial  # as it is now, not when the stream began
        return max(0, initial - self._position), (self._pre_end - max(self._position, initial)) & U64_MAX


class OracleResuming(ResumingStream):
    """Takes up to 1 MiB and compares it with what a stop-copy stream would be (ms_write)."""

    chunk = 64

    def __init__(self, total: int) -> None:
        self._position = 0
        self._total = total
        self._spoiled = False

    @property
    def acceptable(self) -> bool:
        """Nothing was written, or exactly one stream."""
        return self._position == 0 or (self._position == self._total and not self._spoiled)

    def reserve(self, size: int) -> None:
        """Refuse a stream beyond 1 MiB: ENOMEM."""
        if self._position + size > STREAM_LIMIT:
            raise IoctlError(errno.ENOMEM, f"the device takes {STREAM_LIMIT} bytes")

    def append(self, data: bytes) -> None:
        """Compare with the stream's bytes."""
        self._spoiled |= data != stream_bytes(self._position, len(data))
        self._position += len(data)
