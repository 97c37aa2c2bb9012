# SPDX-License-Identifier: MIT
"""What README and the pages tell people to type works as it is pasted, and prints what they show."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.docs.blocks import NOT_HERE, PAGES, ROOT, blocks
from tests.sample import sampled

ALL = blocks()
HERE = [block for block in ALL if not block.why_not]
END = "--- end of step"


@pytest.fixture
def shell():
    """A bash as of a new login, in a tree like this one whose build/ is its own."""
    with tempfile.TemporaryDirectory(prefix="vfd-") as name:
        base = Path(name)
        tree, home, runtime = base / "c", base / "h", base / "r"
        for place in (tree, home, runtime, tree / "build"):
            place.mkdir(0o700)
        for path in ROOT.iterdir():
            if path.name != "build":
                (tree / path.name).symlink_to(path)
        environment = {
            "HOME": os.fspath(home),
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "XDG_RUNTIME_DIR": os.fspath(runtime),
            "TMPDIR": os.environ["TMPDIR"],
        }

        def run(script):
            return on_a_terminal(["bash", "--norc", "--noprofile", "-c", script], tree, environment)

        yield run
        for directory in [
            *(tree / "build").iterdir(),
            *runtime.glob("vfioemu/*"),
        ]:  # of a block that has failed
            if (directory / "control.sock").exists():
                run(f"vfioemu stop --runtime-dir {directory}")
        assert list(home.iterdir()) == []


def on_a_terminal(line, cwd, environment):
    """What is printed, in the order in which people see it."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        line, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    ):
        os.close(theirs)
        printed = b""
        with contextlib.suppress(OSError):  # EIO: everybody has closed it
            while data := os.read(ours, 65536):
                printed += data
    os.close(ours)
    return printed.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    "page", sampled(sorted({block.page for block in HERE}, key=lambda page: (page != "README.md", page)))
)
def test_page_works_as_it_is_pasted(shell, page):
    """From its top to its end, in one shell, as people do who read it."""
    steps = [step for block in HERE if block.page == page for step in block.steps]
    printed = shell("".join(f"{step.command}\necho; echo '{END}' $?\n" for step in steps))
    parts = re.split(rf"^{END} (\d+)\n", printed, flags=re.MULTILINE)
    assert len(parts) == 2 * len(steps) + 1, printed
    for step, said, status in zip(steps, parts[::2], parts[1::2], strict=False):
        assert status == "0", f"{step.command}: {said}"
        step.check(said)


def test_those_that_are_not_run_here_are_there():
    firsts = [block.steps[0].command for block in ALL]
    for begin, why in NOT_HERE.items():
        assert why
        assert any(first.startswith(begin) for first in firsts), f"no page has {begin!r} any more"


def test_no_page_has_commands_in_another_form():
    """A daemon with & is not ready when the next line is typed; a block without a language is run by nobody."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"^\$ vfioemu serve (?!.*--background).*$", text, re.MULTILINE), page
        for fence in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if fence[1] in ("", "sh", "bash", "shell"):
                assert not re.search(r"^(\$ )?(vfioemu|make|python|pip) ", fence[2], re.MULTILINE), fence[0]


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_c_examples_compile_without_a_warning(tmp_path):
    for source in sorted((ROOT / "docs/examples").glob("*.c")):
        with contextlib.chdir(tmp_path):
            subprocess.run(["cc", "-Wall", "-Wextra", "-Werror", "-o", source.stem, source], check=True)
