# SPDX-License-Identifier: MIT
"""tests/README.md: its folders, markers and fixtures are those that there are, and its commands find tests."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
README = (TESTS / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ \.venv/bin/python -m pytest (.*)$", README, re.MULTILINE)


def section(title):
    return README.partition(f"## {title}\n")[2].partition("\n## ")[0]


def rows(text):
    """The first and the last cell of each row of the tables."""
    found = re.findall(r"^\| (`.*?) \| (?:.* \| )?(.*) \|$", text, re.MULTILINE)
    return [(re.findall(r"`([^`]+)`", first), last) for first, last in found]


def test_every_folder_is_there():
    places = {path.relative_to(TESTS).parts[:-1] for path in TESTS.rglob("test_*.py")} - {()}
    folders = {"/".join(parts[: 2 if parts[0] == "system" else 1]) for parts in places}

    assert {name.strip("/") for names, _ in rows(section("What is where")) for name in names} == folders


def test_markers_are_those_of_the_project():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]
    markers = {line.partition(":")[0] for line in settings["ini_options"]["markers"]}

    assert {name for names, _ in rows(section("How to run some")) for name in names} == markers


def test_fixtures_are_where_it_says():
    for names, where in rows(section("Fixtures")):
        (place,) = re.findall(r"`([\w/]+\.py)`", where)[:1]
        path = ROOT / place if place.startswith("vfioemu/") else TESTS / place
        fixtures = re.findall(
            r"^@pytest\.fixture.*\n(?:@.*\n)*(?:async )?def (\w+)", path.read_text(), re.MULTILINE
        )
        assert sorted(names) == sorted(set(fixtures)), place


@pytest.mark.parametrize("command", COMMANDS)
def test_command_finds_tests(command):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *shlex.split(command),
            "--collect-only",
            "-q",
            "-p",
            "no:cacheprovider",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )

    assert done.returncode == 0, done.stdout
