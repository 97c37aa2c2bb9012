# SPDX-License-Identifier: MIT
"""A program that is started by way of its dynamic linker."""

import shutil
from pathlib import Path

import pytest

from vfioemu import preload
from vfioemu.cli import program
from vfioemu.cli.errors import CommandError

LOADERS = sorted(Path("/").glob("lib64/ld-linux-*.so.2"))


@pytest.mark.skipif(not LOADERS, reason="this system's dynamic linker is not glibc's for 64 bits")
def test_the_dynamic_linker_is_a_program_that_can_be_preloaded() -> None:
    command = (str(LOADERS[0]), "/bin/true")
    assert program.find(command, preload.library()).arguments == command


@pytest.mark.skipif(not LOADERS, reason="this system's dynamic linker is not glibc's for 64 bits")
def test_another_program_without_a_dynamic_linker_is_refused(tmp_path: Path) -> None:
    static = tmp_path / "static"
    shutil.copy(LOADERS[0], static)
    with pytest.raises(CommandError, match="statically linked"):
        program.find((str(static),), preload.library())
