# SPDX-License-Identifier: MIT
"""Text of somebody else, on its way to a terminal, a log or a report: what could command a terminal is escaped.

Names, reasons and details that a peer sends may hold escape sequences (titles, colours, cursor movements), line feeds
that begin a forged line of the log, marks that turn the direction of writing, or be endless. Every such byte is shown
as Python writes it in a string, and the length is limited.
"""

import logging
from typing import Any, Final

_RECORD: Final = 4096
LIMIT: Final = 400
"""Characters of a peer's text in one line of output, if nobody says otherwise."""


def printable(text: str | bytes, limit: int = LIMIT) -> str:
    r"""Escape all that is no printable character: ``\x1b``, ``\n``, ``\u202e``; a long text is cut, and says so.

    What is escaped already stays as it is, so this may be done where text comes in, and again where it goes out.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    shown = "".join(
        character if character.isprintable() else _escape(character) for character in text[: limit + 1]
    )
    return shown if len(shown) <= limit else f"{shown[:limit]}... ({len(text)} characters)"


def printable_json(line: bytes) -> bytes:
    """The same JSON with what is not ASCII, or is DEL, escaped: control characters beyond ASCII are valid in it as they are."""
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
    """Formats log records so that each is one line, whatever is in it, and what follows of a traceback is indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line."""
        record.message = printable(record.message, _RECORD)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """A traceback: no line of it looks like a record."""
        return "\n".join(f"  {printable(line, _RECORD)}" for line in super().formatException(ei).split("\n"))


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
