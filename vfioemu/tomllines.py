# SPDX-License-Identifier: MIT
"""Find the line of each key in a TOML text; tomllib does not report it.

The text has been parsed by tomllib before, so it is valid TOML; only the places are looked for.
"""

import re
import tomllib
from typing import Final, TypeAlias

Key: TypeAlias = str | int

_SPACE: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK: Final = re.compile(r"[ \t]*")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR: Final = re.compile(r"[^,\]}#\n]*")
_STRING: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)


def find_lines(text: str) -> dict[tuple[Key, ...], int]:
    """Return the line, from 1, of every key, table and element, by path; numbers in a path are indexes into arrays."""
    scanner = _Scanner(text)
    try:
        scanner.scan()
    except (_LostError, IndexError, RecursionError):
        pass  # a message without its line is better than a file that cannot be read
    return scanner.lines


class _LostError(Exception):
    """The scanner met text that it does not understand."""


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self.lines: dict[tuple[Key, ...], int] = {}
        self._tables: dict[tuple[Key, ...], int] = {}

    def scan(self) -> None:
        table: tuple[Key, ...] = ()
        while True:
            self._skip(_SPACE)
            if self._at >= len(self._text):
                return
            if self._text.startswith("[[", self._at):
                table = self._header("[[", "]]")
            elif self._text.startswith("[", self._at):
                table = self._header("[", "]")
            else:
                self._pair(table)

    def _header(self, opening: str, closing: str) -> tuple[Key, ...]:
        self._at += len(opening)
        path: tuple[Key, ...] = ()
        keys = self._keys()
        for number, key in enumerate(keys):
            path += (key,)
            if opening == "[[" and number == len(keys) - 1:
                self._tables[path] = self._tables.get(path, 0) + 1
                self.lines.setdefault(path, self._line)
            if path in self._tables:
                path += (self._tables[path] - 1,)
        self.lines.setdefault(path, self._line)
        self._skip(_BLANK)
        self._at += len(closing)
        return path

    def _pair(self, table: tuple[Key, ...]) -> None:
        path = table
        for key in self._keys():
            path += (key,)
            self.lines.setdefault(path, self._line)
        self._skip(_BLANK)
        self._at += 1  # the sign
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_BLANK)
            if self._text[self._at] in "\"'":
                keys.append(str(tomllib.loads(f"key = {self._skip(_STRING)}")["key"]))
            else:
                keys.append(self._skip(_BARE))
            self._skip(_BLANK)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _value(self, path: tuple[Key, ...]) -> None:
        self._skip(_BLANK)
        first = self._text[self._at]
        if first == "[":
            self._parts(path, "]")
        elif first == "{":
            self._parts(path, "}")
        elif first in "\"'":
            self._skip(_STRING)
        else:
            self._skip(_SCALAR)

    def _parts(self, path: tuple[Key, ...], closing: str) -> None:
        self._at += 1
        number = 0
        while True:
            self._skip(_SPACE)
            if self._text[self._at] == closing:
                self._at += 1
                return
            if closing == "}":
                self._pair(path)
            else:
                self.lines[*path, number] = self._line
                self._value((*path, number))
                number += 1
            self._skip(_SPACE)
            if self._text[self._at] == ",":
                self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None or not (match.end() > self._at or pattern in (_SPACE, _BLANK, _SCALAR)):
            raise _LostError
        self._line += match[0].count("\n")
        self._at = match.end()
        return match[0]
