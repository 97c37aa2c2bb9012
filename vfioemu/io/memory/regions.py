# SPDX-License-Identifier: MIT
"""Files of devices' memory that a client was given to map, for when it maps that memory for DMA."""

import errno
import os
import weakref
from collections.abc import MutableMapping

from vfioemu.core.base.errors import IoctlError
from vfioemu.io.base.accounts import Account
from vfioemu.io.base.fds import duplicate
from vfioemu.io.base.usage import close_counted


class RegionFile:
    """A copy of the fd of a device's memory; it is closed when nobody refers to it.

    The token of the device does: a mapping of the memory holds that, so there is a copy as long as there is a mapping.

    Attributes:
        fd: the copy.
    """

    __slots__ = ("__weakref__", "fd")

    def __init__(self, fd: int, account: Account) -> None:
        self.fd = duplicate(fd)
        account.add_fds(1)
        weakref.finalize(self, close_counted, self.fd, account)


def keep_region(
    fd: int,
    account: Account,
    token: MutableMapping[int, RegionFile],
    space: MutableMapping[int, RegionFile],
) -> None:
    """Keep the file that a client maps: `token` holds it, `space` finds it by its inode.

    Raises:
        IoctlError: EMFILE, ENFILE: the client has as many fds of ours as it gets, or we have no more.
    """
    inode = os.fstat(fd).st_ino
    found = space.get(inode)
    if found is None:
        if why := account.no_fd():
            raise IoctlError(errno.EMFILE, why)
        found = space[inode] = RegionFile(fd, account)
    token[inode] = found
