# SPDX-License-Identifier: MIT
"""What is stopped and goes on, also when it is stopped twice at once: SIGSTOP for a process, a stall for a link."""

import trio


class Gate:
    """Open at first; open again when everybody who has closed it has opened it."""

    def __init__(self) -> None:
        self._closed = 0
        self._event = trio.Event()
        self._event.set()

    @property
    def closed(self) -> bool:
        """Whether nobody gets through."""
        return bool(self._closed)

    def close(self) -> None:
        """Let nobody through."""
        if not self._closed:
            self._event = trio.Event()
        self._closed += 1

    def open(self) -> None:
        """Take one `close` back."""
        self._closed = max(0, self._closed - 1)
        if not self._closed:
            self._event.set()

    def open_for_good(self) -> None:
        """Take all of them back."""
        self._closed = 0
        self._event.set()

    async def passed(self) -> None:
        """Wait until it is open."""
        while self._closed:
            await self._event.wait()
