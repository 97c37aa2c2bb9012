# SPDX-License-Identifier: MIT
"""What somebody gets who installs the wheel instead of using the tree."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.testing.test_promised import promises

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tools(tmp_path):
    """An environment with the venv's programs; pip asks rustc for its version, and rustup makes a folder at home."""
    home = tmp_path / "home"
    home.mkdir()
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home)}


@pytest.mark.full
def test_the_wheel_has_every_file_of_the_package_and_nothing_else(tmp_path, tools):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", tmp_path, ROOT],
        check=True, env=tools,
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
    assert not [name for name in packaged if re.search("fuzz|testing/(model|world|client)|/test_", name)]
    assert packaged == here | {"vfioemu/_kernel.abi3.so", "vfioemu/libvfioemu-preload.so"}


@pytest.mark.full
def test_the_wheel_works_outside_the_tree(tmp_path, tools):
    """Import the installed extension, with the packages of this environment but not its vfioemu."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--target", tmp_path / "site", ROOT],
        check=True, env=tools,
    )  # fmt: skip
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); "
        "import vfioemu.uapi.structs, vfioemu._kernel as k; print(k.__file__, k.ffi.sizeof('uint64_t'))\n"
    ) + "".join(f"from {module} import {name}\n" for module, name in promises())

    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout

    assert printed.split() == [str(tmp_path / "site" / "vfioemu" / "_kernel.abi3.so"), "8"]


@pytest.mark.full
def test_an_editable_install_works_when_what_built_it_is_gone(tmp_path, tools):
    """From another directory, by a pip that builds in an environment of its own."""
    tree, site = tmp_path / "tree", tmp_path / "site"
    subprocess.run(["git", "clone", "--quiet", ROOT, tree], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, "--editable", tree],
        check=True, env=tools, cwd=tmp_path,
    )  # fmt: skip
    program = (
        f"import site; site.addsitedir({str(site)!r}); import sys; sys.path.reverse(); "
        "import vfioemu._kernel as k, vfioemu.preload as p; print(k.__file__, p.library())"
    )

    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout

    inside = tree / "vfioemu"
    assert printed.split() == [str(inside / "_kernel.abi3.so"), str(inside / "libvfioemu-preload.so")]
