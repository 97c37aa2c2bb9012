# SPDX-License-Identifier: MIT
"""A kernel release is one file: with `invented/linux_7_9.py` among the others it is offered, exercised and documented.

Each test starts a Python in which that folder is one more place where releases are looked for. Nothing else is changed.
"""

import subprocess
import sys
from pathlib import Path

INVENTED = Path(__file__).parent / "invented"
ROOT = Path(__file__).parents[2]
NAME = "linux-7.9"


def python(program, *args):
    """Run a program where the release exists; what it printed."""
    found = f"import sys; from vfioemu.uapi import releases; releases.__path__.append({str(INVENTED)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", found + program, *map(str, args)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def line(page, start):
    (found,) = [text for text in page.splitlines() if text.startswith(start)]
    return found


def test_it_can_be_asked_for():
    command = "from vfioemu.cli.main import main; main()"

    for name in ("serve", "run", "conformance"):
        assert NAME in python(command, name, "--help")


def test_it_is_drawn_by_the_strategies():
    found = python(
        "from hypothesis import find; from vfioemu.testing import strategies\n"
        f"found = find(strategies.machines('mtty'), lambda machine: machine.core.spec.profile == {NAME!r})\n"
        "print(found)"
    )

    assert NAME in found


def test_it_is_tested():
    """Step by step against the release that it is based on, and by every test that is run for each release."""
    files = ["tests/core/test_profiles.py", "tests/core/test_map_dma.py", "tests/core/test_container.py"]

    told = python(
        "import pytest; sys.exit(pytest.main(sys.argv[1:]))",
        "-v",
        "-p",
        "no:cacheprovider",
        "-k",
        NAME,
        *files,
    )

    assert f"test_each_rule_is_needed[{NAME}: MAP_DMA of what is mapped] PASSED" in told
    assert f"test_releases_differ_where_the_rules_say_so_and_nowhere_else[{NAME}] PASSED" in told
    assert f"test_map_checks_come_in_the_kernels_order[{NAME}] PASSED" in told


def test_the_support_page_says_of_it_what_it_answers_and_of_no_other():
    page = python("from vfioemu.conformance.answers import matrix; print(matrix())")

    assert line(page, "| `VFIO_IOMMU_MAP_DMA` | 0x3b71 ").endswith(
        "| EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, ENOSPC "
        f"(linux-7.2: EOVERFLOW; {NAME}: EBUSY, EOVERFLOW, not EEXIST) |"
    )
    assert line(page, "| MAP_DMA of what is mapped already |").endswith(" | EEXIST | EEXIST | EBUSY |")
    assert f"(profiles `linux-7.2`, `{NAME}`) is in brackets" in page


def test_a_release_that_differs_without_saying_so_is_found():
    """It answers EBUSY, and its description says EEXIST."""
    told = python(
        "from dataclasses import replace; from errno import EEXIST\n"
        "from tests.core.lockstep import Disagreement, run\n"
        "from tests.core.test_profiles import SHOWN\n"
        "from vfioemu.uapi.profiles import PROFILES\n"
        f"silent = replace(PROFILES[{NAME!r}], map_overlap_errno=EEXIST)\n"
        "try:\n"
        "    run(SHOWN['MAP_DMA of what is mapped'], silent)\n"
        "except Disagreement as error:\n"
        "    print(error)"
    )

    assert f"EBUSY of {NAME} is none of" in told
