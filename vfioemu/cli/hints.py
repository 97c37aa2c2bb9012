# SPDX-License-Identifier: MIT
"""Hints for a guest that could not be built, by step and errno."""

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vfioemu.cli.errors import FAILED, CommandError
from vfioemu.daemon.runtime_dir import how_to_start
from vfioemu.migration.building import BuildError, Step
from vfioemu.printable import printable

_GONE: Final = (errno.EPIPE, errno.ECONNRESET, errno.EIO)
_LIST: Final = "the daemon's machine file says which groups and devices it has"
_HINTS: Final[Mapping[tuple[Step, int], str]] = {
    (Step.CONNECT, errno.ENOTDIR): "--runtime-dir names the directory of a daemon",
    (Step.CONNECT, errno.EACCES): "it is another user's daemon; --runtime-dir names one of yours",
    (Step.CONNECT, errno.EPERM): "it is another user's daemon; --runtime-dir names one of yours",
    (Step.CONNECT, errno.EMFILE): "this client, or its user, has as many connections as the daemon allows",
    (Step.CONNECT, errno.EPROTONOSUPPORT): "the daemon is of another release",
    (Step.ROOM, errno.ENOMEM): "give the guest less memory: --ram, or `size` in the guest file",
    (Step.ROOM, errno.EFBIG): "give the guest less memory, or more blocks",
    (Step.RAM, errno.ENOMEM): "give the guest less memory: --ram, or `size` in the guest file",
    (Step.RAM, errno.EMFILE): "ulimit -n is too low for so many blocks, here or where the daemon was started",
    (Step.GROUP, errno.ENOENT): f"there is no such group: {_LIST}",
    (Step.GROUP, errno.EBUSY): "another process has the group open; only one can",
    (Step.GROUP, errno.EPERM): "the group is not viable: a device of it is bound to another driver",
    (Step.GROUP, errno.EINVAL): "the group is in another container already",
    (Step.DEVICE, errno.ENODEV): f"there is no such device in that group: {_LIST}",
    (Step.DEVICE, errno.EBUSY): "another process has the device open",
    (Step.MEMORY, errno.ENOMEM): "the daemon accounts locked memory, and the limit (ulimit -l) is too low",
    (Step.MEMORY, errno.ENOSPC): "the daemon's dma-entry-limit allows no more mappings",
    (
        Step.MEMORY,
        errno.EINVAL,
    ): "the IOMMU of a group has a reserved range there, or is not as wide; see `base`",
    (Step.PROGRAM, errno.ENODEV): "use a guest file without [container.device.program] for it",
    (Step.PROGRAM, errno.EINVAL): "the model refuses this value of its program",
}


def daemon_failed(path: str, error: OSError) -> CommandError:
    """Make the error for an operation that failed on a daemon, with a hint."""
    why = printable(error.strerror or str(error))
    what = "" if error.filename is None else f"{printable(str(error.filename))}: "
    number = error.errno or 0
    if not isinstance(error, BuildError):
        hint = "the daemon has ended, or its log says why" if number in _GONE else ""
        return CommandError(f"the daemon at {path} failed: {what}{why}", hint, FAILED)
    if number in _GONE:
        hint = "the daemon has ended, or its log says why it closed the connection"
    else:
        hint = _HINTS.get((error.step, number), "")
    if error.step is Step.CONNECT and number in (errno.ENOENT, errno.ECONNREFUSED):
        hint = f"is the daemon running? {how_to_start(Path(path).parent)}"
    if not hint and number == errno.EMFILE:
        hint = "the limit of open files (ulimit -n) is too low, here or where the daemon was started"
    if error.step is Step.CONNECT:
        return CommandError(f"cannot connect to the daemon at {path}: {why}", hint, FAILED)
    if error.step is Step.ROOM:
        return CommandError(f"not enough memory for guest {what}{why}", hint, FAILED)
    return CommandError(f"cannot build the guest on {path}: {what}{why}", hint, FAILED)
