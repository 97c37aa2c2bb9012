# SPDX-License-Identifier: MIT
"""Encode names and values into the bytes of an argument, the reverse of decode.py.

    encode(row, {"flags": "READ|WRITE", "iova": "0x1000", "size": "4096"})
    encode(row, {"flags": "SET|MIG_DEVICE_STATE", "device_state": "STOP_COPY", "data_fd": "-1"})
    encode(row, {"flags": "DATA_EVENTFD|ACTION_TRIGGER", "index": "MSIX", "count": "2", "data": "31,-1"})

Names may be short or those of <linux/vfio.h>. `argsz` defaults to the size of the struct and all that follows it. A field of a
nested or following struct needs as many of the names around it as make it unique: ``data.size``, ``bitmap.size``.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum

from vfioemu.trace.decode import follower
from vfioemu.uapi.features import FEATURES, Feature
from vfioemu.uapi.flags import c_name
from vfioemu.uapi.payload import Member, Payload
from vfioemu.uapi.registry import Ioctl
from vfioemu.uapi.structs import DeviceFeature


class EncodeError(ValueError):
    """These values do not make an argument; the text says which one is wrong, and what would work."""


def encode(row: Ioctl, values: Mapping[str, str]) -> bytes:
    """Encode the bytes that the argument of an ioctl points to.

    Raises:
        EncodeError: an unknown name, or a wrong value.
    """
    left = dict(values)
    if row.pointee != "struct" or row.payload is None:
        return _scalar(row, left)
    made = _struct(row.payload, left, row)
    if left:
        known = ", ".join(dict.fromkeys(_names(row.payload, made)))
        raise EncodeError(f"{row.name} has no field {next(iter(left))!r}; known are {known}")
    if "argsz" not in values and row.payload.MEMBERS[0].name == "argsz":
        made[:4] = len(made).to_bytes(4, "little")
    return bytes(made)


def _scalar(row: Ioctl, values: dict[str, str]) -> bytes:
    value = values.pop("arg", None)
    if value is None or values or row.argument != "pointer":
        raise EncodeError(f"{row.name} takes " + ("arg=VALUE" if row.argument == "pointer" else "no memory"))
    if row.pointee == "string":
        return value.encode() + b"\0"
    return _pack("arg", 4, _integer("arg", value), signed=True)


def _struct(cls: type[Payload], values: dict[str, str], row: Ioctl | None, prefix: str = "") -> bytearray:
    """Encode a struct with all that follows, and remove the values it used from `values`."""
    made = bytearray(cls.SIZE)
    numbers: dict[str, int] = {}
    for member in cls.MEMBERS:
        if member.nested is not None:
            inner = _struct(member.nested, values, None, f"{prefix}{member.name}.")
            made[member.offset : member.offset + member.size] = inner[: member.size]
            continue
        text = _take(values, prefix, member.name)
        raw = _default(cls, member) if text is None else _field(cls, member, text, row)
        numbers[member.name] = int.from_bytes(raw, "little", signed=member.signed)
        made[member.offset : member.offset + member.size] = raw
    follow = follower(cls, numbers)
    if follow is None:
        return made
    if not follow.count:
        return made + _struct(follow.item, values, None, f"{prefix}{cls.TAIL}.")
    text = _take(values, prefix, cls.TAIL)
    if text is None or (isinstance(follow.item, type) and issubclass(follow.item, Payload)):
        return made
    layout = follow.item.__metadata__[0]
    for part in text.split(","):
        made += _pack(cls.TAIL, layout.sizeof(), _integer(cls.TAIL, part), layout.fmtstr[-1:].islower())
    return made


def _take(values: dict[str, str], prefix: str, name: str) -> str | None:
    """Remove and return the value of a field, by its full or a shorter name: ``data.bitmap.size``, ``size``."""
    parts = prefix.split(".")[:-1]
    for n in range(len(parts) + 1):
        if (found := values.pop(".".join([*parts[n:], name]), None)) is not None:
            return found
    return None


def _default(cls: type[Payload], member: Member) -> bytes:
    value = getattr(cls(), member.name)
    if isinstance(value, bytes):
        return value
    return int(value).to_bytes(member.size, "little", signed=member.signed)


def _field(cls: type[Payload], member: Member, text: str, row: Ioctl | None) -> bytes:
    if member.size > 8:
        try:
            raw = bytes.fromhex(text.replace("-", ""))
        except ValueError:
            raw = b""
        if len(raw) != member.size:
            raise EncodeError(f"{member.name}: {text!r} is not {member.size} bytes in hex")
        return raw
    named = [hint for hint in member.hints if isinstance(hint, type) and issubclass(hint, Enum)]
    if not named and row is not None and row.flags is not None and member.name == "flags":
        named = [row.flags]
    names_feature = cls is DeviceFeature and member.name == "flags"
    value = _integer(member.name, text, named, FEATURES.values() if names_feature else ())
    return _pack(member.name, member.size, value, member.signed)


def _integer(
    field: str, text: str, named: Iterable[type[Enum]] = (), features: Iterable[Feature] = ()
) -> int:
    """Parse a number, or names joined with ``|``."""
    known: dict[str, int] = {}
    for feature in features:
        known[feature.name] = known[feature.c_name] = feature.number
    for cls in named:
        for member in cls:
            known[member.name] = member.value
            known[c_name(member)] = member.value  # type: ignore[arg-type]  # an IntEnum or IntFlag
    total = 0
    for part in text.split("|"):
        word = part.strip()
        if word in known:
            total |= known[word]
            continue
        try:
            number = int(word, 0)
        except ValueError:
            choice = f" or one of {', '.join(n for n in known if not n.startswith('VFIO_'))}" if known else ""
            raise EncodeError(f"{field}: {word!r} is not a number{choice}") from None
        total = number if len(text.split("|")) == 1 else total | number
    return total


def _pack(field: str, size: int, value: int, signed: bool = False) -> bytes:
    try:
        return value.to_bytes(size, "little", signed=signed and value < 0)
    except OverflowError:
        raise EncodeError(f"{field}: {value} does not fit in {size * 8} bits") from None


def _names(cls: type[Payload], made: bytearray) -> Iterator[str]:
    """Yield the names of the fields of a struct and of what follows it."""
    numbers: dict[str, int] = {}
    for member in cls.MEMBERS:
        if member.nested is not None:
            yield from (f"{member.name}.{inner}" for inner in _names(member.nested, made))
            continue
        raw = made[member.offset : member.offset + member.size]
        numbers[member.name] = int.from_bytes(raw, "little", signed=member.signed)
        yield member.name
    follow = follower(cls, numbers)
    if follow is not None and follow.count:
        yield cls.TAIL
    elif follow is not None:
        yield from _names(follow.item, made[cls.SIZE :])


def key_values(pairs: Iterable[str]) -> dict[str, str]:
    """Parse ``flags=READ`` and so on into a mapping.

    Raises:
        EncodeError: one has no ``=``, or is given twice.
    """
    made: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name in made:
            raise EncodeError(
                f"{pair!r} is " + ("given twice" if name in made else "not of the form FIELD=VALUE")
            )
        made[name] = value
    return made
