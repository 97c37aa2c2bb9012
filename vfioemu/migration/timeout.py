# SPDX-License-Identifier: MIT
"""How long a migration may take while the guest runs, if the user has not said it."""

from typing import Final

BASE: Final = 60.0
"""Seconds."""
TIMES: Final = 20.0
"""How often all RAM could be sent besides: `auto-converge` needs as many rounds for a guest that writes five times as fast
as the link carries."""
UNLIMITED: Final = 128 << 20
"""Bytes per second that a link is believed to carry whose bandwidth the user has not limited."""


def default_timeout(ram_bytes: int, bandwidth: int) -> float:
    """Return the seconds from the first byte on after which a migration does not converge.

    Args:
        ram_bytes: of the guest.
        bandwidth: the limit in bytes per second; 0 = none.
    """
    return BASE + TIMES * ram_bytes / (bandwidth or UNLIMITED)
