# SPDX-License-Identifier: MIT
"""Inputs of the coverage-guided fuzzer: a byte string is a program of calls, and any byte string is one.

A program is a list of steps: open, ioctl, command to a device, close, fail an effect, let calls overlap, and so on. A
step names fds and buffers by register, so that a step more or less before it leaves it what it was. `decode` makes
steps of any bytes at all (what is missing at the end is 0); `encode` is its inverse for what `decode` has made.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

MAX_STEPS: Final = 256
MAX_DATA: Final = 8192
MAX_LINKS: Final = 8


class Op(IntEnum):
    """What a step does; the operands are in `FIELDS`. The first operand of most is the client, 0 or 1."""

    CONTAINER = 0
    """client, register for the fd"""
    GROUP = 1
    """client, register for the fd, group"""
    DEVICE = 2
    """client, register for the fd, fd of a group, device"""
    IOCTL = 3
    """client, fd, row of the registry, `Place`, register for a new fd; data: the argument"""
    NUMBER = 4
    """client, fd, any ioctl number; data: the argument"""
    COMMAND = 5
    """client, fd of an oracle device, command; data: its words"""
    TRANSFER = 6
    """client, fd, `Transfer`, size, offset; data: what is written"""
    CLOSE = 7
    """client, fd"""
    DUP = 8
    """client, fd, client that gets it, register there"""
    EXIT = 9
    """client"""
    EVENTFD = 10
    """client, register"""
    NULL = 11
    """client, register"""
    ALLOC = 12
    """client, buffer, protection, pages"""
    PROTECT = 13
    """client, buffer, protection, first page, pages"""
    POKE = 14
    """client, buffer, offset; data"""
    FILL = 15
    """client, buffer, offset, size, byte"""
    FAULT = 16
    """client, which effect from now on fails, errno"""
    OVERLAP = 17
    """how many of the next calls overlap; data: whose turn it is"""
    WORK = 18
    """device, milliseconds"""
    PARAMETER = 19
    """dma_entry_limit"""


class Place(IntEnum):
    """Where the argument of an ioctl lies."""

    PLAIN = 0
    TAIL = 1
    """at the very end of accessible memory"""
    READ_ONLY = 2
    NULL = 3
    BAD = 4
    """in a hole"""
    KERNEL = 5
    CUT = 6
    """across the end of accessible memory: the last 4 bytes are missing"""


class Transfer(IntEnum):
    """The other system calls."""

    READ = 0
    WRITE = 1
    PREAD = 2
    PWRITE = 3
    MMAP = 4
    POLL = 5


class Link(NamedTuple):
    """What is only known when the program runs.

    Attributes:
        offset: where in the data it is put.
        target: a buffer's register, whose address it is (8 bytes), or 0x80 + an fd's register (4 bytes).
        add: is added to the address.
    """

    offset: int
    target: int
    add: int = 0


class Step(NamedTuple):
    """One step.

    Attributes:
        op: what it does.
        numbers: the operands.
        data: bytes that belong to it.
        links: what is put into them.
    """

    op: Op
    numbers: tuple[int, ...]
    data: bytes = b""
    links: tuple[Link, ...] = ()


FIELDS: Final = {
    Op.CONTAINER: struct.Struct("<BB"),
    Op.GROUP: struct.Struct("<BBB"),
    Op.DEVICE: struct.Struct("<BBBB"),
    Op.IOCTL: struct.Struct("<BBBBB"),
    Op.NUMBER: struct.Struct("<BBI"),
    Op.COMMAND: struct.Struct("<BBB"),
    Op.TRANSFER: struct.Struct("<BBBHQ"),
    Op.CLOSE: struct.Struct("<BB"),
    Op.DUP: struct.Struct("<BBBB"),
    Op.EXIT: struct.Struct("<B"),
    Op.EVENTFD: struct.Struct("<BB"),
    Op.NULL: struct.Struct("<BB"),
    Op.ALLOC: struct.Struct("<BBBH"),
    Op.PROTECT: struct.Struct("<BBBHH"),
    Op.POKE: struct.Struct("<BBI"),
    Op.FILL: struct.Struct("<BBIIB"),
    Op.FAULT: struct.Struct("<BBB"),
    Op.OVERLAP: struct.Struct("<B"),
    Op.WORK: struct.Struct("<BH"),
    Op.PARAMETER: struct.Struct("<H"),
}
WITH_DATA: Final = frozenset({Op.IOCTL, Op.NUMBER, Op.COMMAND, Op.TRANSFER, Op.POKE, Op.OVERLAP})
CALLS: Final = frozenset({Op.IOCTL, Op.NUMBER, Op.COMMAND, Op.TRANSFER})
"""Steps that a core serves while others run."""

_LENGTHS: Final = struct.Struct("<HB")
_LINK: Final = struct.Struct("<HBi")


def encode(steps: Sequence[Step]) -> bytes:
    """The bytes of a program."""
    parts = []
    for step in steps:
        parts.append(bytes([step.op]) + FIELDS[step.op].pack(*step.numbers))
        if step.op in WITH_DATA:
            parts.append(_LENGTHS.pack(len(step.data), len(step.links)) + step.data)
            parts.extend(_LINK.pack(*link) for link in step.links)
    return b"".join(parts)


def decode(data: bytes) -> list[Step]:
    """The program of any bytes; at most MAX_STEPS steps."""
    steps: list[Step] = []
    at = 0
    while at < len(data) and len(steps) < MAX_STEPS:
        op = Op(data[at] % len(Op))
        numbers, at = _take(FIELDS[op], data, at + 1)
        if op not in WITH_DATA:
            steps.append(Step(op, numbers))
            continue
        (size, count), at = _take(_LENGTHS, data, at)
        size, count = min(size, MAX_DATA, max(0, len(data) - at)), min(count, MAX_LINKS)
        body, at = data[at : at + size], at + size
        links = []
        for _ in range(count):
            link, at = _take(_LINK, data, at)
            links.append(Link(*link))
        steps.append(Step(op, numbers, body, tuple(links)))
    return steps


def _take(fields: struct.Struct, data: bytes, at: int) -> tuple[tuple[int, ...], int]:
    piece = data[at : at + fields.size]
    return fields.unpack(piece.ljust(fields.size, b"\0")), at + fields.size
