# SPDX-License-Identifier: MIT
"""docs/testing.md: each example runs, as a project of somebody else; and the planted bug of one is found."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vfioemu import preload

PAGE = (Path(__file__).parents[2] / "docs/testing.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```python\n# ([a-z_]+\.py)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
TESTS = sorted(name for name in FILES if name.startswith("test_"))
SETTINGS = """
[pytest]
trio_mode = true
filterwarnings = error
addopts = --strict-markers -p no:cacheprovider
"""

SLOW = """
import time
from unittest import mock
from hypothesis import given, strategies as st

clock = [time.perf_counter()]

def draw(value):
    clock[0] += 2
    return value

def test_slow():
    with mock.patch("time.perf_counter", lambda: clock[0]):
        check()

@given(st.integers().map(draw))
def check(value):
    pass
"""


def there_is_a_preload_library():
    try:
        preload.library()
    except FileNotFoundError:
        return False
    return True


def project(folder, **changes):
    for name, text in {**FILES, **changes}.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "pytest.ini").write_text(SETTINGS, encoding="utf-8")


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)},
    )


def test_there_are_examples():
    assert {
        "test_program.py",
        "test_in_memory.py",
        "test_migration.py",
        "test_guestmap.py",
        "test_my_server.py",
    } == set(TESTS)


@pytest.mark.parametrize("name", TESTS)
def test_example_passes(tmp_path, name):
    if name == "test_program.py" and not there_is_a_preload_library():
        pytest.skip("the preload library is not built")
    project(tmp_path)

    done = run(tmp_path, name)

    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_planted_bug_of_a_client_is_found(tmp_path):
    wrong = FILES["guestmap.py"].replace("last + 1)", "last)")
    assert wrong != FILES["guestmap.py"]
    project(tmp_path, **{"guestmap.py": wrong})

    done = run(tmp_path, "test_guestmap.py")

    assert done.returncode == 1
    assert re.search("Falsifying example|Failing test case", done.stdout)


def test_a_busy_machine_fails_no_example(tmp_path):
    """Drawing is slow here, by a clock that jumps: what README's users copy must not mind, as ours do not."""
    project(tmp_path)
    (tmp_path / "test_slow.py").write_text(SLOW, encoding="utf-8")

    assert run(tmp_path, "test_slow.py").returncode == 0
    (tmp_path / "conftest.py").unlink()  # the control
    assert "FailedHealthCheck" in run(tmp_path, "test_slow.py").stdout
