# SPDX-License-Identifier: MIT
"""Check that LD_PRELOAD can reach a program before it is started, as the dynamic linker would fail silently."""

import errno
import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vfioemu.cli import elf
from vfioemu.cli.errors import CommandError

CANNOT_RUN: Final = 126
NOT_FOUND: Final = 127

_HEADER: Final = struct.Struct("=16sHHIQQQIHHH")
_CLASS: Final = 4
_64_BITS: Final = 2
_MACHINES: Final = {
    3: "i386",
    8: "MIPS",
    20: "PowerPC",
    21: "PowerPC 64",
    22: "s390",
    40: "ARM",
    62: "x86-64",
    183: "AArch64",
    243: "RISC-V",
    258: "LoongArch",
}
_LOADER: Final = re.compile(r"ld(-linux[^.]*|64|-[0-9.]+)?\.so(\.[0-9]+)?")
"""Names of glibc's dynamic linker."""
_OTHER_LIBCS: Final = {"musl": "musl", "uClibc": "uClibc", "linker": "Android's C library"}
"""Other C libraries, by a part of the name of their dynamic linker."""
_SCRIPT_LINE: Final = 256
_SCRIPTS: Final = 5
"""Limit of nested interpreters in the kernel (exec_binprm())."""
_HEAD: Final = 4096
_OTHER_WAYS: Final = (
    "a dynamically linked build of it will do; or speak protocol/wire.md to a `vfioemu serve`"
)
_WAYS_OF_GO: Final = (
    "no build of it will do, dynamically linked or not (gccgo's would); a program in Go can speak protocol/wire.md "
    "to a `vfioemu serve`"
)
_WANTS_TO_BE_FIRST: Final = re.compile(r"lib(asan|tsan|hwasan)\.so|libclang_rt\.(asan|tsan|hwasan)\b")
"""Runtimes of sanitizers that must be loaded first; some check it, others miss calls otherwise."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program to execute.

    Attributes:
        path: the file.
        arguments: including argv[0].
        first: libraries that must come before ours in LD_PRELOAD.
    """

    path: str
    arguments: tuple[str, ...]
    first: tuple[str, ...] = ()


def find(command: tuple[str, ...], library: Path) -> Program:
    """Find the program that a shell would execute, and check that `library` can be preloaded into it.

    Raises:
        CommandError: 127 if it does not exist; 126 if it cannot be executed, or not with the library.
    """
    path = _search(command[0])
    head = _read_head(path)
    if head[:4] != b"\x7fELF" and head[:2] != b"#!" and b"\0" not in head[:128]:
        # As execvp() does for a script without a #! line.
        path, command = "/bin/sh", ("/bin/sh", path, *command[1:])
        head = _read_head(path)
    return Program(path, command, _check(path, head, library, _SCRIPTS))


def _search(name: str) -> str:
    """Find a program as execvp() does.

    Raises:
        CommandError: it does not exist, or is not executable.
    """
    if "/" in name:
        candidates = [name]
    else:
        folders = os.environ.get("PATH", os.defpath).split(":")
        candidates = [os.path.join(folder or ".", name) for folder in folders]
    denied = ""
    for candidate in candidates:
        try:
            status = os.stat(candidate)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                denied = denied or f"{candidate}: {error.strerror}"
            continue
        if not stat.S_ISREG(status.st_mode):
            denied = denied or f"{candidate} is not a regular file"
        elif not os.access(candidate, os.X_OK, effective_ids=True):
            denied = denied or f"{candidate} is not executable"
        else:
            return candidate
    if denied:
        raise CommandError(denied, exit_code=CANNOT_RUN)
    where = "no such file" if "/" in name else "not found in $PATH"
    raise CommandError(f"{name}: {where}", exit_code=NOT_FOUND)


def _read_head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            return b"\x7fELF"  # may be executable although it is not readable: skip the checks
        raise CommandError(f"{path}: {error.strerror}", exit_code=CANNOT_RUN) from None


def _check(path: str, head: bytes, library: Path, scripts: int) -> tuple[str, ...]:
    """Refuse a program into which the library would silently not be loaded; return libraries to load before it.

    Raises:
        CommandError: see `find`.
    """
    if head[:2] == b"#!":
        if not scripts:
            raise CommandError(f"{path}: too many interpreters", exit_code=CANNOT_RUN)
        interpreter = _interpreter(path, head)
        return _check(interpreter, _read_head(interpreter), library, scripts - 1)
    if head[:4] != b"\x7fELF":
        raise CommandError(f"{path} is neither an ELF program nor a script", exit_code=CANNOT_RUN)
    _check_privileges(path)
    if len(head) < _HEADER.size:
        return ()
    _check_machine(path, head, library)
    program = elf.read(path)
    if program is None:
        return ()  # too unusual to be judged: let it through
    if program.is_go:
        raise CommandError(
            f"{path} is made with Go, which makes its system calls by itself: LD_PRELOAD cannot reach them",
            _WAYS_OF_GO,
            CANNOT_RUN,
        )
    _check_loader(path, program.loader)
    return tuple(program.library(name) for name in program.needed if wants_to_be_first(name))


def wants_to_be_first(library: str) -> bool:
    """Return True for the runtime of a sanitizer, which must be loaded before our library."""
    return bool(_WANTS_TO_BE_FIRST.match(os.path.basename(library)))


def _interpreter(path: str, head: bytes) -> str:
    """Return the interpreter of a script; for env, the program that env starts."""
    line = head[2:_SCRIPT_LINE].partition(b"\n")[0].strip()
    name, _, argument = (os.fsdecode(part.strip()) for part in line.partition(b" "))
    if not name:
        raise CommandError(f"{path}: its first line names no interpreter", exit_code=CANNOT_RUN)
    if not os.path.exists(name):
        raise CommandError(f"{path}: its interpreter {name} does not exist", exit_code=NOT_FOUND)
    if os.path.basename(name) != "env":
        return name
    words = [word for word in argument.split() if not word.startswith("-") and "=" not in word]
    return _search(words[0]) if words else name


def _check_machine(path: str, head: bytes, library: Path) -> None:
    ours = _HEADER.unpack(_read_head(os.fspath(library))[: _HEADER.size])
    machine = struct.unpack_from("=H", head, 18)[0]
    if head[_CLASS] != ours[0][_CLASS] or machine != ours[2]:
        bits = "64" if head[_CLASS] == _64_BITS else "32"
        name = _MACHINES.get(machine, f"machine {machine}")
        raise CommandError(
            f"{path} is a {bits}-bit {name} program: the preload library is for 64-bit {_MACHINES[ours[2]]}",
            exit_code=CANNOT_RUN,
        )


def _check_loader(path: str, loader: str | None) -> None:
    """Check that the program uses glibc's dynamic linker."""
    if loader is None:
        if _LOADER.fullmatch(os.path.basename(path)):
            return  # the dynamic linker itself, as a command: LD_PRELOAD works for what it loads
        raise CommandError(
            f"{path} is statically linked: LD_PRELOAD cannot reach it",
            _OTHER_WAYS,
            CANNOT_RUN,
        )
    name = os.path.basename(loader)
    if not _LOADER.fullmatch(name):
        libc = next((libc for mark, libc in _OTHER_LIBCS.items() if mark in name), "another C library")
        raise CommandError(
            f"{path} is linked with {libc} ({loader}): the preload library is for glibc",
            "a build of it with glibc will do",
            CANNOT_RUN,
        )
    if not os.path.exists(loader):
        raise CommandError(f"{path}: its dynamic linker {loader} does not exist", exit_code=CANNOT_RUN)


def _check_privileges(path: str) -> None:
    """Refuse a program that gains privileges by execve(): the dynamic linker ignores LD_PRELOAD for it (AT_SECURE)."""
    status = os.stat(path)
    if os.statvfs(path).f_flag & os.ST_NOSUID or _gains_nothing():
        return
    what = ""
    if status.st_mode & stat.S_ISUID and status.st_uid != os.getuid():
        what = f"is setuid (of uid {status.st_uid})"
    elif status.st_mode & stat.S_ISGID and status.st_mode & stat.S_IXGRP and status.st_gid != os.getgid():
        what = f"is setgid (of gid {status.st_gid})"
    elif os.getuid():
        try:
            os.getxattr(path, "security.capability")
        except OSError:
            pass
        else:
            what = "has file capabilities"
    if what:
        raise CommandError(
            f"{path} {what}: the system ignores LD_PRELOAD for it",
            "run a copy of it without them; emulated devices need no privileges",
            CANNOT_RUN,
        )


def _gains_nothing() -> bool:
    """Return True if execve() cannot gain privileges in this process (PR_SET_NO_NEW_PRIVS)."""
    try:
        return "\nNoNewPrivs:\t1" in Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return False
