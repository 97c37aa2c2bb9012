# SPDX-License-Identifier: MIT
"""Guest files: what is wrong is told with line, key and choices, and nothing that is wrong passes."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.migration.guestcheck import mistakes
from vfioemu.migration.guestfile import GuestFileError, load_guest, parse_guest
from vfioemu.sizes import SizeError, parse_size

DOCS = Path(__file__).parents[2] / "docs" / "migration.md"
MEMORY = '[[memory]]\nname = "low"\nsize = "1 MiB"\n'
CPU = MEMORY + '[[cpu]]\nmemory = "low"\n'
DEVICE = MEMORY + '[[container]]\nname = "c0"\n[[container.device]]\nname = "d0"\ngroup = 12\ndevice = "x"\n'


def example():
    """The file in docs/migration.md, in which every key is."""
    return next(
        text for text in re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL) if "[[cpu]]" in text
    )


def test_file_in_the_documentation_is_one_and_has_every_key():
    spec = parse_guest(example())
    assert spec.memory[0].npages == 192 << 8
    keys = set(re.findall(r"^([a-z-]+) =", example(), re.MULTILINE))
    tables = (spec, spec.memory[0], spec.cpu[0], spec.container[0].device[0])
    program = spec.container[0].device[0].program
    fields = {name.replace("_", "-") for table in (*tables, program) for name in table.__struct_fields__}
    assert fields - {"memory", "cpu", "container", "device", "program"} <= keys


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "g: memory: is missing"),
        ("memory = []", "g:1: memory: is empty"),
        (
            CPU + "rat = 3",
            "g:6: cpu[0].rat: no such key; did you mean rate? (memory, offset, pattern, rate, size)",
        ),
        (
            CPU + 'pattern = "hott"',
            'g:6: cpu[0].pattern: there is no "hott"; did you mean hot? (hot, sweep, uniform)',
        ),
        (CPU + "rate = inf", "g:6: cpu[0].rate: inf is out of range, expected <= 1000000"),
        (CPU + "rate = nan", "g:6: cpu[0].rate: nan is out of range"),
        (CPU + "rate = -1", "g:6: cpu[0].rate: -1 is out of range"),
        (CPU + "offset = -4096", "g:6: cpu[0].offset: -4096 is out of range, expected 0 to"),
        (CPU + "offset = 100", "g:6: cpu[0].offset: 100 is not a multiple of the page size, 4096"),
        (
            CPU + 'size = "2 MiB"',
            "g:6: cpu[0].size: 0x0 to 0x200000 is not within memory low, which has 0x100000 bytes",
        ),
        (
            CPU + 'offset = "1 MiB"',
            "g:6: cpu[0].offset: 0x100000 is not within memory low, which has 0x100000 bytes",
        ),
        (CPU + "size = 0", "g:6: cpu[0].size: 0 is out of range"),
        (CPU + 'size = "large"', "g:6: cpu[0].size: 'large' is not a size; try 64MiB"),
        (
            MEMORY + '[[cpu]]\nmemory = "lo"',
            'g:5: cpu[0].memory: there is no memory "lo"; did you mean low? (low)',
        ),
        (MEMORY + MEMORY, 'g:5: memory[1].name: there is a memory "low" already'),
        (
            MEMORY + '[[memory]]\nname = "b"\nsize = 4096',
            "g:4: memory[1].base: 0x0 is in memory low, which ends at 0x100000",
        ),
        (MEMORY + "base = 5", "g:4: memory[0].base: 5 is not a multiple of the page size"),
        (
            MEMORY + "base = 0xfffffffff000",
            "g:3: memory[0].size: memory low ends at 0x10000000ff000, above 2^48",
        ),
        (MEMORY + "zero = 90\ntext = 20", "g:1: memory[0]: zero, text and random are 140 of 100 pages"),
        (MEMORY + "zero = 101", "g:4: memory[0].zero: 101 is out of range, expected <= 100"),
        (
            '[[memory]]\nname = "a"\nsize = 4097',
            "g:3: memory[0].size: 4097 is not a multiple of the page size, 4096",
        ),
        ('[[memory]]\nname = "a"\nsize = "' + "9" * 400 + '"', "g:3: memory[0].size: '9999"),
        ('[[memory]]\nname = "a"\nsize = 1' + "0" * 30, "g:3: memory[0].size: "),
        (
            '[[memory]]\nname = "a"\nsize = true',
            "g:3: memory[0].size: expected an integer or a string, got true",
        ),
        ('[[memory]]\nname = ""\nsize = 4096', "g:2: memory[0].name: is empty"),
        (
            '[[memory]]\nname = " a"\nsize = 4096',
            'g:2: memory[0].name: " a" has characters that cannot be printed',
        ),
        ('[[memory]]\nname = "\\u001b[2J"\nsize = 4096', 'g:2: memory[0].name: "\\x1b[2J" has characters'),
        ('[[memory]]\nname = "\\u0000"\nsize = 4096', 'g:2: memory[0].name: "\\x00" has characters'),
        ("[memory]\nname = 'a'", "g:1: memory: a list of tables is expected: write [[memory]]"),
        ('name = "a"\nname = "b"', "g:2: name is defined twice"),
        (f"seed = {1 << 70}\n" + MEMORY, "g:1: seed: "),
        ("seed = -1\n" + MEMORY, "g:1: seed: -1 is out of range, expected >= 0"),
        (DEVICE.replace("12", "-1"), "g:8: container[0].device[0].group: -1 is out of range, expected >= 0"),
        (DEVICE.replace("12", str(1 << 31)), "g:8: container[0].device[0].group: 2147483648 is out of range"),
        (
            DEVICE.replace("12", '"x"'),
            'g:8: container[0].device[0].group: expected an integer, got a string "x"',
        ),
        (
            DEVICE + '[[container.device]]\nname = "d0"\ngroup = 12\ndevice = "y"\n',
            'g:11: container[0].device[1].name: there is a device "d0" already',
        ),
        (
            DEVICE + '[[container.device]]\nname = "d1"\ngroup = 12\ndevice = "x"\n',
            "g:13: container[0].device[1].device: x of group 12 is device d0 already",
        ),
        (
            DEVICE
            + '[[container]]\nname = "c1"\n[[container.device]]\nname = "d1"\ngroup = 12\ndevice = "y"\n',
            "g:14: container[1].device[0].group: group 12 is in container c0 already, and a group is in one container",
        ),
        (
            DEVICE + '[[container]]\nname = "c0"\n',
            'g:11: container[1].name: there is a container "c0" already',
        ),
        (
            DEVICE + '[container.device.program]\nmemory = "hi"\n',
            'g:11: container[0].device[0].program.memory: there is no memory "hi"; expected low',
        ),
        (
            DEVICE + '[container.device.program]\nmemory = "low"\npin = "some"\n',
            'g:12: container[0].device[0].program.pin: there is no "some"; expected one of keep, none, window',
        ),
        (
            DEVICE + f'[container.device.program]\nmemory = "low"\npin-pages = {1 << 64}\n',
            "g:12: container[0].device[0].program.pin-pages: ",
        ),
        (
            DEVICE + '[container.device.program]\nmemory = "low"\nwrite_size = 64\n',
            "g:12: container[0].device[0].program.write_size: no such key; did you mean write-size?",
        ),
        ("profile = 'linux-6.12'\n[[group]]\nnumber = 1", "g:1: profile: no such key"),
    ],
)
def test_mistake_is_told_with_line_and_key(text, says):
    with pytest.raises(GuestFileError) as error:
        parse_guest(text, "g")
    assert str(error.value).startswith(says)
    assert str(error.value).isprintable()


def test_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(GuestFileError, match="none: No such file or directory"):
        load_guest(tmp_path / "none")
    with pytest.raises(GuestFileError, match="Is a directory"):
        load_guest(tmp_path)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64 MiB", 64 << 20), ("1.5g", 3 << 29), ("0.1k", 102), ("5", 5), ("7b", 7), (12, 12), ("2TB", 2 << 40)],
)
def test_sizes_are_exact(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1e3", "0x10", "\u0661", "1" * 21, "1 PiB", "MiB", "1..5"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(SizeError):
        parse_size(text)


VALUES = st.one_of(
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.booleans(),
    st.text(max_size=5),
    st.sampled_from(["1 MiB", "low", "hot", "none", 4096, 8192, 0]),
)
LINES = st.tuples(
    st.sampled_from(
        [
            "name",
            "size",
            "base",
            "zero",
            "rate",
            "offset",
            "memory",
            "pattern",
            "group",
            "device",
            "pin",
            "seed",
        ]
    ),
    VALUES,
)


@given(
    st.lists(
        st.one_of(st.sampled_from(["[[memory]]", "[[cpu]]", "[[container]]", "[[container.device]]"]), LINES)
    )
)
def test_no_file_is_anything_but_a_guest_or_a_mistake(lines):
    text = ""
    for line in lines:
        text += line if isinstance(line, str) else f"{line[0]} = {toml(line[1])}"
        text += "\n"
    try:
        spec = parse_guest(text)
    except GuestFileError as error:
        said = str(error)
    else:
        assert not list(mistakes(spec))
        said = "a guest"
    assert said.isprintable()


def toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value if not 0xD800 <= ord(c) < 0xE000) + '"'
    return str(value)
