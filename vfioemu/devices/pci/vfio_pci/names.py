# SPDX-License-Identifier: MIT
"""Names of PCI functions, and what GET_DEVICE_FD may say behind them."""

import errno
import re
from typing import Final, NamedTuple

from vfioemu.core.base.errors import IoctlError

_ADDRESS: Final = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])")
_TOKEN: Final = "vf_token="
_UUID_LENGTH: Final = 36
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


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
    """Parse a name as a PCI address; None if it is not one."""
    found = _ADDRESS.fullmatch(name)
    return None if found is None else Address(*(int(part, 16) for part in found.groups()))


def match(address: str, name: str, *, takes_token: bool = False) -> bytes | None:
    """vfio_pci_core_match(): the address, then blanks and options, of which there is one, `vf_token=UUID`.

    Args:
        address: what the device is called; one that is no PCI address has to be given exactly.
        name: what the caller asks for.
        takes_token: the function may have virtual functions, so that a token means something.

    Returns:
        None for another device; the token, which is empty without one, for this.

    Raises:
        IoctlError: EINVAL for an option that is unknown, malformed, repeated, or not for this function.
    """
    if parse(address) is None:
        return b"" if name == address else None
    if not name.startswith(address):
        return None
    rest = name[len(address) :]
    if rest and rest[0] != " ":
        return None
    token = b""
    while rest := rest.lstrip(" "):
        if token or not rest.startswith(_TOKEN):
            raise IoctlError(errno.EINVAL, f"option {rest!r} of {address}")
        rest = rest[len(_TOKEN) :]
        text = rest[:_UUID_LENGTH]
        if not _UUID.fullmatch(text):
            raise IoctlError(errno.EINVAL, f"the vf_token of {address} is no uuid: {text!r}")
        token = bytes.fromhex(text.replace("-", ""))
        rest = rest[_UUID_LENGTH:]
    if token and not takes_token:
        raise IoctlError(errno.EINVAL, f"a vf_token, and {address} neither is a virtual function nor has any")
    return token
