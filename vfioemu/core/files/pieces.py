# SPDX-License-Identifier: MIT
"""Region accesses as the kernel's mdev samples make them: piece by piece, and EFAULT whatever goes wrong.

Kernel: mtty_read() and mtty_write() (samples/vfio-mdev/mtty.c); mdpy and mbochs do the same. A piece has the largest of
4, 2 and 1 bytes to which the position is aligned and which are still wanted; it is copied before the next one is made,
so what comes before a failure has had its effects. The kernel has no limit; here a call ends after MOST bytes, as a short
count, because others wait meanwhile.
"""

import errno
from collections.abc import Generator
from typing import Final

from vfioemu.core.base.effects import Steps, read_user, write_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.model.regions import OFFSET_SHIFT, RegionSource

MOST: Final = 64 << 10
_MASK: Final = (1 << OFFSET_SHIFT) - 1


def read(model: RegionSource, addr: int, size: int, position: int) -> Steps[int]:
    """Read `size` bytes of a device fd at `position`: EFAULT."""
    done = 0
    size = min(size, MOST)
    while done < size:
        at = position + done
        length = _piece(at, size - done)
        try:
            answer = model.read_region(at >> OFFSET_SHIFT, at & _MASK, length)
            data = (yield from answer) if isinstance(answer, Generator) else answer
            yield from write_user(addr + done, data)
        except IoctlError as error:
            raise IoctlError(errno.EFAULT, error.why) from error
        done += length
    return done


def write(model: RegionSource, addr: int, size: int, position: int) -> Steps[int]:
    """Write `size` bytes to a device fd at `position`: EFAULT."""
    done = 0
    size = min(size, MOST)
    while done < size:
        at = position + done
        length = _piece(at, size - done)
        data = yield from read_user(addr + done, length)
        try:
            answer = model.write_region(at >> OFFSET_SHIFT, at & _MASK, data)
            if answer is not None:
                yield from answer
        except IoctlError as error:
            raise IoctlError(errno.EFAULT, error.why) from error
        done += length
    return done


def _piece(position: int, left: int) -> int:
    for length in (4, 2):
        if left >= length and position % length == 0:
            return length
    return 1
