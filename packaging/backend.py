# SPDX-License-Identifier: MIT
"""The build backend: meson-python, but for editable installs.

meson-python's own rebuild the C parts at import, with the ninja of the environment that they were made in; pip throws
that environment away. An editable install of ours is what `make build` makes: a .pth file that points at the tree, and in
the tree the two C parts, built once.
"""

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import mesonpy
from mesonpy import build_sdist, build_wheel, get_requires_for_build_sdist, get_requires_for_build_wheel

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]

_BUILT = ("vfioemu/_kernel.abi3.so", "vfioemu/libvfioemu-preload.so")

get_requires_for_build_editable = get_requires_for_build_wheel


def build_editable(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build the C parts into the tree, and a wheel that points at it."""
    del metadata_directory
    tree = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        built = mesonpy.build_wheel(scratch, config_settings)
        with zipfile.ZipFile(Path(scratch) / built) as wheel:
            for name in _BUILT:
                fresh = tree / f"{name}.new"
                fresh.write_bytes(wheel.read(name))
                fresh.chmod(0o755)
                fresh.rename(tree / name)  # a program that runs keeps the file that it has mapped
    return mesonpy.build_wheel(wheel_directory, {**(config_settings or {}), "setup-args": ["-Ddevelop=true"]})
