# SPDX-License-Identifier: MIT
"""A nursery for helpers of a block."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def background() -> AsyncIterator[trio.Nursery]:
    """Open a nursery whose tasks end with the block, and out of which the block's own exceptions come as they are.

    A plain nursery would wrap an OSError of the block into an ExceptionGroup, and every caller would have to unwrap it.
    """
    escaped: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as error:  # noqa: BLE001 - raised below; a Cancelled is not among them, it may be the nursery's
            escaped = error
        nursery.cancel_scope.cancel()
    if escaped is not None:
        raise escaped
