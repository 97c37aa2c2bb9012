# SPDX-License-Identifier: MIT
"""Decode the bytes that a call read and wrote into a tree of plain values, from the registry's row of the ioctl.

A tree is what JSON can hold. Structs are dictionaries with the names of <linux/vfio.h>. Memory that a field points to replaces
the address, unless the call did not access it. An array that was cut ends with the string ``"..."``; a dirty bitmap is
``{"dirty", "count", "ranges"}``; an fd that the call looked up or made is ``{"fd", "is"}``.

There is no code for single ioctls here. The meaning of a field is declared with its struct (uapi/hints.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from vfioemu.trace import bitmap
from vfioemu.trace.image import Image
from vfioemu.uapi import constants as c
from vfioemu.uapi.features import FEATURES
from vfioemu.uapi.hints import Chain, DirtyBits, Follow, Hint, Items
from vfioemu.uapi.payload import Member, Payload
from vfioemu.uapi.registry import Ioctl
from vfioemu.uapi.structs import DeviceFeature, InfoCapHeader

Tree: TypeAlias = Any

CUT: Final = "..."
CAPS: Final = "caps"
"""Name of a decoded capability chain; in C it has none."""
DEFAULT_LIMIT: Final = 8
_MAX_CAPS: Final = 64
_MAX_STRING: Final = 4096
_MAX_BITMAP: Final = 256 << 20
"""DIRTY_BITMAP_SIZE_MAX of vfio_iommu_type1.c."""


@dataclass(slots=True)
class Capture:
    """The caller's memory and fds that one call touched.

    Attributes:
        read: the memory that was read.
        written: the memory that was written.
        fds: descriptions of the fd numbers that the call took or returned.
    """

    read: Image = field(default_factory=Image)
    written: Image = field(default_factory=Image)
    fds: dict[int, str] = field(default_factory=dict)


class Decoder:
    """Decode the argument of one call.

    Args:
        capture: what the call read and wrote.
        limit: most elements of an array, and ranges of a bitmap.
        everything: include fields that only the kernel writes; for bytes whose writer is unknown.
    """

    def __init__(self, capture: Capture, limit: int = DEFAULT_LIMIT, *, everything: bool = False) -> None:
        self._before = capture.read
        self._written = capture.written
        self._after = capture.read.overlaid(capture.written) if capture.written else capture.read
        self._fds = capture.fds
        self._limit = limit
        self._worked = True
        self._everything = everything
        self._outputs = False  # decoding an output struct: written fields count even if unchanged

    # --- before ---

    def argument(self, row: Ioctl | None, argument: int) -> Tree:
        """Decode the third argument of ioctl(2) as the caller passed it."""
        if row is None or row.argument == "value":
            return argument
        if row.argument == "none":
            return None
        if row.pointee == "fd":
            raw = self._before.get(argument, 4)
            return argument if raw is None else [self._fd(int.from_bytes(raw, "little", signed=True))]
        if row.pointee == "string":
            return self._string(argument)
        tree = self._struct(row.payload, argument, {}) if row.payload else {}
        return tree or argument

    def _struct(self, cls: type[Payload], address: int, outer: Mapping[str, int]) -> dict[str, Tree]:
        """Decode the fields of a struct, up to the first one that was not read."""
        tree, values = self._fields(cls, address, outer)
        if values is not None:
            self._tail(cls, address, tree, values)
        return tree

    def _fields(
        self, cls: type[Payload], address: int, outer: Mapping[str, int]
    ) -> tuple[dict[str, Tree], dict[str, int] | None]:
        """Decode the members; return them with their numbers for dependent fields, None if some are missing."""
        tree: dict[str, Tree] = {}
        values = {f"..{name}": value for name, value in outer.items() if not name.startswith("..")}
        known = bytes(self._before.prefix(address, cls.SIZE))
        for member in cls.MEMBERS:
            if member.nested is not None:
                inner, complete = self._fields(member.nested, address + member.offset, values)
                if inner:
                    tree[member.name] = inner
                if complete is None:
                    return tree, None
                continue
            raw = known[member.offset : member.offset + member.size]
            out = Hint.OUT in member.hints
            if len(raw) < member.size:
                if out:
                    continue
                return tree, None
            value = _number(member, raw)
            values[member.name] = value
            if out and not self._everything:
                continue
            if self._outputs and self._written.touches(address + member.offset, member.size):
                continue
            if member.name in ("pad", "reserved") and not value:
                continue
            tree[member.name] = self._value(member, raw, value)
        for name, hint in _arrays(cls):
            if name in tree:
                items = self._array(self._before, hint.item, values[name], values.get(hint.count, 0))
                if items:
                    tree[name] = items
        return tree, values

    def _tail(
        self, cls: type[Payload], address: int, tree: dict[str, Tree], values: Mapping[str, int]
    ) -> None:
        """Decode what follows a struct."""
        follow = follower(cls, values)
        if follow is None or (follow.out and not self._everything):
            return
        start = address + cls.SIZE
        if follow.count:
            items = self._array(self._before, follow.item, start, values.get(follow.count, 0))
            if items:
                tree[cls.TAIL] = items
        else:
            self._outputs = self._gets(cls, values)
            if inner := self._struct(follow.item, start, values):
                tree[cls.TAIL] = inner
            self._outputs = False

    @staticmethod
    def _gets(cls: type[Payload], values: Mapping[str, int]) -> bool:
        return cls is DeviceFeature and bool(values.get("flags", 0) & c.VFIO_DEVICE_FEATURE_GET)

    def _array(self, image: Image, item: Any, address: int, count: int) -> list[Tree]:
        """Decode the known elements of an array, cut at the limit."""
        nested = isinstance(item, type) and issubclass(item, Payload)
        member = None if nested else Member("", 0, _size(item), None, _signed(item), item.__metadata__[1:])
        size: int = item.SIZE if nested else _size(item)
        items: list[Tree] = []
        for n in range(min(count, self._limit)):
            raw = image.get(address + n * size, size)
            if raw is None:
                break
            if member is None:
                items.append(self._plain(item, raw))
            else:
                items.append(self._value(member, raw, _number(member, raw)))
        if items and count > len(items):
            items.append(CUT)
        return items

    def _plain(self, cls: type[Payload], raw: bytes) -> dict[str, Tree]:
        """Decode a struct without pointers and followers."""
        tree: dict[str, Tree] = {}
        for member in cls.MEMBERS:
            part = raw[member.offset : member.offset + member.size]
            if member.nested is not None:
                tree[member.name] = self._plain(member.nested, part)
            else:
                tree[member.name] = self._value(member, part, _number(member, part))
        return tree

    def _value(self, member: Member, raw: bytes, value: int) -> Tree:
        if Hint.FD in member.hints:
            return self._fd(value)
        return raw.hex() if member.size > 8 else value

    def _fd(self, number: int) -> Tree:
        what = self._fds.get(number)
        return number if what is None else {"fd": number, "is": what}

    def _string(self, address: int) -> Tree:
        known = bytes(self._before.prefix(address, _MAX_STRING))
        return known.partition(b"\0")[0].decode("latin-1") if known else address

    # --- after ---

    def changes(self, row: Ioctl | None, argument: int, *, worked: bool = True) -> Tree:
        """Decode what the call changed; None for nothing. An empty dirty bitmap that was asked for counts as something."""
        self._worked = worked
        if row is None or row.payload is None or row.argument != "pointer":
            return None
        if not self._written and not (worked and _asks_for_bits(row.payload)):
            return None
        return self._changed(row.payload, argument, argument, {}) or None

    def _changed(
        self, cls: type[Payload], address: int, top: int, outer: Mapping[str, int]
    ) -> dict[str, Tree]:
        tree: dict[str, Tree] = {}
        values = {f"..{name}": value for name, value in outer.items() if not name.startswith("..")}
        for member in cls.MEMBERS:
            where = address + member.offset
            if member.nested is not None:
                if inner := self._changed(member.nested, where, top, values):
                    tree[member.name] = inner
                continue
            raw = self._after.get(where, member.size)
            if raw is None:
                continue
            value = _number(member, raw)
            asked = None if Hint.OUT in member.hints else self._before.get(where, member.size)
            values[member.name] = value if asked is None else _number(member, asked)
            if self._says_something(member, where, raw):
                tree[member.name] = self._value(member, raw, value)
        for member in cls.MEMBERS:
            self._changed_memory(member, address, top, values, tree)
        if (follow := follower(cls, values)) is not None:
            start = address + cls.SIZE
            if not follow.count:
                self._outputs = self._gets(cls, values)
                if inner := self._changed(follow.item, start, top, values):
                    tree[cls.TAIL] = inner
                self._outputs = False
            elif self._written.touches(start, 1):
                tree[cls.TAIL] = self._array(self._after, follow.item, start, values.get(follow.count, 0))
        return tree

    def _says_something(self, member: Member, where: int, raw: bytes) -> bool:
        if not self._written.touches(where, member.size):
            return False
        if member.name in ("pad", "reserved") and not any(raw):
            return False
        return Hint.OUT in member.hints or self._outputs or self._before.get(where, member.size) != raw

    def _changed_memory(
        self, member: Member, address: int, top: int, values: Mapping[str, int], tree: dict[str, Tree]
    ) -> None:
        """Decode the changed memory that a field points to."""
        for hint in member.hints:
            if isinstance(hint, DirtyBits):
                if bits := self._bitmap(hint, values.get(member.name, 0), values):
                    tree[member.name] = bits
            elif isinstance(hint, Chain):
                if caps := self._chain(hint, top, values.get(member.name, 0)):
                    tree[CAPS] = caps
            elif isinstance(hint, Items) and self._written.touches(values.get(member.name, 0), 1):
                count = values.get(hint.count, 0)
                tree[member.name] = self._array(self._after, hint.item, values[member.name], count)

    def _bitmap(self, hint: DirtyBits, address: int, values: Mapping[str, int]) -> Tree:
        """Summarize a dirty bitmap; parts that were not written have no dirty page."""
        pgsize = values.get(hint.pgsize, 0)
        pages = -(-values.get(hint.length, 0) // pgsize) if pgsize else 0
        size = -(-pages // 8)
        if not size or not (self._worked or self._written.touches(address, size)):
            return None
        bits = bitmap.clipped(self._written.filled(address, min(size, _MAX_BITMAP)), pages)
        tree = bitmap.summary(bits, values.get(hint.iova, 0), pgsize, self._limit)
        if self._written.cut:
            tree["cut"] = True
        return tree

    def _chain(self, hint: Chain, top: int, offset: int) -> list[Tree]:
        """Decode the capabilities, while the chain leads to bytes that the call wrote."""
        caps: list[Tree] = []
        seen: set[int] = set()
        while offset and offset not in seen and len(caps) < _MAX_CAPS:
            seen.add(offset)
            raw = self._written.get(top + offset, InfoCapHeader.SIZE)
            if raw is None:
                break
            header = InfoCapHeader.parse(raw)
            cap: dict[str, Tree] = {"id": header.id, "version": header.version}
            if (cls := hint.caps.get(header.id)) is not None:
                cap.update(self._capability(cls, top + offset))
            caps.append(cap)
            offset = header.next
        return caps

    def _capability(self, cls: type[Payload], address: int) -> dict[str, Tree]:
        raw = self._written.get(address, cls.SIZE)
        if raw is None:
            return {}
        tree = self._plain(cls, raw)
        del tree["header"]
        if not tree.get("reserved"):
            tree.pop("reserved", None)
        for follow in cls.FOLLOWS:
            count = tree.get(follow.count, 0)
            tree[cls.TAIL] = self._array(self._written, follow.item, address + cls.SIZE, count)
        return tree


_arrays_of: dict[type[Payload], tuple[tuple[str, Items], ...]] = {}
_bits_in: dict[type[Payload], bool] = {}


def _arrays(cls: type[Payload]) -> tuple[tuple[str, Items], ...]:
    """Return the fields of a struct that hold addresses of arrays."""
    if cls not in _arrays_of:
        found = [(m.name, hint) for m in cls.MEMBERS for hint in m.hints if isinstance(hint, Items)]
        _arrays_of[cls] = tuple(found)
    return _arrays_of[cls]


def _asks_for_bits(cls: type[Payload]) -> bool:
    """Return True if a struct, or anything in it or after it, can ask for a dirty bitmap."""
    if cls not in _bits_in:
        inner = [member.nested for member in cls.MEMBERS if member.nested is not None]
        inner += [follow.item for follow in cls.FOLLOWS if isinstance(follow.item, type)]
        if cls is DeviceFeature:
            inner += [feature.payload for feature in FEATURES.values() if feature.payload is not None]
        own = any(isinstance(hint, DirtyBits) for member in cls.MEMBERS for hint in member.hints)
        _bits_in[cls] = own or any(_asks_for_bits(item) for item in inner)
    return _bits_in[cls]


def follower(cls: type[Payload], values: Mapping[str, int]) -> Follow | None:
    """Return what follows a struct with these values of its fields; None for nothing."""
    flags = values.get("flags", 0)
    if cls is DeviceFeature:
        row = FEATURES.get(flags & c.VFIO_DEVICE_FEATURE_MASK)
        return None if row is None or row.payload is None else Follow(row.payload)
    follows: tuple[Follow, ...] = cls.FOLLOWS
    return next((follow for follow in follows if not follow.flag or flags & follow.flag), None)


def extent(cls: type[Payload], raw: bytes) -> int:
    """Return the bytes of a struct with what its fields say follows it; 0 if `raw` is shorter than the struct."""
    if len(raw) < cls.SIZE:
        return 0
    values = {
        member.name: int.from_bytes(raw[member.offset : member.offset + member.size], "little")
        for member in cls.MEMBERS
        if member.nested is None
    }
    follow = follower(cls, values)
    if follow is None:
        return cls.SIZE
    item = follow.item
    size: int = item.SIZE if isinstance(item, type) and issubclass(item, Payload) else _size(item)
    return cls.SIZE + size * (values.get(follow.count, 0) if follow.count else 1)


def _number(member: Member, raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=member.signed)


def _size(item: Any) -> int:
    size: int = item.__metadata__[0].sizeof()
    return size


def _signed(item: Any) -> bool:
    return bool(item.__metadata__[0].fmtstr[-1:].islower())
