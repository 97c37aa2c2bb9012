# SPDX-License-Identifier: MIT
"""Names of PCI functions, and what GET_DEVICE_FD may say behind them."""

import errno
import re
from typing import Final, NamedTuple

from vfioemu.core.errors import IoctlError

_ADDRESS: Final = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])")
_TOKEN: Final = "vf_token="
_UUID_LENGTH: Final = 36


class Address(NamedTuple):
    """Where a function is.

    Attributes:
        segment: or domain.
        bus: 0 is the root bus.
        slot, function: of the bus.
    """

    segment: int
    bus: int
    slot: int
    function: int

    @property
    def devfn(self) -> int:
        """Slot and function in one byte."""
        return self.slot << 3 | self.function


def parse(name: str) -> Address | None:
    """The PCI address that a name is, or None."""
    found = _ADDRESS.fullmatch(name)
    return None if found is None else Address(*(int(part, 16) for part in found.groups()))


def match(address: str, name: str) -> bool:
    """vfio_pci_core_match(): the address, then blanks and options; `vf_token=UUID` is for virtual functions only.

    Raises:
        IoctlError: EINVAL for an option that is unknown, malformed, repeated, or not for this function.
    """
    if parse(address) is None:
        return name == address
    if not name.startswith(address):
        return False
    rest = name[len(address) :]
    if rest and rest[0] != " ":
        return False
    token = False
    while rest := rest.lstrip(" "):
        if token or not rest.startswith(_TOKEN):
            raise IoctlError(errno.EINVAL, f"option {rest!r} of {address}")
        rest = rest[len(_TOKEN) :]
        if not _is_uuid(rest[:_UUID_LENGTH]):
            raise IoctlError(errno.EINVAL, f"the vf_token of {address} is no uuid: {rest[:_UUID_LENGTH]!r}")
        token = True
        rest = rest[_UUID_LENGTH:]
    if token:
        raise IoctlError(errno.EINVAL, f"a vf_token, and {address} is no virtual function and has none")
    return True


def _is_uuid(text: str) -> bool:
    return re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text) is not None
