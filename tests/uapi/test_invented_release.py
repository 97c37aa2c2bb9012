# SPDX-License-Identifier: MIT
"""A kernel release is one file: what docs/howto/release.md writes down is offered, exercised and documented by itself.

Each test starts a Python in which one more folder is a place where releases are looked for. Nothing else is changed.
"""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.core.calls import KINDS
from tests.core.rules import MADE_OF
from tests.releases import PROFILES
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.profile import FACTS
from vfioemu.uapi.registry import IOCTLS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "howto" / "release.md"
NAME = "linux-7.9"
NEWEST = [*PROFILES][-1]
OTHERS = [name for name in PROFILES if name != NAME]
"""Whoever does what the page says has that release among the real ones."""


@pytest.fixture
def folder(tmp_path):
    """A folder with the file of the page."""
    (block,) = re.findall(r"^   ```python\n(.*?)^   ```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "linux_7_9.py").write_text(textwrap.dedent(block))
    return tmp_path


def python(folder, program, *args):
    """Run a program where the releases of that folder exist; what it printed."""
    found = f"import sys; from vfioemu.uapi import releases; releases.__path__.append({str(folder)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", found + program, *map(str, args)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=280,
        # What it runs are tests of their own; with ten times the examples it would take minutes for each release.
        env={**os.environ, "HYPOTHESIS_PROFILE": "quick"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_tests(folder, chosen, *files):
    """Run the tests of some files whose names have that in them; what pytest told."""
    options = ["-v", "-p", "no:cacheprovider", "-k", chosen, *files]
    return python(folder, "import pytest; sys.exit(pytest.main(sys.argv[1:]))", *options)


def line(page, start):
    (found,) = [text for text in page.splitlines() if text.startswith(start)]
    return found


def test_it_can_be_asked_for(folder):
    for command in ("serve", "run", "conformance"):
        assert NAME in python(folder, "from vfioemu.cli.main import main; main()", command, "--help")


def test_it_is_drawn_by_the_strategies(folder):
    found = python(
        folder,
        "from hypothesis import find; from vfioemu.testing import strategies\n"
        f"found = find(strategies.machines('mtty'), lambda machine: machine.core.spec.profile == {NAME!r})\n"
        "print(found)",
    )

    assert NAME in found


@pytest.mark.slow
def test_it_is_tested(folder):
    """Step by step against the release that it is based on, and by every test that is run for each release."""
    files = [
        "tests/core/base/test_profiles.py",
        "tests/core/type1/test_map_dma.py",
        "tests/core/objects/test_container.py",
    ]

    told = run_tests(folder, NAME, *files)

    assert f"test_each_rule_is_needed[{NAME}: MAP_DMA of what is mapped] PASSED" in told
    assert f"test_releases_differ_where_the_rules_say_so_and_nowhere_else[{NAME}] PASSED" in told
    assert f"test_map_checks_come_in_the_kernels_order[{NAME}] PASSED" in told


def test_the_support_page_says_of_it_what_it_answers_and_of_no_other(folder):
    page = python(folder, "from vfioemu.conformance.answers import matrix; print(matrix())")

    answers = line(page, "| `VFIO_IOMMU_MAP_DMA` | 0x3b71 ")
    assert f"; {NAME}: EBUSY, " in answers
    assert answers.count("EBUSY") == 1
    assert answers.endswith(", not EEXIST) |")
    differ = line(page, "| MAP_DMA of what is mapped already |")
    assert differ.endswith(f"{' | EEXIST' * len(OTHERS)} | EBUSY |")


def test_a_release_that_differs_without_saying_so_is_found(folder):
    """It answers EBUSY, and its description says EEXIST."""
    told = python(
        folder,
        "from dataclasses import replace; from errno import EEXIST\n"
        "from tests.core.lockstep import Disagreement, run\n"
        "from tests.core.base.test_profiles import SHOWN\n"
        "from vfioemu.uapi.profiles import PROFILES\n"
        f"silent = replace(PROFILES[{NAME!r}], map_overlap_errno=EEXIST)\n"
        "try:\n"
        "    run(SHOWN['MAP_DMA of what is mapped'], silent)\n"
        "except Disagreement as error:\n"
        "    print(error)",
    )

    assert f"EBUSY of {NAME} is none of" in told


@pytest.mark.slow
def test_a_release_may_differ_in_any_fact_and_in_any_feature(tmp_path):
    """One release for each fact: it alone has another value; the rules that are there already are enough."""
    for number, fact in enumerate(FACTS):
        value = getattr(PROFILES[NEWEST], fact)
        other = not value if isinstance(value, bool) else "errno.EXDEV"
        invent(tmp_path, f"linux-90.{number}", f"{fact}={other}")
    (feature,) = {name for release in PROFILES.values() for name in release.absent if name.endswith("v2")}
    invent(tmp_path, "linux-91.0", f"absent=BASE.absent | {{{feature!r}}}")

    told = run_tests(tmp_path, "linux-9", "tests/core/base/test_profiles.py")

    assert "FAILED" not in told
    for number in range(len(FACTS)):
        assert re.search(rf"test_each_rule_is_needed\[linux-90\.{number}: .*\] PASSED", told)
    assert "test_each_rule_is_needed[linux-91.0: feature 12 of the core] PASSED" in told


SHOWN = [row for row in IOCTLS if row.name in KINDS or row.name in MADE_OF.values()]
"""The ioctls that the lockstep test makes."""


@pytest.mark.slow
def test_a_release_may_lack_any_ioctl(tmp_path):
    """One release for each ioctl that it alone does not have; what it gets is what an unknown number gets."""
    for number, row in enumerate(SHOWN):
        invent(tmp_path, f"linux-90.{number}", f"absent=BASE.absent | {{{row.name!r}}}")

    told = run_tests(tmp_path, "linux-90 and needed", "tests/core/base/test_profiles.py")

    assert told.count("an ioctl that one of them does not have] PASSED") == len(SHOWN)


def test_the_support_page_says_who_does_not_have_an_ioctl(tmp_path):
    invent(tmp_path, NAME, "absent=BASE.absent | {'VFIO_IOMMU_DIRTY_PAGES'}")

    page = python(tmp_path, "from vfioemu.conformance.answers import matrix; print(matrix())")

    assert f"{NAME}: ENOTTY, not EACCES, not EFAULT" in line(page, "| `VFIO_IOMMU_DIRTY_PAGES` | 0x3b75 ")
    assert line(page, "| `VFIO_IOMMU_DIRTY_PAGES` | yes ").endswith(" | no |")


def test_an_ioctl_that_a_release_does_not_have_is_an_unknown_number(tmp_path):
    """On fds of each kind; what is not needed to come so far."""
    lacking = {
        "VFIO_CHECK_EXTENSION", "VFIO_IOMMU_DIRTY_PAGES", "VFIO_GROUP_GET_STATUS", "VFIO_DEVICE_RESET",
        "VFIO_MIG_GET_PRECOPY_INFO",
    }  # fmt: skip
    invent(tmp_path, NAME, f"absent=BASE.absent | {lacking}")

    told = run_tests(tmp_path, f"{NAME} and numbers_in_no_row", "tests/core/files/test_registry_is_served.py")

    assert told.count(" PASSED") == len(FdKind)


def invent(folder, name, change):
    module = NEWEST.replace("-", "_").replace(".", "_")
    (folder / f"{name.replace('-', '_').replace('.', '_')}.py").write_text(
        "import errno\nfrom dataclasses import replace\n"
        f"from vfioemu.uapi.releases.{module} import PROFILE as BASE\n"
        f"PROFILE = replace(BASE, name={name!r}, base=BASE, {change})\n"
    )
