# SPDX-License-Identifier: MIT
"""The C header and the Python codec say the same: the header is compiled, and asked."""

import re
import struct
import subprocess
from pathlib import Path

import pytest

from vfioemu.uapi.kinds import FdKind
from vfioemu.wire import messages as m
from vfioemu.wire import names

HEADER = Path(__file__).parents[2] / "protocol" / "vfioemu_wire.h"
DOCUMENT = HEADER.parent / "wire.md"

PLAIN = {
    "WIRE_MAGIC": m.MAGIC,
    "WIRE_VERSION": m.VERSION,
    "MAX_DATA": m.MAX_DATA,
    "MAX_PATH": m.MAX_PATH,
}
LAYOUT = {"type": "H", "flags": "H", "seq": "I", "token": "Q", "arg": "4Q"}
GREETING = ("version", "memory_mode", "daemon_id", "max_data", "max_channels", "max_tokens", "max_windows")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """NAME -> value, as the compiler has it."""
    text = HEADER.read_text()
    constants = sorted(set(re.findall(r"^\t(VFIOEMU_\w+) = \d+", text, re.MULTILINE)))
    constants += [f"VFIOEMU_{name}" for name in PLAIN]
    lines = [f'printf("{name} %llu\\n", (unsigned long long){name});' for name in constants]
    for kind, fields in (("msg", LAYOUT), ("hello", GREETING)):
        lines.append(f'printf("sizeof.{kind} %zu\\n", sizeof(struct vfioemu_{kind}));')
        lines += [
            f'printf("{kind}.{field} %zu\\n", offsetof(struct vfioemu_{kind}, {field}));' for field in fields
        ]
    folder = tmp_path_factory.mktemp("header")
    source = folder / "facts.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n"
        f'#include "{HEADER}"\nint main(void) {{ {"".join(lines)} return 0; }}\n'
    )
    program = folder / "facts"
    subprocess.run(
        ["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True, timeout=60
    )
    output = subprocess.run([program], check=True, capture_output=True, text=True, timeout=10).stdout
    return {name: int(value) for name, value in (line.split() for line in output.splitlines())}


def test_constants_are_equal(compiled):
    ours = {f"VFIOEMU_{name}": value for name, value in PLAIN.items()}
    ours |= {f"VFIOEMU_{member.name}": member.value for member in m.Type}
    ours |= {f"VFIOEMU_F_{member.name}": member.value for member in m.Flag}
    ours |= {f"VFIOEMU_MEMORY_{member.name}": member.value for member in m.MemoryMode}
    ours |= {f"VFIOEMU_{member.name}": member.value for member in m.Leaving}
    ours["VFIOEMU_HELLO_ACCOUNTS"] = m.HELLO_ACCOUNTS
    theirs = {name: value for name, value in compiled.items() if name.startswith("VFIOEMU_")}
    assert ours == theirs
    assert f'"{names.PREFIX}"' in HEADER.read_text()


def test_layouts_are_equal(compiled):
    assert compiled["sizeof.msg"] == m.HEADER_SIZE
    offset = 0
    for field, code in LAYOUT.items():
        assert compiled[f"msg.{field}"] == offset
        offset += struct.calcsize("=" + code)
    assert compiled["sizeof.hello"] == m.Greeting.SIZE
    greeting = m.Greeting(
        version=1,
        memory_mode=m.MemoryMode.PROCESS_VM,
        daemon_id=bytes(range(16)),
        max_data=2,
        max_channels=3,
        max_tokens=4,
        max_windows=5,
        max_shared=6,
        ask_timeout_ms=7,
    )
    encoded = greeting.encode()
    assert encoded[compiled["hello.daemon_id"] :][:16] == bytes(range(16))
    assert int.from_bytes(encoded[compiled["hello.max_windows"] :][:4], "little") == 5
    assert m.Greeting.decode(encoded) == greeting


def test_greeting_too_short_is_refused():
    with pytest.raises(ValueError, match="56"):
        m.Greeting.decode(bytes(55))


def test_every_message_is_in_the_document():
    text = DOCUMENT.read_text()
    for member in m.Type:
        assert re.search(rf"\b{member.name}\b", text), f"wire.md does not speak of {member.name}"
    for flag in m.Flag:
        assert re.search(rf"\b{flag.name}\b", text), f"wire.md does not speak of the flag {flag.name}"


@pytest.mark.parametrize("kind", FdKind)
def test_names_are_read_as_written(kind):
    name = names.TokenName(bytes(range(16)), kind, 12345)
    assert names.parse(name.address()) == name


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/run/some.sock",
        b"",
        b"\0other/x",
        b"\0vfioemu/",
        b"\0vfioemu/" + b"0" * 32 + b"/container/-1",
        b"\0vfioemu/" + b"0" * 31 + b"/container/1",
        b"\0vfioemu/" + b"z" * 32 + b"/container/1",
        b"\0vfioemu/" + b"0" * 32 + b"/iommufd/1",
        b"\0vfioemu/" + b"0" * 32 + b"/container/1/2",
        b"\0vfioemu/" + b"0" * 32 + b"/container/" + b"1" * 21,
    ],
)
def test_other_names_are_none(address):
    assert names.parse(address) is None


@pytest.mark.parametrize("value", [0, 1, -1, -22, (1 << 63) - 1, -(1 << 63)])
def test_results_are_signed(value):
    message = m.decode(m.encode(m.REPLY, 7, args=(value, 0, 0, 0)))
    assert m.signed(message.arg0) == value
