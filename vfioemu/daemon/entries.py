# SPDX-License-Identifier: MIT
"""What the tree of /dev and /sys is made of, as data: `daemon/tree.py` makes files of it.

Paths are those of the kernel, without the leading slash. Links name their target as a path from the root too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory. In a merged one the machine's own entries stay visible beside the emulated ones."""

    merged: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """A regular file.

    Attributes:
        content: what it has.
        mode: its rights.
        live: the daemon answers whoever reads or writes it.
        size: how long it seems to be; None for as long as its content.
    """

    content: bytes
    mode: int = 0o444
    live: bool = False
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link, relative as all links of sysfs are."""

    target: str


@dataclass(frozen=True, slots=True)
class Node:
    """A character device that the daemon serves."""

    mode: int


Entry: TypeAlias = Directory | File | Link | Node
Entries: TypeAlias = Iterator[tuple[str, Entry]]
"""In the order in which they are made: directories first, and last what others find a device by."""


def text(*lines: str, mode: int = 0o444, live: bool = False) -> File:
    """A file of lines."""
    return File("".join(f"{line}\n" for line in lines).encode(), mode, live)
