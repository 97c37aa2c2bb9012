# SPDX-License-Identifier: MIT
"""The guest: Debian's kernel, and an initramfs of busybox, a few modules and this folder's C programs.

The initramfs is made in the cache, under a name that changes with what is in it.
"""

import gzip
import hashlib
import lzma
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.system.interop.programs import cache, guest_files
from vfioemu.abi import dma_engine as engine

SOURCES: Final = Path(__file__).parent / "guest"
PROGRAMS: Final = ("loopback", "dma", "ring", "msix")
MODULES: Final = ("irqbypass", "vfio", "vfio_iommu_type1", "vfio-pci-core", "vfio-pci")
"""In the order of insmod."""
_COMPILE: Final = ("cc", "-std=c11", "-O2", "-static", "-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True, slots=True)
class GuestImage:
    """What QEMU boots.

    Attributes:
        kernel: the bzImage.
        initrd: the initramfs.
        release: the kernel's version.
    """

    kernel: Path
    initrd: Path
    release: str


def guest_image() -> GuestImage:
    """The guest, made if it is not there yet."""
    root = guest_files()
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    release = kernel.name.removeprefix("vmlinuz-")
    header = _engine_header().encode()
    identity = hashlib.sha256(release.encode() + header + Path(__file__).read_bytes())
    for source in sorted(SOURCES.iterdir()):
        identity.update(source.name.encode() + b"\0" + source.read_bytes())
    initrd = cache() / f"initrd-{identity.hexdigest()[:16]}.gz"
    if not initrd.exists():
        with tempfile.TemporaryDirectory(prefix="vfioemu-") as work:
            files = _files(root, release, header, Path(work))
            fresh = Path(f"{initrd}.{os.getpid()}")
            fresh.write_bytes(gzip.compress(b"".join(_cpio(files)), 6, mtime=0))
            fresh.rename(initrd)
    return GuestImage(kernel, initrd, release)


def _engine_header() -> str:
    """The engine's registers for C, from the one place where they are written down."""
    lines = [f"#define ENGINE_{register.name} {register.value:#x}" for register in engine.Register]
    lines += [f"#define ENGINE_COMMAND_{command.name} {command.value}" for command in engine.Command]
    magic = int.from_bytes(engine.STAMP_MAGIC, "little")
    lines += [
        f"#define ENGINE_ID_VALUE {engine.ENGINE_ID:#x}ull",
        f"#define ENGINE_CONTROL_RUN {engine.CONTROL_RUN}",
        f"#define ENGINE_BAR_SIZE {engine.BAR_SIZE:#x}ul",
        f"#define ENGINE_RING_TABLE {engine.RING_OFFSET:#x}ul",
        f"#define ENGINE_STAMP_MAGIC {magic:#x}ull",
    ]
    return "\n".join(lines) + "\n"


def _files(root: Path, release: str, header: bytes, work: Path) -> dict[str, bytes]:
    (work / "engine_regs.h").write_bytes(header)
    files = {
        "init": (SOURCES / "init").read_bytes(),
        "bin/busybox": (root / "usr/bin/busybox").read_bytes(),
        "modules/order": "".join(f"{name}.ko\n" for name in MODULES).encode(),
    }
    for program in PROGRAMS:
        sources = [SOURCES / f"{program}.c", SOURCES / "guest.c"]
        subprocess.run([*_COMPILE, f"-I{work}", "-o", work / program, *sources], check=True)
        files[f"bin/{program}"] = (work / program).read_bytes()
    modules = {file.name: file for file in (root / "usr/lib/modules" / release).rglob("*.ko.xz")}
    for name in MODULES:
        files[f"modules/{name}.ko"] = lzma.decompress(modules[f"{name}.ko.xz"].read_bytes())
    return files


def _cpio(files: Mapping[str, bytes]) -> Iterator[bytes]:
    """The "newc" archive of files, with the folders that they are in (Linux: usr/gen_init_cpio.c)."""
    folders = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    entries = [(folder, stat.S_IFDIR | 0o755, b"") for folder in sorted(folders | {"dev"})]
    entries += [(name, stat.S_IFREG | 0o755, data) for name, data in files.items()]
    entries.append(("TRAILER!!!", 0, b""))
    for inode, (name, mode, data) in enumerate(entries, 1):
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        yield b"070701" + b"".join(b"%08X" % field for field in fields)
        yield name.encode() + b"\0" + bytes(-(110 + len(name) + 1) % 4)
        yield data + bytes(-len(data) % 4)
