# SPDX-License-Identifier: MIT
"""The meaning of a field beyond its width: said where the struct is declared, read by whatever prints or builds it.

    class Mapping(Payload):
        flags: Annotated[U32, DmaMapFlag] = 0
        iova: Hex64 = 0
        ranges: Annotated[U64, Items(Range, "num_ranges")] = 0

A flag or enum class in the annotation gives a field's values their names. A field without any hint is a decimal number, so a
struct is traced before anybody has thought about how it should look.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Annotated, Any, TypeAlias

from vfioemu.uapi.payload import S32, U16, U32, U64

Item: TypeAlias = Any
"""What an array is made of: a Payload class, or an annotated integer such as U8 or Fd."""


class Hint(Enum):
    """Properties of a field."""

    HEX = "hex"
    """An address, or a size of memory."""
    FD = "fd"
    """The number of an fd of the caller."""
    OUT = "out"
    """Only the kernel writes it: what the caller had there means nothing."""


@dataclass(frozen=True, slots=True)
class Items:
    """The field is the address of an array.

    Attributes:
        item: what it is made of.
        count: the field that says of how many.
    """

    item: Item
    count: str


@dataclass(frozen=True, slots=True)
class DirtyBits:
    """The field is the address of a dirty bitmap. Its properties are fields of the same struct, or of the one around it (``..``).

    Attributes:
        iova: what bit 0 stands for.
        length: how many bytes of IOVA are asked about.
        pgsize: what one bit stands for.
    """

    iova: str
    length: str
    pgsize: str


@dataclass(frozen=True, slots=True)
class Chain:
    """The field is the offset of a capability chain, from the start of the outermost struct.

    Attributes:
        ids: the enum of the capabilities.
        caps: what each consists of; those that are not here are a header alone.
    """

    ids: type[IntEnum]
    caps: Mapping[int, type]


@dataclass(frozen=True, slots=True)
class Follow:
    """What comes behind a struct, in the place of its flexible array member.

    Attributes:
        item: what it is made of.
        count: the field that says of how many; without it there is one, and no array.
        flag: the bit of `flags` that brings it; 0 for always.
        out: only the kernel writes it.
    """

    item: Item
    count: str = ""
    flag: int = 0
    out: bool = False


Hex32: TypeAlias = Annotated[U32, Hint.HEX]
Hex64: TypeAlias = Annotated[U64, Hint.HEX]
Fd: TypeAlias = Annotated[S32, Hint.FD]
Out16: TypeAlias = Annotated[U16, Hint.OUT]
Out32: TypeAlias = Annotated[U32, Hint.OUT]
Out64: TypeAlias = Annotated[U64, Hint.OUT]
OutHex64: TypeAlias = Annotated[U64, Hint.OUT, Hint.HEX]
