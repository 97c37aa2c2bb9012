# SPDX-License-Identifier: MIT
"""The state of a device, read back: what a device gives in STOP_COPY says what it is, whatever its model.

The source's device gives its state again, without pre-copy; the destination's, into which it was loaded, gives it as well. A device
that loads less than it was sent, or something else, gives something else. If they differ, the source's is asked once more: one that
gives two different states while it stands still cannot be compared like that, and whoever reads of it is told so. (Not before: each
reading of a large state takes its time, and the guest stands still.)

Only digests are kept: a state may have gigabytes.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Protocol

from vfioemu.migration.deadlines import DaemonSilent
from vfioemu.uapi.constants import VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_STOP_COPY

CHUNK: Final = 1 << 20
"""Bytes of one read."""
SLACK: Final = 1 << 20
"""Bytes by which a state may be longer than expected: estimates are allowed, endless states are not."""
DIGEST_SIZE: Final = 16


class Readable(Protocol):
    """As much of a device as is needed here. Methods raise OSError."""

    async def set_state(self, state: int) -> None:
        """MIG_DEVICE_STATE."""

    async def read_own(self, size: int) -> bytes | None:
        """Read the saving fd, and nothing besides."""


class Unreadable(Exception):
    """There is no state to compare with; the text says why."""


@dataclass(frozen=True, slots=True)
class Echo:
    """A state that was read."""

    digest: str
    size: int


async def read(device: Readable, expected: int) -> Echo:
    """Read the state of a device that stands still, from its beginning to its end, and leave it in STOP.

    Args:
        device: in STOP_COPY or STOP.
        expected: bytes that were sent of it, pre-copy included; it is not read much further than that.

    Raises:
        Unreadable: an errno, or it goes on much longer than expected.
        DaemonSilent: there was no answer.
    """
    try:
        await device.set_state(VFIO_DEVICE_STATE_STOP)
        await device.set_state(VFIO_DEVICE_STATE_STOP_COPY)
        echo = await _read_all(device, 2 * expected + SLACK)
        await device.set_state(VFIO_DEVICE_STATE_STOP)
    except DaemonSilent:
        raise  # that says nothing of the device
    except OSError as error:
        raise Unreadable(f"its state cannot be read again: {error.strerror or error}") from error
    return echo


async def _read_all(device: Readable, limit: int) -> Echo:
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    size = 0
    while data := await device.read_own(CHUNK):
        digest.update(data)
        size += len(data)
        if size > limit:
            raise Unreadable(f"its state has more than {limit} bytes when it is read again")
    return Echo(digest.hexdigest(), size)
