# SPDX-License-Identifier: MIT
"""The import contracts of pyproject.toml find what they are there for: negative controls."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

WRONG = {
    # A type is an import like any other: it is what had made one knot of the core.
    "core/memory/rbtree.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vfioemu.core.objects.group import Group\n",
    # Two modules of one room that know each other, one of them by a type alone.
    "core/base/locks.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vfioemu.core.base.effects import Steps\n",
    "core/base/bits.py": "import mmap\n",
}
BROKEN = {
    "the rooms of the core import downwards, types included",
    "no circle in the core, types included",
    "the core and the uapi do no I/O",
}


def broken(folder):
    """The names of the contracts that a copy of the package breaks."""
    script = (
        "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as run; run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False
    )
    lines = [line.removesuffix(" BROKEN") for line in done.stdout.splitlines() if line.endswith(" BROKEN")]
    assert done.returncode == bool(lines), done.stdout + done.stderr
    assert " KEPT" in done.stdout, done.stdout + done.stderr
    return set(lines)


def test_a_wrong_import_breaks_its_contract(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        ROOT / "vfioemu", tmp_path / "vfioemu", ignore=shutil.ignore_patterns("__pycache__", "*.so")
    )
    for path, line in WRONG.items():
        module = tmp_path / "vfioemu" / path
        module.write_text(module.read_text() + line)

    assert broken(tmp_path) == BROKEN
