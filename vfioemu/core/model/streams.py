# SPDX-License-Identifier: MIT
"""The states of migration, and the streams that carry a device's state: what a model provides for both.

The state machine itself is core/objects/migration.py.
"""

import errno
from typing import Final

from vfioemu.core.base.errors import IoctlError
from vfioemu.uapi import constants as c

ERROR: Final = c.VFIO_DEVICE_STATE_ERROR
STOP: Final = c.VFIO_DEVICE_STATE_STOP
RUNNING: Final = c.VFIO_DEVICE_STATE_RUNNING
STOP_COPY: Final = c.VFIO_DEVICE_STATE_STOP_COPY
RESUMING: Final = c.VFIO_DEVICE_STATE_RESUMING
RUNNING_P2P: Final = c.VFIO_DEVICE_STATE_RUNNING_P2P
PRE_COPY: Final = c.VFIO_DEVICE_STATE_PRE_COPY
PRE_COPY_P2P: Final = c.VFIO_DEVICE_STATE_PRE_COPY_P2P

SAVING_STATES: Final = frozenset({STOP_COPY, PRE_COPY, PRE_COPY_P2P})
RUNNING_STATES: Final = frozenset({RUNNING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P})
"""States in which the device runs."""
P2P_STATES: Final = frozenset({RUNNING_P2P, PRE_COPY_P2P})
"""Those of them in which it begins no DMA to other devices; all others may still reach it."""

DEFAULT_CHUNK: Final = 1 << 20
"""Bytes that are copied in one go."""


class StateLost(IoctlError):
    """An arc failed, and the device can hold no valid state any more: it goes to ERROR, where only RESET helps."""


class SavingStream:
    """Supply the bytes that a data fd of a saving session reads. Models subclass it.

    The stream belongs to one session from PRE_COPY or STOP to the end of STOP_COPY; the model switches what it offers
    when its arc into STOP_COPY is made.

    Attributes:
        chunk: how many bytes the driver copies to the caller at a time; what was copied stays consumed if a later chunk
            cannot be written. More are copied at once where that makes no difference.
        returns_flags: the driver leaves the flags of PRECOPY_INFO as the caller has them, until the caller promises to
            take them for an output. All drivers of the kernel do.
    """

    chunk: int = DEFAULT_CHUNK
    returns_flags: bool = True

    def peek(self, size: int) -> bytes:
        """Up to `size` bytes from the position, without moving it; fewer, or none at the end.

        Raises:
            IoctlError: ENOMSG when a device that is still in pre-copy has no more for now (also for size 0); EAGAIN;
                EIO.
        """
        raise NotImplementedError

    def advance(self, size: int) -> None:
        """Move the position over `size` bytes that have reached the caller."""
        raise NotImplementedError

    def precopy_info(self) -> tuple[int, int]:
        """(initial_bytes, dirty_bytes) that pre-copy can still give.

        Raises:
            IoctlError: EINVAL when the device is not in pre-copy; ENOTTY when it has none.
        """
        raise IoctlError(errno.ENOTTY, "the device has no pre-copy")

    def before_info(self) -> None:
        """Check what GET_PRECOPY_INFO checks before it looks whether the session has ended; usually nothing."""

    def ready(self) -> bool:
        """Tell whether a read would give data (or the end) now; decides what poll() answers."""
        return True


class ResumingStream:
    """Take the bytes that are written to a data fd of a resuming session. Models subclass it."""

    chunk: int = DEFAULT_CHUNK

    def before_write(self, size: int) -> None:
        """Check what write(2) checks before it looks whether the session has ended; usually nothing."""

    def reserve(self, size: int) -> None:
        """Refuse `size` more bytes before they are copied from the caller.

        Raises:
            IoctlError: ENOMEM when it is more than the device can take.
        """

    def append(self, data: bytes) -> None:
        """Take the next bytes of the device's state. Whether they make sense is decided when RESUMING is left.

        Raises:
            IoctlError: EINVAL for what cannot be the beginning of a state.
        """
        raise NotImplementedError
