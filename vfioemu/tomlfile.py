# SPDX-License-Identifier: MIT
"""Read TOML files written by people, and report errors with file, line, key, choices and a suggestion.

tomllib gives values without their lines, and msgspec describes errors in terms of its schema. This module turns both into

    guest.toml:14: cpu[0].rat: no such key; did you mean rate? (memory, offset, pattern, rate, size)

`read()` or `parse()` makes a `TomlFile`, and `convert()` a typed value of it. Rules that a type cannot express are checked by
the caller, who raises `error()` with the path of the key: ``file.error(("group", 0, "number"), "there are two groups 12")``.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import inspect

from vfioemu.printable import printable
from vfioemu.tomllines import Key, find_lines

T = TypeVar("T")
KeyPath: TypeAlias = tuple[Key, ...]

_WORDS: Final = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "an array",
    "object": "a table",
    "null": "nothing",
}
_AT_LINE: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_MAX_SIZE: Final = 1 << 20


class TomlError(ValueError):
    """Report a file that cannot be used.

    Attributes:
        path: the file.
        line: the line, from 1; None if it is unknown.
        key: the key, as ``cpu[0].rate``; may be empty.
        why: what is wrong.
    """

    def __init__(self, path: str | os.PathLike[str], line: int | None, key: str, why: str) -> None:
        self.path = os.fspath(path)
        self.line = line
        self.key = key
        self.why = why
        where = self.path if line is None else f"{self.path}:{line}"
        super().__init__(f"{where}: {key}: {why}" if key else f"{where}: {why}")


class TomlFile:
    """A TOML file that has been read.

    Attributes:
        path: the file, for messages.
        data: its contents.
    """

    def __init__(self, path: str | os.PathLike[str], text: str) -> None:
        self.path = os.fspath(path)
        try:
            self.data: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise _syntax(self.path, text, str(error)) from None
        except (ValueError, RecursionError) as error:
            # Numbers of thousands of digits, or arrays nested too deeply.
            raise TomlError(self.path, None, "", printable(str(error))) from None
        self._lines = find_lines(text)

    def line(self, key: KeyPath) -> int | None:
        """Return the line of a key, from 1; for a missing key, that of the table that should have it."""
        for length in range(len(key), -1, -1):
            if key[:length] in self._lines:
                return self._lines[key[:length]]
        return None

    def error(self, key: KeyPath, why: str) -> TomlError:
        """Make an error about a key."""
        return TomlError(self.path, self.line(key), dotted(key), why)

    def convert(self, type: type[T]) -> T:
        """Convert the contents to a msgspec type.

        Raises:
            TomlError: they do not match the type.
        """
        try:
            return msgspec.convert(self.data, type)
        except msgspec.ValidationError as error:
            raise self._explain(str(error), type) from None

    def value(self, key: KeyPath) -> Any:
        """Return the value of a key; None if there is none."""
        found: Any = self.data
        for step in key:
            try:
                found = found[step]
            except (KeyError, IndexError, TypeError):
                return None
        return found

    def _explain(self, message: str, type: Any) -> TomlError:
        what, _, where = message.partition(" - at ")
        key: KeyPath = tuple(
            int(step[2]) if step[2] is not None else step[1] for step in _STEP.finditer(where.strip("`"))
        )
        expected = _type_at(inspect.type_info(type), key)
        got = self.value(key)
        if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", what, re.DOTALL):
            return self.error((*key, unknown[1]), f"no such key{guess(unknown[1], _keys(expected))}")
        if missing := re.fullmatch(r"Object missing required field `(.*)`", what):
            return self.error((*key, missing[1]), "is missing")
        if what.startswith("Invalid enum value"):
            return self.error(key, f"there is no {_show(got)}{guess(got, _choices(expected))}")
        if types := re.fullmatch(r"Expected `([\w| ]+)`, got `(\w+)`", what):
            return self.error(key, _other_type(types[1], types[2], key, got))
        if size := re.fullmatch(r"Expected `(\w+)` of length (>=|<=) (\d+)", what):
            return self.error(key, _other_length(size[1], size[2], size[3], got))
        if limit := re.fullmatch(r"Expected `\w+` (.*)", what):
            return self.error(key, f"{_show(got)} is out of range, expected {limit[1]}")
        return self.error(key, what[:1].lower() + what[1:].replace("`", ""))


def read(path: str | os.PathLike[str]) -> TomlFile:
    """Read a file.

    Raises:
        TomlError: the file cannot be read, is too long, or is not TOML.
    """
    data = b""
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_SIZE + 1)
        if len(data) > _MAX_SIZE:
            raise TomlError(path, None, "", f"the file is larger than the limit of {_MAX_SIZE} bytes")
        return TomlFile(path, data.decode("utf-8-sig"))
    except OSError as error:
        raise TomlError(path, None, "", error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TomlError(path, line, "", f"byte {data[error.start]:#04x} is not valid UTF-8") from None


def parse(text: str, path: str | os.PathLike[str]) -> TomlFile:
    """Read a text instead of a file; `path` is for messages."""
    return TomlFile(path, text)


def dotted(key: KeyPath) -> str:
    """Format a key as people write it: ``cpu[0].rate``."""
    text = ""
    for step in key:
        text += f"[{step}]" if isinstance(step, int) else f".{printable(step, 60)}"
    return text.removeprefix(".")


def guess(word: object, choices: Iterable[object]) -> str:
    """Format a suggestion for an error text, the nearest choice and all choices: ``; did you mean rate? (memory, rate, size)``."""
    names = sorted(str(choice) for choice in choices)
    if not names:
        return ""
    near = difflib.get_close_matches(str(word)[:100].lower(), names, n=1, cutoff=0.6)
    listed = ", ".join(names)
    if near:
        return f"; did you mean {near[0]}? ({listed})"
    return f"; expected {'one of ' if len(names) > 1 else ''}{listed}"


def _syntax(path: str, text: str, message: str) -> TomlError:
    at = _AT_LINE.search(message)
    why = message[: at.start()] if at else message
    number = (int(at[1]) if at[1] else text.count("\n") + 1) if at else None
    if why.startswith(("Cannot overwrite a value", "Cannot declare", "Cannot mutate", "Can not overwrite")):
        line = text.splitlines()[number - 1] if number is not None and number <= text.count("\n") + 1 else ""
        what = line.partition("=")[0].strip()
        return TomlError(path, number, "", f"{printable(what, 60)} is defined twice")
    return TomlError(path, number, "", printable(why[:1].lower() + why[1:]))


def _other_length(kind: str, sign: str, limit: str, value: object) -> str:
    unit = {"str": "characters", "array": "entries"}.get(kind, "keys")
    if not value:
        return "is empty"
    have = len(value) if isinstance(value, str | list | dict) else 0
    return f"has {have} {unit}, expected {'at least' if sign == '>=' else 'at most'} {limit}"


def _other_type(expected: str, got: str, key: KeyPath, value: object) -> str:
    expected = expected.removesuffix(" | null")
    if expected == "array" and got == "object":
        return (
            f"a list of tables is expected: write [[{'.'.join(str(k) for k in key if isinstance(k, str))}]]"
        )
    if expected == "object" and got == "array":
        return f"one table is expected: write [{'.'.join(str(k) for k in key if isinstance(k, str))}] once"
    words = " or ".join(_WORDS.get(word.strip(), word.strip()) for word in expected.split("|"))
    if isinstance(value, bool):
        return f"expected {words}, got {_show(value)}"
    shown = "" if isinstance(value, dict | list) or value is None else f" {_show(value)}"
    return f"expected {words}, got {_WORDS.get(got, got)}{shown}"


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{printable(value, 60)}"'
    return printable(str(value), 60)


def _type_at(info: inspect.Type, key: KeyPath) -> inspect.Type | None:
    """Return the type of the value at a path; None if the path leads into a type without parts."""
    for step in key:
        found: inspect.Type | None = None
        for one in info.types if isinstance(info, inspect.UnionType) else (info,):
            if isinstance(step, int) and isinstance(one, inspect.ListType | inspect.VarTupleType):
                found = one.item_type
            elif isinstance(step, str) and isinstance(one, inspect.StructType):
                found = next((field.type for field in one.fields if field.encode_name == step), None)
        if found is None:
            return None
        info = found
    return info


def _keys(info: inspect.Type | None) -> list[str]:
    for one in info.types if isinstance(info, inspect.UnionType) else (info,):
        if isinstance(one, inspect.StructType):
            return [field.encode_name for field in one.fields]
    return []


def _choices(info: inspect.Type | None) -> list[object]:
    found: list[object] = []
    for one in info.types if isinstance(info, inspect.UnionType) else (info,):
        if isinstance(one, inspect.EnumType):
            found += [member.value for member in one.cls]
        elif isinstance(one, inspect.LiteralType):
            found += one.values
    return found
