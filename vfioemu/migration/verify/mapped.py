# SPDX-License-Identifier: MIT
"""Digests of memory of a device that can be mapped, without making its holes real.

It is read from the fd of its mapping and not through the mapping: memory that goes away meanwhile is an error then, and no SIGBUS.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from typing import Final

PARTS: Final = 256
"""Parts of one region that get a digest of their own, so that a difference has a place."""
_PAGE: Final = 4096
_STEP: Final = 1 << 20
_ZEROS: Final = bytes(_PAGE)


def digest_areas(fd: int, start: int, size: int, offset: int, areas: int) -> dict[str, str]:
    """Compute digests of the parts of one area, by their places; parts that are all zero have none. Closes the fd.

    Args:
        fd: of the mapping.
        start: where the area begins in it.
        size: of the area, in bytes.
        offset: of the area in its region, for the names.
        areas: how many areas the region has, which share `PARTS`.

    Raises:
        OSError: EIO, a part of it is not there now; others as pread(2).
    """
    try:
        step = _PAGE
        while size > step * max(1, PARTS // areas):
            step *= 2
        values = {}
        for at in range(0, size, step):
            count = min(step, size - at)
            digest = _digest(fd, start + at, count)
            if digest is not None:
                values[f"{offset + at:#x}+{count:#x}"] = digest
        return values
    finally:
        os.close(fd)


def _digest(fd: int, start: int, size: int) -> str | None:
    """Digest of what is not zero, with its places; None for zeros."""
    found = None
    if os.fstat(fd).st_size < start + size:
        raise OSError(
            errno.EIO, f"{size:#x} bytes at {start:#x} are not there now: the device does not decode them"
        )
    for at, count in _data(fd, start, start + size):
        for place in range(at, at + count, _STEP):
            data = os.pread(fd, min(_STEP, at + count - place), place)
            for first in range(0, len(data), _PAGE):
                page = data[first : first + _PAGE]
                if page != _ZEROS[: len(page)]:
                    found = found or hashlib.blake2b(digest_size=16)
                    found.update((place + first - start).to_bytes(8, "little"))
                    found.update(page)
    return None if found is None else found.hexdigest()


def _data(fd: int, at: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, size) of what is no hole."""
    while at < end:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
            at = min(os.lseek(fd, begin, os.SEEK_HOLE), end)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if begin < at:
            yield begin, at - begin
