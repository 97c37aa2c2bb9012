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

    A backslash becomes two, so that nobody can write what looks escaped.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    left = len(text) - limit
    if left > 0:
        text = text[:limit]
    shown = "".join(
        character if character.isprintable() and character != "\\" else _escape(character)
        for character in text
    )
    return f"{shown}... ({left} more characters)" if left > 0 else shown


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
