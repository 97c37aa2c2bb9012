# SPDX-License-Identifier: MIT
"""What people get to read when a file of theirs is wrong, and text of strangers on its way to a terminal."""

import tomllib
import unicodedata
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.printable import printable
from vfioemu.tomlfile import TomlError, parse, read
from vfioemu.tomllines import find_lines


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


class Wheel(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    spoke_count: Annotated[int, msgspec.Meta(ge=1, le=100)]
    size: int | str = 1
    colour: Colour = Colour.RED


class Cart(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=5)] = "cart"
    kind: Literal["open", "closed"] = "open"
    lid: Wheel | None = None
    spare: list[tuple[int, int]] = []
    options: dict[str, Any] = {}
    wheel: Annotated[list[Wheel], msgspec.Meta(max_length=2)] = []


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfname = 'a'\n")
    assert read(tmp_path / "f").data == {"name": "a"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "\n[[wheel]]\nspoke-cuont = 3",
            "f:3: wheel[0].spoke-cuont: no such key; did you mean spoke-count? (colour, size, spoke-count)",
        ),
        ("[[wheel]]\nspoke_count = 3", "f:2: wheel[0].spoke_count: no such key; did you mean spoke-count?"),
        ("xyz = 1", "f:1: xyz: no such key; expected one of kind, lid, name, options, spare, wheel"),
        ("name='a'\n[[wheel]]\n[[wheel]]\nspoke-count=1", "f:2: wheel[0].spoke-count: is missing"),
        (
            "[lid]\nspoke-count=1\ncolour='Rde'",
            'f:3: lid.colour: there is no "Rde"; did you mean red? (green, red)',
        ),
        ("kind = 'x'", 'f:1: kind: there is no "x"; expected one of closed, open'),
        ("[wheel]\nsize=1", "f:1: wheel: a list of tables is expected: write [[wheel]]"),
        ("[[lid]]\nsize=1", "f:1: lid: one table is expected: write [lid] once"),
        (
            "[lid]\nspoke-count=1\nsize=1.5",
            "f:3: lid.size: expected an integer or a string, got a number 1.5",
        ),
        ("name = true", "f:1: name: expected a string, got true"),
        (
            "[lid]\n\n\nspoke-count = 101",
            "f:4: lid.spoke-count: 101 is out of range, expected <= 100",
        ),
        ("name = ''", "f:1: name: is empty"),
        ("name = '123456'", "f:1: name: has 6 characters, expected at most 5"),
        ("spare = [[1, 2],\n  [3,\n  'x']]", 'f:3: spare[1][1]: expected an integer, got a string "x"'),
        ("name = 'a'\nname = 'b'", "f:2: name is defined twice"),
        ("[lid]\nspoke-count=1\n[lid]", "f:3: [lid] is defined twice"),
        ("a b", "f:1: expected '='"),
        ("name = 'a", "f:1: "),
        ('"\\u001b[2J" = 1', "f:1: \\x1b[2J: no such key"),
        ("kind = '\x85'", "f:1: kind: "),
    ],
)
def test_mistake_is_told_with_line_key_and_choices(text, says):
    with pytest.raises(TomlError) as error:
        parse(text, "f").convert(Cart)
    assert str(error.value).startswith(says)
    assert str(error.value).isprintable()


def test_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(TomlError, match="none: No such file"):
        read(tmp_path / "none")
    with pytest.raises(TomlError, match="Is a directory"):
        read(tmp_path)
    (tmp_path / "binary").write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(TomlError, match="binary:2: byte 0xff is not valid UTF-8"):
        read(tmp_path / "binary")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(TomlError, match="zero: the file is larger than"):
        read(tmp_path / "zero")


def test_own_errors_of_a_user_have_the_line_of_the_nearest_table():
    file = parse("\n[[wheel]]\nspoke-count = 1\n[[wheel]]\nspoke-count = 2\n", "f")
    assert str(file.error(("wheel", 1, "spoke-count"), "is bad")) == "f:5: wheel[1].spoke-count: is bad"
    assert str(file.error(("wheel", 1, "colour"), "is bad")) == "f:4: wheel[1].colour: is bad"
    assert str(file.error((), "is bad")) == "f: is bad"


KEYS = st.one_of(
    st.text("ab-_1", min_size=1, max_size=3), st.sampled_from(["'a.b'", '"c\\td"', "''", '"\u00fc"'])
)
SCALARS = st.sampled_from(
    [
        "1",
        "0x10",
        "true",
        "1979-05-27 07:32:00",
        "'a # ]'",
        '"b\\"}"',
        '"""c\n"d" ]\n"""',
        "'''e\n'f''''",
        "1.5e3",
        '""""quoted""""',
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: "[ " + ", # x ]\n  ".join(parts) + "\n]"),
        st.lists(inner.filter(lambda text: "\n" not in text), max_size=2).map(
            lambda parts: "{ " + ", ".join(f"k{i} = {part}" for i, part in enumerate(parts)) + " }"
        ),
    ),
    max_leaves=6,
)


@given(st.lists(st.tuples(st.sampled_from(["pair", "dotted", "table", "tables"]), KEYS, VALUES), max_size=8))
def test_every_key_is_found_in_the_line_in_which_it_is(statements):
    text = ""
    expected: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    tables, used = 0, set()
    for number, (kind, key, value) in enumerate(statements):
        name = next(iter(tomllib.loads(f"{key} = 1"))) + f"{number}"
        line = text.count("\n") + 1
        written = f"'{name}'"
        if kind == "table":
            table = (name,)
            text += f" [ {written} ] # x\n"
            expected[table] = line
        elif kind == "tables":
            table = ("list", tables)
            tables += 1
            text += "[[list]]\n"
            expected[table] = line
        else:
            path = (*table, name) if kind == "pair" else (*table, name, "sub")
            if path in used:
                continue
            used.add(path)
            text += f"{written}{' . sub' if kind == 'dotted' else ''} = {value} # comment\r\n\n"
            expected[path] = line
    found = find_lines(text)
    data = parse(text, "f").data
    assert {key: found.get(key) for key in expected} == expected
    assert set(paths(data)) <= set(found) | {()}


def paths(value, at=()):
    yield at
    for key, part in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from paths(part, (*at, key))


@given(st.one_of(st.text(), st.binary()), st.integers(0, 50))
def test_text_of_strangers_is_printable_and_short(text, limit):
    shown = printable(text, limit)
    assert shown.isprintable()
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp") for character in shown)
    assert len(shown) <= limit + 40


def test_ordinary_text_stays_as_it_is_and_escaped_text_too():
    assert printable("guest 1, größer: 10 µs") == "guest 1, größer: 10 µs"
    assert printable("\x1b]0;T\x07\n") == "\\x1b]0;T\\x07\\n"
    assert printable(printable("\x1b\n")) == "\\x1b\\n"
    assert printable("\u202eabc\ud800") == "\\u202eabc\\ud800"
    assert printable("x" * 500, 10) == "x" * 10 + "... (500 characters)"
