# SPDX-License-Identifier: MIT
"""Calls to the daemon that a cancellation does not cut."""

from collections.abc import Awaitable
from typing import TypeVar

import trio

T = TypeVar("T")


async def shielded(call: Awaitable[T]) -> T:
    """Make a call to the daemon, whatever is cancelled meanwhile.

    A call that is cut may have taken effect or not, and it ends its connection; with the last connection of a session
    goes the session, and with that the guest's devices.
    """
    with trio.CancelScope(shield=True):
        answer = await call
    return answer
