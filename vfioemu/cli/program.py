# SPDX-License-Identifier: MIT
"""Whether LD_PRELOAD can reach a program: what the dynamic linker does not say aloud is said before it is started."""

import errno
import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vfioemu.cli.errors import CommandError

CANNOT_RUN: Final = 126
NOT_FOUND: Final = 127

_HEADER: Final = struct.Struct("=16sHHIQQQIHHH")
_SEGMENT: Final = struct.Struct("=IIQQQQ")
_PT_INTERP: Final = 3
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
"""What glibc calls its dynamic linker."""
_SCRIPT_LINE: Final = 256
_SCRIPTS: Final = 5
"""How many interpreters the kernel follows (exec_binprm())."""
_HEAD: Final = 4096
_OTHER_WAYS: Final = (
    "a dynamically linked build of it will do; or speak protocol/wire.md to a `vfioemu serve`"
)


@dataclass(frozen=True, slots=True)
class Program:
    """What is to be executed.

    Attributes:
        path: the file.
        arguments: including the name, argv[0].
    """

    path: str
    arguments: tuple[str, ...]


def find(command: tuple[str, ...], library: Path) -> Program:
    """The program that a shell would execute, if `library` can be preloaded into it.

    Raises:
        CommandError: 127 for a program that is not there, 126 for one that cannot be run, or not with the library.
    """
    path = _search(command[0])
    head = _read_head(path)
    if head[:4] != b"\x7fELF" and head[:2] != b"#!" and b"\0" not in head[:128]:
        # What execvp() does for a script without a first line that says so.
        shell = Program("/bin/sh", ("/bin/sh", path, *command[1:]))
        _check(shell.path, _read_head(shell.path), library, _SCRIPTS)
        return shell
    _check(path, head, library, _SCRIPTS)
    return Program(path, command)


def _search(name: str) -> str:
    """Find a program as execvp() does.

    Raises:
        CommandError: there is none.
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
            denied = denied or f"{candidate} is no file"
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
            return b"\x7fELF"  # may be executed without being readable; nothing can be said of it
        raise CommandError(f"{path}: {error.strerror}", exit_code=CANNOT_RUN) from None


def _check(path: str, head: bytes, library: Path, scripts: int) -> None:
    """Refuse what the library would silently not be loaded into.

    Raises:
        CommandError: see `find`.
    """
    if head[:2] == b"#!":
        if not scripts:
            raise CommandError(f"{path}: too many interpreters", exit_code=CANNOT_RUN)
        interpreter = _interpreter(path, head)
        _check(interpreter, _read_head(interpreter), library, scripts - 1)
        return
    if head[:4] != b"\x7fELF":
        raise CommandError(f"{path} is neither a program of this machine nor a script", exit_code=CANNOT_RUN)
    if len(head) < _HEADER.size:
        return
    _check_machine(path, head, library)
    _check_loader(path, head)
    _check_privileges(path)


def _interpreter(path: str, head: bytes) -> str:
    """Who interprets a script; if that is env, whom env would start."""
    line = head[2:_SCRIPT_LINE].partition(b"\n")[0].strip()
    name, _, argument = (os.fsdecode(part.strip()) for part in line.partition(b" "))
    if not name:
        raise CommandError(f"{path}: its first line names no interpreter", exit_code=CANNOT_RUN)
    if not os.path.exists(name):
        raise CommandError(f"{path}: its interpreter {name} is not there", exit_code=NOT_FOUND)
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


def _check_loader(path: str, head: bytes) -> None:
    """The program needs glibc's dynamic linker."""
    fields = _HEADER.unpack_from(head)
    offset, size, count = fields[5], fields[9], fields[10]
    for index in range(count):
        start = offset + index * size
        if start + _SEGMENT.size > len(head):
            return  # unusual enough to be let through
        kind, _, at, _, _, length = _SEGMENT.unpack_from(head, start)
        if kind == _PT_INTERP:
            with open(path, "rb") as file:
                loader = os.fsdecode(os.pread(file.fileno(), min(length, _HEAD), at).rstrip(b"\0"))
            if "ld-musl" in loader:
                raise CommandError(
                    f"{path} is linked with musl ({loader}): the preload library is for glibc",
                    "a build of it with glibc will do",
                    CANNOT_RUN,
                )
            if not os.path.exists(loader):
                raise CommandError(f"{path}: its dynamic linker {loader} is not there", exit_code=CANNOT_RUN)
            return
    if _LOADER.fullmatch(os.path.basename(path)):
        return  # started as a command: LD_PRELOAD goes into what it loads
    raise CommandError(
        f"{path} is statically linked: LD_PRELOAD cannot reach it",
        _OTHER_WAYS,
        CANNOT_RUN,
    )


def _check_privileges(path: str) -> None:
    """A program that gains privileges when it is executed: the dynamic linker ignores LD_PRELOAD then (AT_SECURE)."""
    status = os.stat(path)
    if os.statvfs(path).f_flag & os.ST_NOSUID:
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
