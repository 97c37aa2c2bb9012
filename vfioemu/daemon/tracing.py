# SPDX-License-Identifier: MIT
"""Send a daemon's trace to a file, to stderr, or to a connection of the control socket."""

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
"""Seconds to gather lines between two writes, so that a busy client does not cost a write per call."""
_LAST_SECONDS: Final = 2.0
"""Limit for writing the rest of a trace when the daemon ends, in seconds."""


def encoder(format: Format, limit: int) -> Callable[[e.AnyEvent], bytes]:
    """Return a function that makes a line from an event."""
    if format == "json":
        return lambda event: e.encode(event) + b"\n"
    printer = Printer(Look(limit=limit))
    return lambda event: printer.line(event).encode("utf-8", "replace") + b"\n"


@contextlib.asynccontextmanager
async def tracing(options: TraceOptions | None) -> AsyncIterator[Sink | None]:
    """Make a sink whose lines are written while the block lasts; at its end the rest is written.

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
    # Non-blocking, because open(2) of a FIFO waits for a reader, and a daemon waiting there could not be ended.
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
        log.warning(
            "the trace ends: %s", error.strerror
        )  # the sink drops further lines, and the daemon goes on
    finally:
        done.set()


async def _write(fd: int, data: bytes) -> None:
    """Write all of it in a thread, as the reader of a pipe may be slow."""

    def write() -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left) :]

    await trio.to_thread.run_sync(write, abandon_on_cancel=True)


async def send_events(sink: Sink, stream: trio.SocketStream) -> None:
    """Send the lines of a sink until the peer sends a byte or closes the connection."""
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
