# SPDX-License-Identifier: MIT
"""What devices are called: PCI functions by their address, mediated devices by their UUID, as the kernel spells them."""

import re
from typing import Final

_PCI: Final = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_NO_DOMAIN: Final = re.compile(r"[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def checked_name(name: str) -> str:
    """A device's name as sysfs has it, in lower case.

    Raises:
        ValueError: a device cannot be called so; says what was probably meant.
    """
    found = name.lower()
    if _PCI.fullmatch(found) or _UUID.fullmatch(found):
        return found
    wanted = "a PCI address (0000:00:01.0) or a UUID"
    if _NO_DOMAIN.fullmatch(found):
        raise ValueError(f"{name!r} is no PCI address: its domain is missing; did you mean '0000:{found}'?")
    bare = re.sub(r"[{}-]|^urn:uuid:", "", found)
    if re.fullmatch(r"[0-9a-f]{32}", bare):
        parts = (bare[:8], bare[8:12], bare[12:16], bare[16:20], bare[20:])
        raise ValueError(f"{name!r} is not spelled as a UUID; did you mean '{'-'.join(parts)}'?")
    raise ValueError(f"{name!r} is neither {wanted.replace(' or ', ' nor ')}")
