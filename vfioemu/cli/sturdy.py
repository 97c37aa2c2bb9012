# SPDX-License-Identifier: MIT
"""Standard output and error that may break while something is done that does not end because nobody reads about it.

`migrate --json | head -2` closes the pipe, a terminal is hung up, a disk is full: a guest that is on its way goes on its
way, and the exit status is that of the migration. What was lost is told in the end, if there is somebody to tell.
"""

import contextlib
import errno
import os
import sys
from typing import TextIO, cast


class Sturdy:
    """A text stream whose writes do not fail.

    Attributes:
        error: what the first write that failed has said; None as long as all went well.
    """

    def __init__(self, stream: TextIO) -> None:
        self.error: OSError | None = None
        self._stream = stream
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write, or not."""
        if self.error is None:
            try:
                return self._stream.write(text)
            except (OSError, ValueError) as error:  # ValueError: it is closed
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flush, or not."""
        if self.error is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Its file descriptor."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        """Its encoding."""
        return self._stream.encoding

    def _give_up(self, error: OSError | ValueError) -> None:
        self.error = error if isinstance(error, OSError) else OSError(errno.EBADF, os.strerror(errno.EBADF))
        # What is left in its buffer would be written when the interpreter ends, and would fail again (exit status 120).
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.dup2(null, self._stream.fileno())
                self._stream.flush()
            finally:
                os.close(null)


def make_sturdy() -> None:
    """Let what the process prints get lost if it cannot be printed; its standard fds are open from here on."""
    for number in range(3):  # else a socket would get that number, and what is printed would go there
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as we live
        if not isinstance(stream, Sturdy):
            setattr(sys, name, cast("TextIO", Sturdy(stream)))


def lost_output() -> str | None:
    """What kept us from printing the result; None if all is well, or if it was nobody's wish to read more (EPIPE)."""
    stdout = sys.stdout
    error = stdout.error if isinstance(stdout, Sturdy) else None
    return None if error is None or error.errno == errno.EPIPE else error.strerror
