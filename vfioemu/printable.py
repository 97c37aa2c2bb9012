# SPDX-License-Identifier: MIT
"""Escape and shorten text from others before it reaches a terminal, a log or a report.

Names, reasons and details that a peer sends may contain escape sequences (titles, colours, cursor movements), line feeds
that start a forged log line, marks that change the writing direction, or have no end. Each such byte is shown as Python
writes it in a string literal, and the length is limited.
"""

import logging
from typing import Any, Final

_RECORD: Final = 4096
LIMIT: Final = 400
"""Default limit of a peer's text in one line of output, in characters."""


def printable(text: str | bytes, limit: int = LIMIT) -> str:
    r"""Escape every character that is not printable, such as ``\x1b``, ``\n`` or ``\u202e``, and cut text longer than `limit`.

    The cut is shown in the result. Escaped text passes unchanged, so this may be called both where text comes in and where it
    goes out.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    shown = "".join(
        character if character.isprintable() else _escape(character) for character in text[: limit + 1]
    )
    return shown if len(shown) <= limit else f"{shown[:limit]}... ({len(text)} characters)"


def printable_json(line: bytes) -> bytes:
    """Escape DEL and everything that is not ASCII in a line of JSON; the value stays the same.

    JSON allows control characters beyond ASCII unescaped, and a terminal would obey them.
    """
    if line.isascii():
        return line.replace(b"\x7f", b"\\u007f")
    return "".join(
        character if " " <= character <= "~" else _json_escape(character)
        for character in line.decode("utf-8", "replace")
    ).encode("ascii")


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[n]:02x}{units[n + 1]:02x}" for n in range(0, len(units), 2))


class Lines(logging.Formatter):
    """Format each log record as one line; the lines of a traceback follow it indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format the message on one line."""
        record.message = printable(record.message, _RECORD)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """Indent the lines of a traceback, so that none of them looks like a record."""
        return "\n".join(f"  {printable(line, _RECORD)}" for line in super().formatException(ei).split("\n"))


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
