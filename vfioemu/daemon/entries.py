# SPDX-License-Identifier: MIT
"""Entries of the tree of /dev and /sys, as data; `daemon/tree.py` makes files from them.

Paths are those of the kernel, without the leading slash. The target of a link is also a path from the root.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory. In a merged one the real entries stay visible beside the emulated ones."""

    merged: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """A regular file.

    Attributes:
        content: its contents.
        mode: its permissions.
        live: the daemon serves reads and writes.
        size: the size that it shows, in bytes; None for that of its contents.
    """

    content: bytes
    mode: int = 0o444
    live: bool = False
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link; it is made relative, as links in sysfs are."""

    target: str


@dataclass(frozen=True, slots=True)
class Node:
    """A character device that the daemon serves."""

    mode: int


Entry: TypeAlias = Directory | File | Link | Node
Entries: TypeAlias = Iterator[tuple[str, Entry]]
"""(path, entry) in the order of creation: directories first, last the links by which programs find a device."""


def text(*lines: str, mode: int = 0o444, live: bool = False) -> File:
    """Make a file from lines."""
    return File("".join(f"{line}\n" for line in lines).encode(), mode, live)
