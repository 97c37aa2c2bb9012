# SPDX-License-Identifier: MIT
"""Options of devices: how people write them, and how a model describes those that it takes.

A value is TOML, in a machine file, behind ``--device MODEL,`` and behind ``mdev start -o`` alike. On a command line the quotes
of a text may be left out, in a list as well: ``hide=0x10``, ``migration=[stop-copy]``. `read_pairs` reads that.

A model describes its options by a struct, from which checks, refusals, help and a JSON schema are made::

    class TickOptions(Options):
        step: Annotated[int, Meta(ge=1, le=255, description="how much one ring adds")] = 1

    class Tick(DeviceModel):
        OPTIONS = OptionTable(TickOptions)

        def __init__(self, options):
            self.step = TickOptions.parse(options).step

A model may do without: then OPTIONS is a mapping of names to their meaning, and the model checks values itself.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Self, TypeAlias

import msgspec
from msgspec import Meta, inspect

from vfioemu.core.base.limits import U64_MAX
from vfioemu.printable import printable
from vfioemu.schema import json_schema

U64: TypeAlias = Annotated[int, Meta(ge=0, extra_json_schema={"maximum": U64_MAX})]
"""A number of 64 bits. msgspec has no such limit, so the schema names it, and `Options.parse` holds the value against that."""
_COMMA: Final = re.compile(r",(?![^\[]*\])")
_PATH: Final = re.compile(r"\$\.([^.\[`]+)")
_PROTOCOLS: Final = ("v2", "v1", "none")
_MIGRATION: Final = "migration"
_BY_PROTOCOL: Final = "by which protocol it migrates"


# --- how people write them ---


def split_pairs(text: str) -> list[str]:
    """Split ``A,key=[a,b],...`` at the commas that are not inside brackets."""
    return _COMMA.split(text)


def read_pairs(pairs: Iterable[str]) -> dict[str, object]:
    """Read options, each of them ``KEY=VALUE``.

    Raises:
        ValueError: one has no key or no ``=``, or a key is given twice.
    """
    values: dict[str, object] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ValueError(f"{pair!r} is not key=value")
        if key in values:
            raise ValueError(f"{key} is given twice")
        values[key] = read_value(value)
    return values


def read_value(text: str) -> object:
    """Read a value: a number, a truth value, a list, a quoted text as TOML has them; everything else is a text as it stands."""
    try:
        found = tomllib.loads(f"x = {text}") if text.isprintable() and "#" not in text else {}
    except (ValueError, RecursionError):
        found = {}
    if list(found) == ["x"] and isinstance(found["x"], bool | int | float | str | list):
        return found["x"]
    if text.startswith("[") and text.endswith("]"):
        return [read_value(part.strip()) for part in text[1:-1].split(",") if part.strip()]
    return text


# --- how a model describes them ---


@dataclass(frozen=True, slots=True)
class Option:
    """The description of one option, for people.

    Attributes:
        name: as they write it.
        meaning: what it does.
        kind: what it may be, with its limits; empty if the model does not say so apart from the meaning.
        default: as they would write it; empty if it depends on other things, or the model does not say.
    """

    name: str
    meaning: str
    kind: str = ""
    default: str = ""

    def __str__(self) -> str:
        details = "; ".join(filter(None, (self.kind, f"default {self.default}" if self.default else "")))
        return f"{self.meaning} ({details})" if details else self.meaning


class Options(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The options of a model: a subclass has a field for each, all with a default (UNSET if that depends on other things).

    What one field's type cannot say, `__post_init__` checks; it raises ValueError with the option's name in front.
    """

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        """Read the options of a device.

        Raises:
            ValueError: no such option, a value of another type, or outside the limits.
        """
        try:
            parsed = msgspec.convert(dict(options), cls)
        except msgspec.ValidationError as error:
            raise ValueError(_explain(str(error), cls, options)) from None
        for field in _fields(cls):
            value, most = options.get(field.encode_name), _most(field.type)
            if isinstance(value, int) and most is not None and value > most:
                raise ValueError(_refusal(field, value))
        return parsed

    @classmethod
    def parse_own(cls, options: Mapping[str, object]) -> Self:
        """Read those options that this struct has, as `parse`: for a base class, whose subclass has more."""
        names = {field.encode_name for field in msgspec.structs.fields(cls)}
        return cls.parse({name: value for name, value in options.items() if name in names})


class OptionTable(Mapping[str, str]):
    """The options that a struct describes: names and, for people, what they mean.

    Args:
        type: the struct.
    """

    def __init__(self, type: type[Options]) -> None:
        self.type = type
        self.rows = {row.name: row for row in _rows(type)}

    def __getitem__(self, name: str) -> str:
        return str(self.rows[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def describe(table: Mapping[str, str], migrates: bool) -> list[Option]:
    """List the options of a model, for people.

    Args:
        table: its OPTIONS.
        migrates: vfio core takes the option `migration` with the name of a protocol, as for every model that migrates.
    """
    rows = dict(table.rows) if isinstance(table, OptionTable) else {n: Option(n, t) for n, t in table.items()}
    if migrates:
        own = rows.get(_MIGRATION)
        if own is None:
            rows[_MIGRATION] = Option(_MIGRATION, _BY_PROTOCOL, _either(_PROTOCOLS), _PROTOCOLS[0])
        elif own.kind:
            rows[_MIGRATION] = replace(own, kind=f"{', '.join(_PROTOCOLS)} or {own.kind}")
    return list(rows.values())


def schema(table: Mapping[str, str], migrates: bool) -> dict[str, Any]:
    """Build the JSON Schema of a model's options; arguments as of `describe`.

    A model without a struct has no types of its own to tell: any value matches.
    """
    if isinstance(table, OptionTable):
        found = json_schema(table.type)
        body = found["$defs"].pop(found.pop("$ref").rpartition("/")[2])
        found = {**body, **({"$defs": found["$defs"]} if found["$defs"] else {})}
    else:
        properties = {name: {"description": text} for name, text in table.items()}
        found = {"type": "object", "properties": properties, "required": [], "additionalProperties": False}
    if migrates:
        properties, protocol = found["properties"], {"enum": list(_PROTOCOLS)}
        if own := properties.get(_MIGRATION):
            meaning = {"description": own.pop("description")} if "description" in own else {}
            properties[_MIGRATION] = {**meaning, "anyOf": [protocol, own]}
        else:
            properties[_MIGRATION] = {"description": _BY_PROTOCOL, **protocol, "default": "v2"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def guess(name: str, known: Sequence[str]) -> str:
    """Suggest a word that is near enough, as in ``; did you mean keep?``; empty if none is."""
    words = {word.lower(): word for word in known}
    near = difflib.get_close_matches(name[:100].lower(), words, 1)
    return f"; did you mean {words[near[0]]}?" if near else ""


# --- the words for it ---


def _fields(type: type[Options]) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(type)
    assert isinstance(info, inspect.StructType)
    return info.fields


def _rows(type: type[Options]) -> Iterator[Option]:
    order = [name for base in type.__mro__ for name in vars(base).get("__annotations__", ())]
    for field in sorted(
        _fields(type), key=lambda field: order.index(field.name)
    ):  # its own before its bases'
        default = "" if field.default in (msgspec.UNSET, msgspec.NODEFAULT) else _written(field.default)
        yield Option(
            field.encode_name, str(_schema_of(field.type).get("description", "")), _kind(field.type), default
        )


def _schema_of(info: inspect.Type) -> Mapping[str, object]:
    """Return the parts of a schema that a type's Meta adds: its description, and limits that msgspec does not have."""
    if not isinstance(info, inspect.Metadata):
        return {}
    return {**_schema_of(info.type), **(info.extra_json_schema or {})}


def _bare(info: inspect.Type) -> inspect.Type:
    return _bare(info.type) if isinstance(info, inspect.Metadata) else info


def _most(info: inspect.Type) -> float | None:
    """Return the largest number that a type takes; None without a limit."""
    limit = _schema_of(info).get("maximum", getattr(_bare(info), "le", None))
    return limit if isinstance(limit, int | float) else None


def _kind(info: inspect.Type) -> str:
    """Say what a value may be: ``a number from 1 to 3``."""
    bare = _bare(info)
    if isinstance(bare, inspect.UnionType):
        return " or ".join(_kind(one) for one in bare.types)
    if isinstance(bare, inspect.LiteralType):
        return _either([str(value) for value in bare.values])
    if isinstance(bare, inspect.IntType | inspect.FloatType):
        kind = "a whole number" if isinstance(bare, inspect.IntType) else "a number"
        limits = (bare.ge, _most(info))
        return kind if None in limits else f"{kind} from {limits[0]:g} to {_number(limits[1])}"
    if isinstance(bare, inspect.BoolType):
        return "true or false"
    if isinstance(bare, inspect.VarTupleType):
        length = "" if bare.max_length is None else f" of up to {bare.max_length}"
        return f"a list{length}, each {_kind(bare.item_type)}"
    return "a text"


def _number(value: float | None) -> str:
    return "2^64 - 1" if value == U64_MAX else f"{value:g}" if isinstance(value, float) else str(value)


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _written(value: object) -> str:
    """Write a value as people do on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{','.join(_written(item) for item in value)}]"
    return str(value)


def _explain(message: str, type: type[Options], options: Mapping[str, object]) -> str:
    """Put msgspec's refusal in our words: the option, what it may be, the value, and a guess."""
    what, _, where = message.partition(" - at `")
    fields = {field.encode_name: field for field in _fields(type)}
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", what, re.DOTALL):
        return f"no such option: {printable(unknown[1], 60)}{guess(unknown[1], list(fields))}"
    path = _PATH.match(where)
    field = fields.get(path[1]) if path else None
    return what if field is None else _refusal(field, options[field.encode_name])  # what __post_init__ says


def _refusal(field: inspect.Field, value: object) -> str:
    near = guess(value, _choices(field.type)) if isinstance(value, str) else ""
    return f"{field.encode_name}: {_kind(field.type)}, not {printable(repr(value), 60)}{near}"


def _choices(info: inspect.Type) -> list[str]:
    bare = _bare(info)
    if isinstance(bare, inspect.UnionType):
        return [word for one in bare.types for word in _choices(one)]
    return [str(value) for value in bare.values] if isinstance(bare, inspect.LiteralType) else []
