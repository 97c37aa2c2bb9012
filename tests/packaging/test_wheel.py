# SPDX-License-Identifier: MIT
"""What somebody gets who installs the wheel instead of using the tree."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.mark.full
def test_the_wheel_has_every_file_of_the_package_and_nothing_else(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", tmp_path, ROOT],
        check=True, env=TOOLS,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    contents = zipfile.ZipFile(wheel).namelist()

    assert "-abi3-linux_" in wheel.name
    packaged = {name for name in contents if not name.startswith("vfioemu-")}
    here = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "vfioemu").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert packaged == here | {"vfioemu/_kernel.abi3.so", "vfioemu/libvfioemu-preload.so"}


@pytest.mark.full
def test_the_wheel_works_outside_the_tree(tmp_path):
    """Import the installed extension, with the packages of this environment but not its vfioemu."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--target", tmp_path / "site", ROOT],
        check=True, env=TOOLS,
    )  # fmt: skip
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); "
        "import vfioemu.uapi.structs, vfioemu._kernel as k; print(k.__file__, k.ffi.sizeof('uint64_t'))"
    )

    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout

    assert printed.split() == [str(tmp_path / "site" / "vfioemu" / "_kernel.abi3.so"), "8"]
