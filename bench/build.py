# SPDX-License-Identifier: MIT
"""Compiles C clients of the daemon into build/bench/, when what is there is older than its sources."""

import os
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE.parent / "build" / "bench"
SHARED = ("floor.c", "wire_client.c")
HEADERS = ("floor.h", "wire_client.h", "../protocol/vfioemu_wire.h")


def program(name: str, folder: Path = HERE) -> Path:
    """Compile `name`.c of a folder; return the program, which may run while another process compiles it again."""
    OUT.mkdir(parents=True, exist_ok=True)
    target = OUT / name
    sources = [folder / f"{name}.c", *(HERE / file for file in SHARED)]
    newest = max(file.stat().st_mtime for file in [*sources, *(HERE / header for header in HEADERS)])
    if not target.exists() or target.stat().st_mtime < newest:
        fresh = OUT / f".{name}.{os.getpid()}"
        command = ["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-I", str(HERE), "-o", str(fresh)]
        subprocess.run([*command, *(str(file) for file in sources)], check=True)
        fresh.rename(target)
    return target
