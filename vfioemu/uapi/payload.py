# SPDX-License-Identifier: MIT
"""A C struct of <linux/vfio.h> as a frozen Python class, declared once.

    @payload("vfio_bitmap")
    class Bitmap(Payload):
        pgsize: U64 = 0
        size: U64 = 0
        data: U64 = 0

The annotations are the declaration: from them the decorator builds the construct layout (`LAYOUT`, for tools, fuzzers
and tests), with the padding that the x86-64 ABI puts in, and beside it a `struct.Struct` for the hot path.
construct takes about 14 us for a MAP_DMA argument, struct 0.2; a test holds both to the same answer.

Three things construct would do by itself are avoided on purpose:

* flags are plain integers, because construct's FlagsEnum forgets unknown bits, and those the kernel refuses;
* trailing bytes are ignored by `parse`, so `argsz` is checked by handlers, as in the kernel;
* flexible arrays (`TAIL`) are no part of the layout: their count comes from the caller and must be bounded first.
"""

import operator
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeAlias, TypeVar, dataclass_transform

import construct

U8: TypeAlias = Annotated[int, construct.Int8ul]
U16: TypeAlias = Annotated[int, construct.Int16ul]
U32: TypeAlias = Annotated[int, construct.Int32ul]
S32: TypeAlias = Annotated[int, construct.Int32sl]
U64: TypeAlias = Annotated[int, construct.Int64ul]
Uuid: TypeAlias = Annotated[bytes, construct.Bytes(16)]

SIZEOF_SELF = -1
"""Default of an `argsz` field: replaced by the size of the struct that declares it, as C code writes sizeof(x)."""


@dataclass(frozen=True, slots=True)
class Member:
    """One field of a struct.

    Attributes:
        name: in C.
        offset: from the start of the struct.
        size: in bytes.
        nested: its class, if it is a struct.
        signed: a signed integer; False for bytes too.
        hints: what else its annotation says (hints.py).
    """

    name: str
    offset: int
    size: int
    nested: "type[Payload] | None"
    signed: bool
    hints: tuple[object, ...]


class Payload:
    """Base of all structs; immutable, compared by value.

    Attributes:
        CNAME: the struct's name in C.
        LAYOUT: the construct layout; its names are those of the fields.
        SIZE: sizeof() in bytes, without a flexible array.
        ALIGNMENT: in bytes: that of the field with the largest.
        TAIL: the flexible array member's name, or "".
        FOLLOWS: what that member can be: hints.Follow.
        MEMBERS: the fields, for whatever prints or builds them.
        CODEC: the same layout for the struct module, nested structs spread out.
        LEAVES: the dotted names of its values, nested structs spread out.
        FIELDS: what sets each field of a new object and, for a nested struct, its class.
        VALUES: gets these values from an object.
    """

    __slots__ = ()

    CNAME: ClassVar[str]
    LAYOUT: ClassVar[construct.Struct]
    SIZE: ClassVar[int]
    ALIGNMENT: ClassVar[int]
    TAIL: ClassVar[str] = ""
    FOLLOWS: ClassVar[tuple[Any, ...]] = ()
    MEMBERS: ClassVar[tuple[Member, ...]]
    CODEC: ClassVar[struct.Struct]
    LEAVES: ClassVar[tuple[str, ...]]
    FIELDS: ClassVar[tuple[tuple[Callable[[object, object], None], "type[Payload] | None"], ...]]
    VALUES: ClassVar[Callable[[object], tuple[Any, ...]]]

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read the struct from the first SIZE bytes.

        Raises:
            ValueError: fewer than SIZE bytes.
        """
        if len(data) < cls.SIZE:
            raise ValueError(f"{cls.CNAME} takes {cls.SIZE} bytes, got {len(data)}")
        return _gather(cls, iter(cls.CODEC.unpack_from(data)))

    def build(self) -> bytes:
        """Write the struct: SIZE bytes, padding zeroed.

        Raises:
            struct.error: a field does not fit its C type.
        """
        return self.CODEC.pack(*type(self).VALUES(self))


P = TypeVar("P", bound=Payload)


class _Layout(NamedTuple):
    """The layout that `_lay_out` makes of the annotations of a class; sizes in bytes."""

    layout: construct.Struct
    codec: struct.Struct
    members: tuple[Member, ...]
    size: int
    alignment: int


@dataclass_transform(kw_only_default=True, frozen_default=True)
def payload(cname: str, tail: str = "", follows: tuple[Any, ...] = ()) -> Callable[[type[P]], type[P]]:
    """Turn an annotated class into a struct.

    Args:
        cname: the C struct's name.
        tail: the name of its flexible array member, if it has one.
        follows: what that can be, each a hints.Follow.
    """

    def decorate(cls: type[P]) -> type[P]:
        laid = _lay_out(cls)
        if getattr(cls, "argsz", None) == SIZEOF_SELF:
            cls.argsz = laid.size  # type: ignore[attr-defined]  # a field that only some payloads have
        made = dataclass(frozen=True, slots=True, kw_only=True)(cls)
        made.CNAME = cname
        made.TAIL = tail
        made.FOLLOWS = follows
        made.MEMBERS = laid.members
        made.LAYOUT = laid.layout
        made.SIZE = laid.size
        made.ALIGNMENT = laid.alignment
        made.CODEC = laid.codec
        made.FIELDS = tuple((made.__dict__[m.name].__set__, m.nested) for m in laid.members)
        made.LEAVES = tuple(_leaves(laid.members))
        made.VALUES = _getter(made.LEAVES)
        if not laid.codec.size == laid.layout.sizeof() == laid.size:
            raise AssertionError(
                f"{cname}: struct says {laid.codec.size} bytes, construct {laid.layout.sizeof()}, not {laid.size}"
            )
        return made

    return decorate


def _gather(cls: type[P], leaves: Iterator[Any]) -> P:
    """Make a payload from the values that CODEC has unpacked, in order.

    The slots are filled directly: the __init__ of a frozen dataclass takes three times as long.
    """
    made = object.__new__(cls)
    for put, nested in cls.FIELDS:
        put(made, _gather(nested, leaves) if nested else next(leaves))
    return made


def _leaves(members: Iterable[Member]) -> Iterator[str]:
    """Yield the dotted names of the values that CODEC packs, in order."""
    for member in members:
        if member.nested:
            yield from (f"{member.name}.{leaf}" for leaf in member.nested.LEAVES)
        else:
            yield member.name


def _getter(leaves: tuple[str, ...]) -> Callable[[object], tuple[Any, ...]]:
    """Return a getter of all of these values at once; an attrgetter of one name would not make a tuple of it."""
    if len(leaves) > 1:
        return operator.attrgetter(*leaves)
    return staticmethod(lambda made: tuple(getattr(made, leaf) for leaf in leaves))


def _lay_out(cls: type[P]) -> _Layout:
    """Place the fields as the C compiler does: each at a multiple of its own alignment, the end at the largest.

    The construct layout and the format for `struct` are made side by side from the same field.
    """
    subcons: list[Any] = []
    formats: list[str] = []
    members: list[Member] = []
    offset = 0
    largest = 1

    def pad(alignment: int) -> None:
        nonlocal offset
        if gap := -offset % alignment:
            subcons.append(construct.Padding(gap))
            formats.append(f"{gap}x")
            offset += gap

    for name, hint in cls.__annotations__.items():
        nested = hint if isinstance(hint, type) and issubclass(hint, Payload) else None
        subcon = nested.LAYOUT if nested else hint.__metadata__[0]
        size = subcon.sizeof()
        signed = False
        if nested:
            alignment, code = nested.ALIGNMENT, nested.CODEC.format.removeprefix("<")
        elif isinstance(
            subcon, construct.FormatField
        ):  # an integer: "<" and one letter, small if it is signed
            alignment, code = size, subcon.fmtstr.removeprefix("<")
            signed = code.islower()
        else:
            alignment, code = 1, f"{size}s"
        pad(alignment)
        subcons.append(name / subcon)
        formats.append(code)
        members.append(Member(name, offset, size, nested, signed, () if nested else hint.__metadata__[1:]))
        offset += size
        largest = max(largest, alignment)
    pad(largest)
    return _Layout(
        construct.Struct(*subcons), struct.Struct("<" + "".join(formats)), tuple(members), offset, largest
    )
