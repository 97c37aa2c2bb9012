# SPDX-License-Identifier: MIT
"""Constants and layouts of protocol/wire.md: the Python side of protocol/vfioemu_wire.h.

Both peers import this module; a test compiles the header and compares. The header of a message is a plain `struct.Struct`,
because it is parsed for every call.
"""

import enum
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

MAGIC: Final = 0x31756D656F696676
VERSION: Final = 1
MAX_DATA: Final = 65536
"""Limit of the data after the header of one message, in bytes."""
MAX_PATH: Final = 4096
U64: Final = (1 << 64) - 1
INFINITE: Final = U64
"""RLIM_INFINITY."""


class Type(enum.IntEnum):
    """Types of messages."""

    HELLO = 1
    OPEN = 2
    IOCTL = 3
    READ = 4
    WRITE = 5
    PREAD = 6
    PWRITE = 7
    MMAP = 8
    STAT = 9
    MEM_SHARE = 16
    LIMITS = 17
    FORGET = 18
    MEM_UNSHARE = 19
    ATTR_READ = 20
    ATTR_WRITE = 21
    ATTR_MMAP = 22
    MEM_LEAVES = 23
    MEM_RETURNS = 24
    MEM_HOLE = 25
    MEM_REGION = 26
    REPLY = 32
    READ_USER = 64
    WRITE_USER = 65
    PIN = 66
    TAKE_FD = 67
    GIVE_FD = 68
    REVOKE_FD = 69
    ANSWER = 96
    DATA = 97


class Flag(enum.IntFlag, boundary=enum.KEEP):
    """Flags of the header; each belongs to the messages named below it."""

    SERVICE = 1
    """HELLO: this connection serves DMA memory."""
    IPC_LOCK = 2
    """HELLO, LIMITS: the caller has CAP_IPC_LOCK."""
    WRITABLE = 4
    """Calls: the offered bytes may be changed by the reply."""
    FD = 8
    """An fd is attached."""
    UNPROVED = 16
    """REPLY: repeat the call with the fd attached."""
    DRAIN = 32
    """REPLY: take the unread packet off the token."""
    WRITE = 64
    """PIN: the pages must be writable."""
    PINNED = 128
    """READ_USER, WRITE_USER: access by hardware; the page protections of the process do not apply."""
    ELSEWHERE = 256
    """REPLY: the write concerns the client's own machine."""


class Leaving(enum.IntEnum):
    """Ways in which memory leaves its address (MEM_LEAVES)."""

    UNMAPPED = 0
    """Nothing, or other memory, is at the address afterwards."""
    DISCARDED = 1
    """Zeroed pages are at the address afterwards: MADV_DONTNEED."""
    MOVED = 2
    """The same memory is at another address afterwards."""


class MemoryMode(enum.IntEnum):
    """Ways in which the daemon reaches its clients' memory."""

    ASK = 0
    PROCESS_VM = 1


HEADER: Final = struct.Struct("=HHIQQQQQ")
"""type, flags, seq, token, arg[4]; in the machine's byte order, without padding."""
HEADER_SIZE: Final = HEADER.size
MAX_MESSAGE: Final = HEADER_SIZE + MAX_DATA

# Plain ints for the fast paths: an enum lookup costs measurable time there.
HELLO: Final = int(Type.HELLO)
OPEN: Final = int(Type.OPEN)
IOCTL: Final = int(Type.IOCTL)
READ: Final = int(Type.READ)
WRITE: Final = int(Type.WRITE)
PREAD: Final = int(Type.PREAD)
PWRITE: Final = int(Type.PWRITE)
MMAP: Final = int(Type.MMAP)
STAT: Final = int(Type.STAT)
MEM_SHARE: Final = int(Type.MEM_SHARE)
LIMITS: Final = int(Type.LIMITS)
FORGET: Final = int(Type.FORGET)
MEM_UNSHARE: Final = int(Type.MEM_UNSHARE)
ATTR_READ: Final = int(Type.ATTR_READ)
ATTR_WRITE: Final = int(Type.ATTR_WRITE)
ATTR_MMAP: Final = int(Type.ATTR_MMAP)
MEM_LEAVES: Final = int(Type.MEM_LEAVES)
MEM_RETURNS: Final = int(Type.MEM_RETURNS)
MEM_HOLE: Final = int(Type.MEM_HOLE)
MEM_REGION: Final = int(Type.MEM_REGION)
REPLY: Final = int(Type.REPLY)
READ_USER: Final = int(Type.READ_USER)
WRITE_USER: Final = int(Type.WRITE_USER)
PIN: Final = int(Type.PIN)
TAKE_FD: Final = int(Type.TAKE_FD)
GIVE_FD: Final = int(Type.GIVE_FD)
REVOKE_FD: Final = int(Type.REVOKE_FD)
ANSWER: Final = int(Type.ANSWER)
DATA: Final = int(Type.DATA)

F_SERVICE: Final = int(Flag.SERVICE)
F_IPC_LOCK: Final = int(Flag.IPC_LOCK)
F_WRITABLE: Final = int(Flag.WRITABLE)
F_FD: Final = int(Flag.FD)
F_UNPROVED: Final = int(Flag.UNPROVED)
F_DRAIN: Final = int(Flag.DRAIN)
F_WRITE: Final = int(Flag.WRITE)
F_PINNED: Final = int(Flag.PINNED)
F_ELSEWHERE: Final = int(Flag.ELSEWHERE)


class Message(NamedTuple):
    """The header of a message."""

    type: int
    flags: int
    seq: int
    token: int
    arg0: int
    arg1: int
    arg2: int
    arg3: int


def encode(
    type: int, seq: int, token: int = 0, args: tuple[int, int, int, int] = (0, 0, 0, 0), flags: int = 0
) -> bytes:
    """Encode a header; negative results travel as unsigned 64-bit numbers (two's complement)."""
    return HEADER.pack(type, flags, seq, token, args[0] & U64, args[1] & U64, args[2] & U64, args[3] & U64)


def decode(packet: bytes | bytearray | memoryview) -> Message:
    """Decode the header of a packet that has at least HEADER_SIZE bytes."""
    return Message._make(HEADER.unpack_from(packet))


def signed(value: int) -> int:
    """Convert an unsigned 64-bit result to the signed number that it stands for."""
    return value - (1 << 64) if value >> 63 else value


HELLO_ACCOUNTS: Final = 1
"""Flag of the greeting: the daemon counts locked memory, so LIMITS must be sent."""
_GREETING: Final = struct.Struct("=II16sIIIIQII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """The daemon's reply to HELLO (struct vfioemu_hello)."""

    version: int
    memory_mode: MemoryMode
    daemon_id: bytes
    max_data: int
    max_channels: int
    max_tokens: int
    max_windows: int
    max_shared: int
    ask_timeout_ms: int
    accounts: bool = False

    SIZE = _GREETING.size

    def encode(self) -> bytes:
        """Encode the struct."""
        return _GREETING.pack(
            self.version,
            self.memory_mode,
            self.daemon_id,
            self.max_data,
            self.max_channels,
            self.max_tokens,
            self.max_windows,
            self.max_shared,
            self.ask_timeout_ms,
            HELLO_ACCOUNTS if self.accounts else 0,
        )

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Self:
        """Decode the struct.

        Raises:
            ValueError: too few bytes, or an unknown memory mode.
        """
        if len(data) < _GREETING.size:
            raise ValueError(f"greeting of {len(data)} bytes, expected {_GREETING.size}")
        fields = _GREETING.unpack_from(data)
        return cls(
            version=fields[0],
            memory_mode=MemoryMode(fields[1]),
            daemon_id=fields[2],
            max_data=fields[3],
            max_channels=fields[4],
            max_tokens=fields[5],
            max_windows=fields[6],
            max_shared=fields[7],
            ask_timeout_ms=fields[8],
            accounts=bool(fields[9] & HELLO_ACCOUNTS),
        )
