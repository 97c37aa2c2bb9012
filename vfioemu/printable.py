# SPDX-License-Identifier: MIT
"""Text of somebody else, on its way to a terminal, a log or a report: what could command a terminal is escaped.

Names, reasons and details that a peer sends may hold escape sequences (titles, colours, cursor movements), line feeds
that begin a forged line of the log, marks that turn the direction of writing, or be endless. Every such byte is shown
as Python writes it in a string, and the length is limited.
"""

from typing import Final

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


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
