# SPDX-License-Identifier: MIT
"""What must be true of every file."""

import re
from pathlib import Path

import pytest

from vfioemu.uapi.profiles import PROFILES

ROOT = Path(__file__).parents[2]
LICENSED = {".py", ".pyi", ".c", ".h", ".toml", ".build", ".options", ".sh"}
NO_LICENSE_LINE = {"pyproject.toml"}
LONGEST = 600


FOLDERS = ("bench", "csrc", "packaging", "protocol", "tests", "vfioemu")


def sources():
    return [
        file
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]


@pytest.fixture(scope="module")
def files():
    found = sources()
    assert len(found) > 50
    return found


def test_every_source_names_its_license_first(files):
    missing = [
        str(file.relative_to(ROOT))
        for file in files
        if file.suffix in LICENSED
        and file.name not in NO_LICENSE_LINE
        and "SPDX-License-Identifier: MIT" not in "".join(file.read_text().splitlines(keepends=True)[:2])
    ]

    assert missing == []


def test_no_module_is_too_long_to_have_one_reason_to_exist(files):
    long = {
        str(file.relative_to(ROOT)): lines
        for file in files
        if file.suffix in {".py", ".c", ".h"}
        and (lines := len(file.read_text().splitlines())) > LONGEST
        and "tests" not in file.parts
        and not file.name.startswith("test_")
    }

    assert long == {}


def test_no_unfinished_business(files):
    word = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in files
        if file.suffix in {".py", ".c", ".h"} and file != Path(__file__)
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if word.search(line)
    ]

    assert found == []


def test_nothing_names_two_kernel_releases(files):
    """Whoever names two of them has forgotten the third: the list is `vfioemu.uapi.profiles.PROFILES`."""
    spelled = {
        name: re.compile(name.replace("-", "[-_]").replace(".", "[._]"), re.IGNORECASE) for name in PROFILES
    }
    found = {}
    for file in files:
        if file.suffix not in {".py", ".c", ".h", ".toml", ".sh"} or file.parent.name == "releases":
            continue
        named = [name for name, pattern in spelled.items() if pattern.search(file.read_text())]
        if len(named) > 1:
            found[str(file.relative_to(ROOT))] = named

    assert found == {}
