# SPDX-License-Identifier: MIT
"""Each skip in the tests has its line in tests/skips.py, what can be installed has one in .ci/install, and CI sees the rest."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.skips import BUILT, DEFENDED, INSTALLED

ROOT = Path(__file__).parents[2]
TESTS = [path for path in sorted((ROOT / "tests").rglob("*.py")) if path != Path(__file__)]
TABLE = dict(
    re.findall(
        r"^\t+need (?:build|tests) +(\S+) +(.*?)(?: +#.*)?$", (ROOT / ".ci/install").read_text(), re.MULTILINE
    )
)
SAID_BY_SOMEBODY_ELSE = {"str(missing)": ["QEMU 7.2 is not here"]}
"""Reasons that are no text, as they are written, and examples of what they say."""


def words(node):
    """What a reason says, and {} for what it fills in; or how it is written."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(text_of(part) if isinstance(part, ast.Constant) else "{}" for part in parts)
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)))):
            return text
        case _:
            return ast.unparse(node)


def text_of(node):
    """What a string says that is written out."""
    assert isinstance(node, ast.Constant), ast.unparse(node)
    assert isinstance(node.value, str), node.value
    return node.value


def reasons(source):
    """The reasons for which a file of tests skips."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name == "pytest.skip":
            yield words(node.args[0])
        elif name == "pytest.mark.skipif":
            yield from (words(keyword.value) for keyword in node.keywords if keyword.arg == "reason")
        elif name == "pytest.importorskip":
            yield f"could not import {text_of(node.args[0])!r}"
        elif name == "pytest.mark.vfioemu_requires":
            yield from (f"{text_of(argument)} is not installed" for argument in node.args)
        elif name == "tools":  # tests/system/run/test_tools.py
            yield from (
                f"not installed: {text_of(argument)}"
                for argument in node.args
                if isinstance(argument, ast.Constant)
            )


def known(reason):
    """Whether tests/skips.py has it; one that names a program, if it has that with any."""
    tables = [*DEFENDED, *INSTALLED, *BUILT]
    fixed = reason.partition("{}")[0]
    return any(part in reason or (fixed and "{}" in reason and part.startswith(fixed)) for part in tables)


def all_reasons():
    for path in TESTS:
        for reason in reasons(path.read_text(encoding="utf-8")):
            for said in SAID_BY_SOMEBODY_ELSE.get(reason, [reason]):
                yield path.relative_to(ROOT), said


def test_every_skip_is_defended_or_installed():
    unknown = [f"{path}: {reason}" for path, reason in all_reasons() if not known(reason)]

    assert unknown == []


def test_a_skip_that_nobody_knows_is_seen():
    source = """
pytest.skip("there is no frobnicator")
pytest.skip(f"{tool} is nowhere")
pytest.mark.skipif(not shutil.which("tcc"), reason="there is no tcc")
pytest.importorskip("frobnicator")
tools("virtfrob")
"""
    found = list(reasons(source))

    assert len(found) == 5
    assert not any(map(known, found))


SKIPPERS = {"pytest.skip", "pytest.importorskip", "need_two_users"}


def skips_without_a_reason(source):
    """The asynchronous tests that skip within: pytest-trio loses the reason, which is to be printed."""
    return [
        test.name
        for test in ast.walk(ast.parse(source))
        if isinstance(test, ast.AsyncFunctionDef)
        for node in ast.walk(test)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in SKIPPERS
    ]


def test_no_reason_is_lost_in_an_asynchronous_test():
    found = {str(path): skips_without_a_reason(path.read_text(encoding="utf-8")) for path in TESTS}

    assert {path: tests for path, tests in found.items() if tests} == {}
    assert skips_without_a_reason("async def test_it():\n    pytest.skip('why')\n") == ["test_it"]


def test_no_line_is_of_a_skip_that_is_no_more():
    found = [reason for _, reason in all_reasons()]
    filled = [reason.partition("{}")[0] for reason in found if reason.partition("{}")[1]]
    stale = [
        part
        for part in [*DEFENDED, *INSTALLED, *BUILT]
        if not any(part in reason for reason in found)
        and not any(text and part.startswith(text) for text in filled)
    ]

    assert stale == []


def test_what_can_be_installed_is_in_the_table_of_ci():
    assert set(INSTALLED.values()) <= TABLE.keys()
    assert all(TABLE.values())


INSTALLABLE, UNAVOIDABLE = "there is no rustc", "needs root: there is no other way"


@pytest.mark.parametrize(
    ("reason", "options", "status"),
    [
        (INSTALLABLE, ["--defended-skips", "-n0"], 1),
        (INSTALLABLE, ["--defended-skips", "-n1"], 1),
        (INSTALLABLE, ["-n0"], 0),
        (UNAVOIDABLE, ["--defended-skips", "-n0"], 0),
    ],
)
def test_ci_fails_when_a_test_is_skipped_for_what_could_be_installed(tmp_path, reason, options, status):
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "conftest.py").write_text(
        "from tests import skips\npytest_addoption = skips.pytest_addoption\n"
        "def pytest_configure(config):\n"
        "    hasattr(config, 'workerinput') or config.pluginmanager.register(skips.Guard())\n"
    )
    (tmp_path / "test_it.py").write_text(
        f"import pytest\ndef test_good(): pass\n@pytest.mark.skipif(True, reason={reason!r})\ndef test_skipped(): pass\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--basetemp",
            "t",
            *options,
            "test_it.py",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert ("test_skipped: Skipped: there is no rustc" in done.stdout.replace("\n", "")) == bool(status)
