# SPDX-License-Identifier: MIT
"""Where a daemon's traces go: a file, stderr, or whoever asks on the control socket."""

import contextlib
import errno
import logging
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable
from typing import Final

import trio

from vfioemu.daemon.runtime_dir import StartError
from vfioemu.io.observe.sink import Sink
from vfioemu.trace import events as e
from vfioemu.trace.filter import Filter
from vfioemu.trace.options import Format, TraceOptions
from vfioemu.trace.text import Look, Printer

log: Final = logging.getLogger(__name__)

_GATHER: Final = 0.005
"""Seconds in which further lines gather after some were written: busy clients are not held up by each of them."""
_LAST_SECONDS: Final = 2.0
"""How long the end of a trace may take to be written when the daemon ends."""


def encoder(format: Format, limit: int) -> Callable[[e.AnyEvent], bytes]:
    """What makes a line of an event."""
    if format == "json":
        return lambda event: e.encode(event) + b"\n"
    printer = Printer(Look(limit=limit))
    return lambda event: printer.line(event).encode("utf-8", "replace") + b"\n"


@contextlib.asynccontextmanager
async def tracing(options: TraceOptions | None) -> AsyncIterator[Sink | None]:
    """A sink whose lines are written for as long as the block lasts; at its end, what is left is written too.

    Raises:
        StartError: the file cannot be made.
    """
    if options is None:
        yield None
        return
    fd = _opened(options)
    sink = Sink(encoder(options.format, options.limit), Filter(options.expressions), options.limit)
    try:
        async with trio.open_nursery() as nursery:
            done = trio.Event()
            nursery.start_soon(_write_on, sink, fd, done)
            try:
                yield sink
            finally:
                sink.close()
                with trio.move_on_after(_LAST_SECONDS, shield=True):
                    await done.wait()
                nursery.cancel_scope.cancel()
    finally:
        if options.path is not None:
            os.close(fd)


def _opened(options: TraceOptions) -> int:
    if options.path is None:
        return sys.stderr.fileno()
    # Nonblocking, because the open of a FIFO waits for a reader, and nothing would end a daemon that waits there.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(options.path, flags, 0o600)
    except OSError as error:
        unread = error.errno == errno.ENXIO and stat.S_ISFIFO(os.stat(options.path).st_mode)
        why = "nobody has this FIFO open for reading" if unread else error.strerror
        raise StartError(f"cannot write a trace to {options.path}: {why}") from None
    os.set_blocking(fd, True)
    return fd


async def _write_on(sink: Sink, fd: int, done: trio.Event) -> None:
    try:
        while data := await sink.take():
            await _write(fd, data)
            await trio.sleep(_GATHER)
    except OSError as error:
        log.warning("the trace ends: %s", error.strerror)  # its queue fills up, and the daemon goes on
    finally:
        done.set()


async def _write(fd: int, data: bytes) -> None:
    """Write it all, in a thread: the other end of a pipe may not read."""

    def write() -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left) :]

    await trio.to_thread.run_sync(write, abandon_on_cancel=True)


async def send_events(sink: Sink, stream: trio.SocketStream) -> None:
    """Send what a sink gets, until the other side says anything, or hangs up."""
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await stream.send_all(await sink.take())
                    await trio.sleep(_GATHER)
            nursery.cancel_scope.cancel()

        nursery.start_soon(send)
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.receive_some()
        nursery.cancel_scope.cancel()
