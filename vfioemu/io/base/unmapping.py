# SPDX-License-Identifier: MIT
"""Unmapping windows where nobody waits for it.

A mapping, or an fd, may be the last reference to a client's file, which the kernel frees then and there: 150 ms for each GiB
of it, however little of it was mapped. So windows go in a thread, one after the other, and count until they have gone.
"""

import contextlib
import logging
import queue
from collections.abc import Callable
from os import close
from typing import Final, NoReturn, TypeAlias

import trio

from vfioemu.syscalls.unmap import unmap

log: Final = logging.getLogger(__name__)

_Job: TypeAlias = tuple[int, int, int, trio.lowlevel.TrioToken, Callable[[], None]]


class Unmapping:
    """Unmaps in a thread of its own, which begins with the first window, and stays."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()  # finalizers may put where others do
        self._begun = False

    def begin(self) -> None:
        """Have the thread, as long as there is no hurry; without one, what goes is unmapped at once."""
        if self._begun:
            return
        try:
            trio.lowlevel.start_thread_soon(self._work, _nothing)
        except RuntimeError as error:  # the system has none for us now
            log.warning("unmapping what clients have shared: %s", error)
            return
        self._begun = True

    def unmap(self, address: int, size: int, fd: int, done: Callable[[], None]) -> None:
        """Unmap, and close `fd` if there is one; `done` is called in trio's thread, or now where nothing runs there."""
        if self._begun:
            with contextlib.suppress(RuntimeError):
                self._jobs.put((address, size, fd, trio.lowlevel.current_trio_token(), done))
                return
        _unmap(address, size, fd)
        done()

    def _work(self) -> NoReturn:
        while True:
            address, size, fd, token, done = self._jobs.get()
            _unmap(address, size, fd)
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(done)
            del done


def _nothing(result: object) -> None:
    """Do nothing."""


def _unmap(address: int, size: int, fd: int) -> None:
    try:
        unmap(address, size)
    except OSError as error:
        log.error("unmapping %#x bytes: %s", size, error.strerror)
    if fd >= 0:
        with contextlib.suppress(OSError):  # of a file system's own; the fd is gone
            close(fd)


unmapping: Final = Unmapping()
"""This process's."""
