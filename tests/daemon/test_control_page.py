# SPDX-License-Identifier: MIT
"""protocol/control.md and the code say the same: commands, arguments, keys of answers, classes of errors, limits."""

import ast
import inspect
import json
import os
import re
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from vfioemu import daemon
from vfioemu.daemon import control, ledgers, mediated
from vfioemu.daemon import messages as d
from vfioemu.daemon.config import load_machine
from vfioemu.daemon.tree import MAX_MDEVS
from vfioemu.wire import control as protocol

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "protocol/control.md").read_text(encoding="utf-8")
NOBODY: Any = None
COMMANDS = control.ControlServer(*[NOBODY] * 6)._commands
TYPES: dict[type, str] = {
    msgspec.inspect.StrType: "string",
    msgspec.inspect.LiteralType: "string",
    msgspec.inspect.IntType: "integer",
    msgspec.inspect.BoolType: "boolean",
    msgspec.inspect.DictType: "object",
    msgspec.inspect.UnionType: "string or null",
}
ANYWHERE = {"BadRequest", "CommandNotFound", "BadArguments", "InternalError", "TooManyConnections"}
"""Classes of errors that the page names once: they are those of any command, or of none."""


def sections(page):
    """The commands of a page, and what it says of each."""
    _, _, text = page.partition("\n## Commands\n")
    names = re.split(r"^### (.*)$", text, flags=re.MULTILINE)
    return dict(zip(names[1::2], names[2::2], strict=True))


def rows(text, heading):
    """The rows of a table whose first cell above is `heading`, without back-ticks."""
    found = re.search(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    lines = found[1].splitlines() if found else []
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def fields_of(struct):
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    return info.fields


def arguments_of(struct):
    """As the page writes them: name and type, with the default."""
    for field in fields_of(struct):
        default = ""
        if not field.required:
            value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
            default = f", {json.dumps(value)}"
        yield field.encode_name, type_of(field.type) + default


def type_of(type_):
    """As the page writes it."""
    if isinstance(type_, msgspec.inspect.ListType):
        pairs = isinstance(type_.item_type, msgspec.inspect.TupleType)
        return "list of pairs of integers" if pairs else f"list of {type_of(type_.item_type)}s"
    return TYPES[type(type_)]


def keys_of(hint):
    """The keys of all objects in an answer, but for those of a device, which the page tells once."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        if hint is d.DeviceEntry:
            return
        for name, inner in typing.get_type_hints(hint).items():
            yield name
            yield from keys_of(inner)
    for inner in typing.get_args(hint):
        yield from keys_of(inner)


def classes_of_errors():
    for module in control, ledgers, mediated, protocol:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "ControlError":
                kind = node.args[0]
                if isinstance(kind, ast.Constant):
                    yield kind.value


def limits():
    fields, begin, writes = (
        {field.name: field.type for field in fields_of(struct)}
        for struct in (d.Trace, d.LedgerBegin, d.LedgerWrites)
    )
    return {
        "bytes of a request": protocol.MAX_REQUEST,
        "connections at a time": control.MAX_CONNECTIONS,
        "mediated devices that were started": MAX_MDEVS,
        "filters of trace": fields["filters"].max_length,
        "characters of a filter": fields["filters"].item_type.max_length,
        "limit of trace": fields["limit"].le,
        "devices of ledger-begin": begin["devices"].max_length,
        "ranges of ledger-begin": begin["ranges"].max_length,
        "pages of the ranges of ledger-begin": ledgers.MAX_PAGES,
        "devices that have a ledger": ledgers.MAX_LEDGERS,
        "bitmaps of all ledgers": ledgers.MAX_BITMAPS,
        "bytes of all ledgers": ledgers.MAX_BYTES,
        "parts in an answer of ledger-take": ledgers.MAX_PARTS,
        "limit of ledger-writes": writes["limit"].le,
    }


def differences(page, commands):
    """What the page says otherwise than the code, a line each."""
    found = []

    def compare(what, said, true):
        if said != true:
            found.append(f"{what}: the page has {said}, the code {true}")

    told = sections(page)
    compare("commands", sorted(told), sorted(commands))
    for name in told.keys() & commands.keys():
        arguments, method = commands[name]
        said = [(cells[0], cells[1]) for cells in rows(told[name], "argument")]
        compare(f"arguments of {name}", said, list(arguments_of(arguments)))
        compare(f"no arguments of {name}", "\nNo arguments. " in told[name], arguments is d.NoArguments)
        quoted = set(re.findall(r"`([\w-]+)`", told[name]))
        compare(f"keys of {name}", sorted(set(keys_of(typing.get_type_hints(method)["return"])) - quoted), [])
    _, _, text = page.partition("\n## Commands\n")
    device = re.findall(r"`([\w-]+)`", text.partition("\n### ")[0])
    compare("keys of a device", sorted(set(d.DeviceEntry.__struct_fields__) - set(device)), [])
    classes = {cells[0] for cells in rows(page, "class")}
    compare("classes of errors", sorted(classes), sorted(set(classes_of_errors())))
    named = {name for line in re.findall(r"Errors: (.*)\.$", text, re.MULTILINE) for name in line.split(", ")}
    compare("errors of commands", sorted(named), sorted(classes - ANYWHERE))
    compare("limits", {cells[0]: int(cells[1]) for cells in rows(page, "limit")}, limits())
    return found


def test_page_and_code_say_the_same():
    assert differences(PAGE, COMMANDS) == []


@pytest.mark.parametrize(
    ("words", "others", "seen"),
    [
        ("### metrics\n", "", "commands"),
        ("### metrics\n", "### quit\n\nNo arguments. It ends.\n\n### metrics\n", "commands"),
        ("| `uuid` | string or null, null |", "| `name` | string or null, null |", "arguments of mdev-start"),
        ("| `uuid` | string or null, null |", "| `uuid` | string |", "arguments of mdev-start"),
        ("| `limit` | integer, 8 |", "| `limit` | integer, 16 |", "arguments of trace"),
        ("### mdev-types\n\nNo arguments. ", "### mdev-types\n\n", "no arguments of mdev-types"),
        ("`shared_bytes`", "bytes", "keys of clients"),
        ("`viable`", "viable", "keys of list"),
        ("`sysfsdev`", "sysfsdev", "keys of a device"),
        ("| DeviceFailed |", "| DeviceBroken |", "classes of errors"),
        ("DeviceExists, NoRoom, TooManyDevices", "DeviceExists", "errors of commands"),
        ("| connections at a time | 64 |", "| connections at a time | 63 |", "limits"),
    ],
)
def test_a_wrong_page_is_seen(words, others, seen):
    assert words in PAGE
    found = differences(PAGE.replace(words, others, 1), COMMANDS)

    assert any(line.startswith(f"{seen}: ") for line in found), found


def test_a_command_that_the_page_has_not_is_seen():
    assert any(
        line.startswith("commands: ") for line in differences(PAGE, COMMANDS | {"quit": COMMANDS["list"]})
    )


async def conversation(path, requests):
    """The greeting of a daemon, and what it answers to lines as they are written."""
    lines = protocol.LineBuffer(protocol.MAX_ANSWER)
    async with await trio.open_unix_socket(os.fspath(path)) as stream:

        async def line():
            while (line := lines.line()) is None:
                lines.feed(await stream.receive_some())
            return json.loads(line)

        answers = []
        greeting = await line()
        for request in requests:
            await stream.send_all(request.encode() + b"\n")
            answers.append(await line())
        return greeting, answers


async def test_lines_of_the_page_are_those_of_the_wire():
    """Keys and values, but for those of the greeting's that vary."""
    said = [
        json.loads(line)
        for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
        for line in block.splitlines()
    ]
    greeting, talk = said[0], said[1:]
    async with daemon.running(load_machine(ROOT / "docs/examples/machine.toml")) as running:
        greeted, answers = await conversation(running.control_path, map(json.dumps, talk[::2]))

    assert greeted.keys() == greeting.keys()
    assert greeted["vfioemu"].keys() == greeting["vfioemu"].keys()
    assert greeted["vfioemu"]["commands"] == sorted(COMMANDS)
    assert greeting["vfioemu"]["commands"] == sorted(COMMANDS)[:2]
    assert answers == talk[1::2]
