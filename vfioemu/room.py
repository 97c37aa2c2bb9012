# SPDX-License-Identifier: MIT
"""Check that this machine has enough memory before any of it is allocated.

Guest RAM and device memory are memfds whose pages are touched later. Neither mapping nor sizing them fails, whatever their
size; filling them ends in the OOM killer, which may kill any process. So the limits that the kernel reports are checked first.
"""

import errno
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vfioemu.sizes import format_size

ROOT: Final = Path("/")


def require_room(what: str, size: int, *, largest: int = 0, root: Path = ROOT) -> None:
    """Raise OSError if the memory does not fit.

    Args:
        what: what needs the memory, for the message.
        size: bytes in all.
        largest: bytes of the largest file among them.
        root: where /proc and /sys are.

    Raises:
        OSError: EFBIG if a file would exceed RLIMIT_FSIZE, ENOMEM if a limit leaves less than `size`.
    """
    file_limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if file_limit != resource.RLIM_INFINITY and largest > file_limit:
        raise OSError(
            errno.EFBIG,
            f"{what} needs a file of {format_size(largest)}, the limit is {format_size(file_limit)} (ulimit -f)",
        )
    for have, whose in sorted(available(root)):
        if size > have:
            raise OSError(
                errno.ENOMEM,
                f"{what} needs {format_size(size)}, available are {format_size(max(0, have))} ({whose})",
            )


def available(root: Path = ROOT) -> Iterator[tuple[int, str]]:
    """Yield (bytes, name) for each limit: what it leaves to us, and which limit it is."""
    memory = _table(root / "proc/meminfo")
    if "MemAvailable" in memory:
        free = memory["MemAvailable"] + memory.get("SwapFree", 0)
        yield free, "MemAvailable and SwapFree of /proc/meminfo"
    if _number(root / "proc/sys/vm/overcommit_memory") == 2 and "CommitLimit" in memory:
        yield memory["CommitLimit"] - memory.get("Committed_AS", 0), "CommitLimit, vm.overcommit_memory is 2"
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if space != resource.RLIM_INFINITY:
        pages = _words(root / "proc/self/statm")
        used = int(pages[0]) * resource.getpagesize() if pages else 0
        yield space - used, "address space, ulimit -v"
    yield from _cgroups(root)


def _cgroups(root: Path) -> Iterator[tuple[int, str]]:
    """Yield the limits of the memory controllers of this process, cgroup v1 and v2."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        names, _, path = line.partition(":")[2].partition(":")
        if names == "":
            yield from _limits(root / "sys/fs/cgroup", path, "memory.max", "memory.current", "")
        elif "memory" in names.split(","):
            base = root / "sys/fs/cgroup/memory"
            yield from _limits(base, path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def _limits(base: Path, path: str, most: str, used: str, prefix: str) -> Iterator[tuple[int, str]]:
    """Yield the limits of a cgroup and of its ancestors.

    Pages of the page cache count as used although they can be reclaimed; after a build they fill the cgroup. So add them again.
    """
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for length in range(len(parts), -1, -1):
        group = base.joinpath(*parts[:length])
        limit, usage = _number(group / most), _number(group / used)
        if limit is not None and usage is not None and limit < 1 << 60:
            statistics = _table(group / "memory.stat", 1)
            reclaimable = sum(statistics.get(f"{prefix}{kind}_file", 0) for kind in ("inactive", "active"))
            yield limit - usage + reclaimable, f"{most} of cgroup /{'/'.join(parts[:length])}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].isdecimal() else None


def _table(path: Path, unit: int = 1024) -> dict[str, int]:
    """Parse a file of lines `Name: number kB` or `name number`."""
    found = {}
    for line in _text(path).splitlines():
        words = line.replace(":", " ").split()
        if len(words) >= 2 and words[1].isdecimal():
            found[words[0]] = int(words[1]) * unit
    return found
