# SPDX-License-Identifier: MIT
"""Where the QEMUs and the guest's parts are that `tests/system/interop/fetch` gets, and how each QEMU is started."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VERSIONS: Final = ("7.2", "10.0", "11")
SYSTEM: Final = "qemu-system-x86_64"
FETCH: Final = "tests/system/interop/fetch"


class MissingError(Exception):
    """Something that has to be fetched or installed first; the text says how."""


@dataclass(frozen=True, slots=True)
class Qemu:
    """One QEMU.

    Attributes:
        generation: one of VERSIONS.
        version: what `--version` says.
        argv: how it is started; options follow.
        environment: what it needs besides.
    """

    generation: str
    version: str
    argv: Sequence[str]
    environment: Mapping[str, str]


def cache() -> Path:
    """Where fetch puts things."""
    base = os.environ.get("VFIOEMU_CACHE")
    if base is None:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "vfioemu")
    return Path(base) / "interop"


def qemu(generation: str) -> Qemu:
    """The QEMU of a generation: the system's, if it is of that, or else the one that was fetched.

    Raises:
        MissingError: there is none.
    """
    system = shutil.which(SYSTEM)
    if system is not None:
        found = _versioned(generation, [system], {})
        if found is not None:
            return found
    folder = cache() / generation
    try:
        argv = (folder / "argv").read_text(encoding="utf-8").replace("{}", str(folder)).splitlines()
    except FileNotFoundError:
        raise MissingError(f"QEMU {generation} is not here: {FETCH} {generation}") from None
    found = _versioned(
        generation, argv, {"QEMU_MODULE_DIR": str(folder / "root/usr/lib/x86_64-linux-gnu/qemu")}
    )
    if found is None:
        raise MissingError(f"{folder} is not QEMU {generation}: remove it, then {FETCH} {generation}")
    return found


def _versioned(generation: str, argv: Sequence[str], environment: Mapping[str, str]) -> Qemu | None:
    text = subprocess.run([*argv, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"version (\S+)(?: \(Debian ([^)]+)\))?", text)
    if version is None or not version[1].startswith(generation + "."):
        return None
    package = f" (Debian {version[2]})" if version[2] else ""
    return Qemu(generation, version[1] + package, tuple(argv), environment)


def guest_files() -> Path:
    """The root in which the guest's packages were unpacked.

    Raises:
        MissingError: it is not there.
    """
    root = cache() / "guest" / "root"
    if not root.is_dir():
        raise MissingError(f"there is no guest kernel: {FETCH} guest")
    return root
