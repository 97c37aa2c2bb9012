# SPDX-License-Identifier: MIT
"""Check device names: PCI functions have an address, mediated devices a UUID, spelled as in sysfs."""

import re
from typing import Final

_PCI: Final = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_NO_DOMAIN: Final = re.compile(r"[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def checked_name(name: str) -> str:
    """Return a device's name as sysfs has it, in lower case.

    Raises:
        ValueError: it is not a possible name; the text suggests one.
    """
    found = name.lower()
    if _PCI.fullmatch(found) or _UUID.fullmatch(found):
        return found
    wanted = "a PCI address (0000:00:01.0) or a UUID"
    if _NO_DOMAIN.fullmatch(found):
        raise ValueError(
            f"{name!r} is not a PCI address: the domain is missing; did you mean '0000:{found}'?"
        )
    bare = re.sub(r"[{}-]|^urn:uuid:", "", found)
    if re.fullmatch(r"[0-9a-f]{32}", bare):
        parts = (bare[:8], bare[8:12], bare[12:16], bare[16:20], bare[20:])
        raise ValueError(f"{name!r} is not spelled as a UUID; did you mean '{'-'.join(parts)}'?")
    raise ValueError(f"{name!r} is neither {wanted.replace(' or ', ' nor ')}")
