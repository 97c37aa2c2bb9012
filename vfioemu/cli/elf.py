# SPDX-License-Identifier: MIT
"""Read from a 64-bit ELF file how it will be loaded. Nothing in the file is trusted."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

_HEADER: Final = struct.Struct("=16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("=IIQQQQQQ")
_SECTION: Final = struct.Struct("=IIQQQQIIQQ")
_DYNAMIC: Final = struct.Struct("=qQ")
_NOTE: Final = struct.Struct("=III")
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP, _PT_NOTE = 1, 2, 3, 4
_PF_W: Final = 2
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29
_MOST: Final = 4096
_MOST_BYTES: Final = 1 << 20
_GO_SECTIONS: Final = frozenset({b".go.buildinfo", b".note.go.buildid", b".gopclntab"})
_GO_MAGIC: Final = b"\xff Go buildinf:"
_GO_MAGIC_WITHIN: Final = 64 << 10
"""Bytes that debug/buildinfo searches for it in a file without section headers."""


class _Segment(NamedTuple):
    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    size: int
    memory: int
    align: int


@dataclass(frozen=True, slots=True)
class Elf:
    """How a program is loaded.

    Attributes:
        loader: its dynamic linker; None if it has none.
        needed: the libraries that it names (DT_NEEDED), in order.
        search: folders searched for them first (DT_RPATH, DT_RUNPATH).
        is_go: linked by Go's own toolchain.
    """

    loader: str | None
    needed: tuple[str, ...]
    search: tuple[str, ...]
    is_go: bool

    def library(self, name: str) -> str:
        """Return the path of a needed library; its name alone if the dynamic linker must find it."""
        for folder in self.search:
            path = os.path.join(folder, name)
            if os.path.exists(path):
                return path
        return name


def read(path: str) -> Elf | None:
    """Read a program's headers; None if the file cannot be read or is malformed."""
    try:
        with open(path, "rb") as file:
            return _read(file, os.path.dirname(os.path.realpath(path)))
    except (OSError, struct.error, ValueError):
        return None


def _at(file: BinaryIO, offset: int, size: int) -> bytes:
    return os.pread(file.fileno(), min(size, _MOST_BYTES), offset)


def _read(file: BinaryIO, origin: str) -> Elf:
    header = _HEADER.unpack(_at(file, 0, _HEADER.size))
    segments = [
        _Segment(*_SEGMENT.unpack(_at(file, header[5] + index * header[9], _SEGMENT.size)))
        for index in range(min(header[10], _MOST))
    ]
    loader = None
    for segment in segments:
        if segment.kind == _PT_INTERP:
            loader = os.fsdecode(_at(file, segment.offset, min(segment.size, _MOST)).partition(b"\0")[0])
    needed, search = _dynamic(file, segments, origin)
    return Elf(loader, needed, search, _is_go(file, header, segments))


def _dynamic(
    file: BinaryIO, segments: list[_Segment], origin: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    entries: list[tuple[int, int]] = []
    for segment in segments:
        if segment.kind == _PT_DYNAMIC:
            data = _at(file, segment.offset, segment.size)
            entries = list(_DYNAMIC.iter_unpack(data[: len(data) // _DYNAMIC.size * _DYNAMIC.size]))
    strings = dict(entries).get(_DT_STRTAB)
    if strings is None:
        return (), ()
    start = next(
        (s.offset + strings - s.address for s in segments if s.kind == _PT_LOAD and s.address <= strings < s.address + s.size),
        None,
    )  # fmt: skip
    if start is None:
        return (), ()

    def text(offset: int) -> str:
        return os.fsdecode(_at(file, start + offset, _MOST).partition(b"\0")[0])

    needed = tuple(text(value) for tag, value in entries if tag == _DT_NEEDED)
    search = [text(value) for tag, value in entries if tag in (_DT_RPATH, _DT_RUNPATH)]
    folders = ":".join(search).replace("${ORIGIN}", origin).replace("$ORIGIN", origin).split(":")
    return needed, tuple(folder for folder in folders if folder)


# --- Go ---


def _is_go(file: BinaryIO, header: tuple[int, ...], segments: list[_Segment]) -> bool:
    """Return True if Go's linker made it: it leaves a section, a note, or a magic in the data."""
    if any(name in _GO_SECTIONS for name in _sections(file, header)):
        return True
    for segment in segments:
        if segment.kind == _PT_NOTE and b"Go" in _note_owners(_at(file, segment.offset, segment.size)):
            return True
    data = next((s for s in segments if s.kind == _PT_LOAD and s.flags & _PF_W), None)
    return data is not None and _GO_MAGIC in _at(file, data.offset, min(data.size, _GO_MAGIC_WITHIN))


def _sections(file: BinaryIO, header: tuple[int, ...]) -> Iterator[bytes]:
    offset, size, count, names_at = header[6], header[11], header[12], header[13]
    if not offset or size < _SECTION.size or names_at >= count:
        return
    table = _at(file, offset, size * min(count, _MOST))
    rows = [_SECTION.unpack_from(table, start) for start in range(0, len(table) - _SECTION.size + 1, size)]
    if names_at >= len(rows):
        return
    names = _at(file, rows[names_at][4], rows[names_at][5])
    for row in rows:
        yield names[row[0] :].partition(b"\0")[0]


def _note_owners(notes: bytes) -> list[bytes]:
    owners: list[bytes] = []
    at = 0
    while at + _NOTE.size <= len(notes):
        name_size, size, _ = _NOTE.unpack_from(notes, at)
        at += _NOTE.size
        owners.append(notes[at : at + name_size].rstrip(b"\0"))
        at += (name_size + 3 & ~3) + (size + 3 & ~3)
    return owners
