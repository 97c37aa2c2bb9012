# SPDX-License-Identifier: MIT
"""The commands: trace, decode, and --trace of serve and demo."""

import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import msgspec
import pytest

from tests.trace.test_golden import says_why
from tests.trace.test_text import LINES
from vfioemu.cli.main import main
from vfioemu.schema import json_schema
from vfioemu.testing.daemon import daemon_process, machine_of
from vfioemu.trace import events as e
from vfioemu.trace.events import schema
from vfioemu.trace.filter import OTHERS
from vfioemu.trace.text import Printer
from vfioemu.uapi.features import CLASSES
from vfioemu.uapi.kinds import FdKind

VFIOEMU = [sys.executable, "-P", "-m", "vfioemu.cli.main"]
CLIENT = """
import sys, trio
from vfioemu import client
from vfioemu.uapi import constants as c
async def main():
    async with client.connect(sys.argv[1]) as session:
        container = await session.open_container()
        for _ in range(int(sys.argv[2])):
            await container.check_extension(3)
            try:
                await container.ioctl(c.VFIO_IOMMU_MAP_DMA)
            except OSError:
                pass
trio.run(main)
"""


def vfioemu(*arguments, text=""):
    """Run a command in this process: status, what it prints, and what it complains about."""
    out, errors = io.StringIO(), io.StringIO()
    stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
    ends = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), mock.patch("sys.stdin", stdin):
        with mock.patch("sys.argv", ["vfioemu", *map(str, arguments)]), pytest.raises(SystemExit) as ended:
            main()
    for (
        number,
        handler,
    ) in ends.items():  # main() ignores them in the end, and so would all that later tests start
        signal.signal(number, handler)
    return ended.value.code, out.getvalue(), errors.getvalue()


def call(daemon, count=1):
    subprocess.run(
        [sys.executable, "-c", CLIENT, os.fspath(daemon.socket_path), str(count)], check=True, timeout=120
    )


@pytest.fixture
def server():
    with daemon_process(machine_of([12])) as daemon:
        yield daemon


class Tracing:
    """A running `vfioemu trace`, which is listening."""

    def __init__(self, daemon, *options):
        command = [*VFIOEMU, "trace", "--runtime-dir", os.fspath(daemon.directory), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.daemon = daemon

    def __enter__(self):
        while self.daemon.ask("stats")["listeners"] == 0:
            if self.process.poll() is not None:
                raise AssertionError(self.process.communicate())
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        out, errors = self.process.communicate(timeout=120)
        return self.process.returncode, out, errors


def test_trace_until_interrupted(server):
    with Tracing(server, "-T") as tracing:
        call(server)
        lines = [tracing.process.stdout.readline() for _ in range(5)]
        status, _, errors = tracing.interrupt()

    assert (status, errors) == (0, "")
    shown = [re.sub(r" <0\.\d{6}>$", "", re.sub(r"\(\d+<", "(3<", line.rstrip())) for line in lines]
    assert shown[:4] == [
        'open("/dev/vfio/vfio") = ?<container>',
        "ioctl(3<container>, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) = 1",
        "ioctl(3<container>, VFIO_IOMMU_MAP_DMA, 0) = -1 EINVAL (Invalid argument) "
        "/* ioctl 0x3b71 before SET_IOMMU */",
        "close(3<container>) = 0",
    ]
    assert re.fullmatch(r"\+\+\+ client \d+ \(.+\) disconnected, 0 mappings dropped \+\+\+", shown[4])
    assert all(re.search(r" <0\.\d{6}>$", line) for line in lines[:3])


def test_nothing_more_is_shown_after_the_last_line(server):
    with Tracing(server, "-e", "ioctl") as tracing:
        call(server)
        lines = [tracing.process.stdout.readline() for _ in range(2)]
        status, out, _ = tracing.interrupt()

    assert (status, out) == (0, "")
    assert len(lines) == 2


def test_trace_ends_with_the_daemon():
    with daemon_process(machine_of([12])) as daemon, Tracing(daemon, "--json", "-Z") as tracing:
        call(daemon, 3)
        daemon._process.terminate()
        out, errors = tracing.process.communicate(timeout=120)
        daemon._process.wait(120)
    events = [e.decode(line) for line in out.splitlines()]

    assert (tracing.process.returncode, errors) == (0, "")
    assert [event.errno for event in events] == ["EINVAL"] * 3


def test_trace_of_a_head_that_has_seen_enough(server):
    with Tracing(server) as tracing:
        tracing.process.stdout.close()
        while tracing.process.poll() is None:
            call(server, 5)
        errors = tracing.process.stderr.read()
        tracing.process.stderr.close()
        tracing.process.stdout = tracing.process.stderr = None

    assert (tracing.process.returncode, errors) == (0, "")


def test_a_table(server):
    with Tracing(server, "-c", "-e", "ioctl") as tracing:
        call(server, 4)
        status, out, _ = tracing.interrupt()
    lines = out.splitlines()

    assert status == 0
    assert lines[0].split() == ["%", "time", "seconds", "usecs/call", "calls", "errors", "ioctl"]
    rows = {line.split()[-1]: line.split() for line in lines[2:-2]}
    assert rows.keys() == {"VFIO_CHECK_EXTENSION", "VFIO_IOMMU_MAP_DMA"}
    assert rows["VFIO_IOMMU_MAP_DMA"][3:5] == ["4", "4"]
    assert rows["VFIO_CHECK_EXTENSION"][3] == "4"
    assert lines[-1].split()[-3:] == ["8", "4", "total"]


def test_a_table_as_json_in_a_file(server, tmp_path):
    with Tracing(server, "-c", "--json", "-z", "-e", "ioctl", "-o", str(tmp_path / "table")) as tracing:
        call(server, 2)
        status, out, _ = tracing.interrupt()

    assert (status, out) == (0, "")
    (row,) = json.loads((tmp_path / "table").read_text())
    assert (row["ioctl"], row["calls"], row["errors"]) == ("VFIO_CHECK_EXTENSION", 2, 0)


@pytest.mark.parametrize(
    ("options", "status", "why"),
    [
        (["-e", "dmaa"], 2, "'dmaa' is neither a call nor one of the classes"),
        (["-Z", "-z"], 2, "together select nothing"),
        (["-X", "pretty"], 2, "raw"),
        (["--runtime-dir", "/nowhere"], 1, "no daemon runs in /nowhere"),
    ],
)
def test_what_cannot_be_traced(options, status, why):
    got, out, errors = vfioemu("trace", *options)

    assert (got, out) == (status, "")
    assert why in errors
    assert errors.startswith("vfioemu: error: ")


@pytest.mark.parametrize("command", ["trace", "decode"])
def test_help_fits_a_terminal(command):
    status, out, _ = vfioemu(command, "--help")

    assert status == 0
    assert len(out.splitlines()) <= 24
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("option", ["--trace", "--trace=FILE"])
def test_serve_writes_a_trace(option, tmp_path):
    path = tmp_path / "trace"
    option = option.replace("FILE", str(path))
    with daemon_process(machine_of([12]), "--trace-filter", "!disconnected,close", option) as daemon:
        call(daemon)
        if path.parent.exists() and "=" not in option:
            while "MAP_DMA" not in daemon.log():
                pass
        text = daemon.log()
    if "=" in option:
        text = path.read_text()

    assert "VFIO_IOMMU_MAP_DMA, 0) = -1 EINVAL (Invalid argument) /* ioctl 0x3b71 before SET_IOMMU */" in text
    assert "close(" not in text


def test_serve_says_what_is_wrong_with_its_options(tmp_path):
    machine = tmp_path / "m.toml"
    machine.write_text(machine_of([12]))
    common = ["serve", "-m", machine, "--runtime-dir", tmp_path / "run"]

    assert "is neither a call nor" in vfioemu(*common, "--trace", "--trace-filter", "x")[2]
    assert "--trace-filter needs --trace" in vfioemu(*common, "--trace-filter", "dma")[2]
    status, _, errors = vfioemu(*common, f"--trace={tmp_path}/no/file")
    assert status == 1
    assert "cannot write a trace to" in errors


def test_decode_prints_recorded_events(tmp_path):
    recorded = tmp_path / "calls.json"
    recorded.write_bytes(b"\n".join(e.encode(event) for event, _ in LINES) + b"\n\n")

    status, out, errors = vfioemu("decode", "--from-json", recorded)

    assert (status, errors) == (0, "")
    assert out.splitlines() == [line for _, line in LINES]
    assert vfioemu("decode", "--from-json", "-", text=recorded.read_text())[1] == out


def test_decode_says_which_line_is_no_event(tmp_path):
    recorded = tmp_path / "calls.json"
    recorded.write_text('\n{"event": "lost", "count": 1}\n\n{"event": "what"}\n')

    status, out, errors = vfioemu("decode", "--from-json", recorded)

    assert (status, out.splitlines()) == (1, ["--- 1 events lost: the reader was too slow ---"])
    assert f"{recorded}:4: not an event: Invalid value 'what'" in errors


@pytest.mark.parametrize(
    ("arguments", "text", "out"),
    [
        (
            ["--ioctl", "MAP_DMA", "2000000003000000000000000000000000100000000000000010000000000000"],
            "",
            "VFIO_IOMMU_MAP_DMA {argsz=32, flags=READ|WRITE, vaddr=0, iova=0x1000, size=0x1000}\n",
        ),
        (
            ["-X", "verbose", "-"],
            "08 00 00 00 07 00 02 00",
            "VFIO_DEVICE_FEATURE {argsz=8, flags=VFIO_DEVICE_FEATURE_SET|VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP}\n",
        ),
        (["--ioctl", "GET_DEVICE_FD", "303a30", "00"], "", 'VFIO_GROUP_GET_DEVICE_FD "0:0"\n'),
        (["--encode", "--ioctl", "VFIO_GROUP_GET_STATUS"], "", "0800000000000000\n"),
        (["--encode", "--ioctl", "hot_reset_info", "argsz=20"], "", "140000000000000000000000\n"),
        (["--ioctl", "info", "00"], "", None),
    ],
)
def test_decode(arguments, text, out):
    status, got, errors = vfioemu("decode", *arguments, text=text)

    if out is None:
        assert status == 2
        assert "known are" in errors
    elif "verbose" in arguments:
        assert out in got
    else:
        assert (status, got, errors) == (0, out, "")


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (["xyz"], 2, "this is not hex"),
        ([], 2, "no bytes"),
        (["00"], 1, "1 bytes are the argument of no ioctl"),
        (["--encode", "flags=1"], 2, "--encode takes the --ioctl"),
        (
            ["--encode", "--ioctl", "MAP_DMA", "flags=X"],
            2,
            "'X' is not a number or one of READ, WRITE, VADDR",
        ),
        (["--encode", "--ioctl", "MAP_DMA", "flags"], 2, "not of the form FIELD=VALUE"),
        (["--from-json"], 2, "--from-json takes one FILE"),
        (["--ioctl", "nothing", "00"], 2, "no ioctl 'nothing'"),
        (["--ioctl", "map_dm", "00"], 2, "did you mean VFIO_IOMMU_MAP_DMA?"),
        (["--kind", "group", "--ioctl", "MAP_DMA", "00"], 2, "on a group fd"),
    ],
)
def test_what_cannot_be_decoded(arguments, status, why):
    got, out, errors = vfioemu("decode", *arguments)

    assert (got, out) == (status, "")
    assert why in errors


def test_the_committed_schema_is_what_the_types_say():
    path = os.path.join(os.path.dirname(__file__), "..", "..", "protocol", "trace-events.schema.json")
    with open(path, "rb") as file:
        assert file.read() == schema()


def test_the_schema_does_not_depend_on_how_msgspec_cuts_docstrings(monkeypatch):
    made = {
        "$defs": {
            "X": {"description": "A.\n\n    Attributes:\n        a: b.", "anyOf": [{"description": "c"}]}
        }
    }
    monkeypatch.setattr(msgspec.json, "schema", lambda _: made)

    found = json_schema(e.AnyEvent)

    assert found == {
        "$defs": {"X": {"description": "A.\n\nAttributes:\n    a: b.", "anyOf": [{"description": "c"}]}}
    }


def test_the_schema_knows_every_event():
    text = schema().decode()

    for event, _ in LINES:
        assert f'"{event.__struct_config__.tag}"' in text


PROGRAM = """
import fcntl, os, struct, sys
container = os.open("/dev/vfio/vfio", os.O_RDWR)
group = os.open("/dev/vfio/" + sys.argv[1], os.O_RDWR)
fcntl.ioctl(group, 0x3B68, struct.pack("<i", container))
fcntl.ioctl(container, 0x3B66, 3)
try:
    fcntl.ioctl(container, 0x3B71, struct.pack("<IIQQQ", 32, 3, 0x1000, 0, 5))
except OSError:
    pass
"""


def test_run_traces_an_unmodified_program_with_the_numbers_of_its_fds(tmp_path):
    path = tmp_path / "trace"
    command = [
        *VFIOEMU,
        "run",
        "--device",
        "dma-engine",
        f"--trace={path}",
        "--",
        sys.executable,
        "-c",
        PROGRAM,
    ]
    subprocess.run([*command, "{group}"], check=True, timeout=120)

    text = path.read_text()
    assert re.search(r"ioctl\((\d+)<group \d+>, VFIO_GROUP_SET_CONTAINER, \[\d+<container>\]\) = 0", text)
    assert re.search(
        r"ioctl\(\d+<container>, VFIO_IOMMU_MAP_DMA, \{argsz=32, flags=READ\|WRITE, vaddr=0x1000, iova=0, size=0x5\}\) = "
        r"-1 EINVAL \(Invalid argument\) /\* size 0x5, iova 0x0, vaddr 0x1000: not whole pages of 0x1000 \*/",
        text,
    )
    assert "?<container>, VFIO" not in text
    assert re.search(r"\+\+\+ client \d+ \(.+\) disconnected, 0 mappings dropped \+\+\+\n$", text)


def test_run_traces_its_own_daemon_only(tmp_path):
    status, _, errors = vfioemu("run", "--connect", tmp_path, "--trace", "--", "true")

    assert status == 2
    assert "`vfioemu trace` shows its calls" in errors


MANUAL = Path(__file__).parents[2] / "docs" / "trace.md"


def test_what_the_manual_types_prints_what_the_manual_says():
    found = re.findall(r"^\$ vfioemu (decode .*)\n((?:[^$`].*\n)+)", MANUAL.read_text(), re.MULTILINE)

    assert len(found) == 2
    for line, output in found:
        assert vfioemu(*shlex.split(line)) == (0, output, "")


def test_the_manual_s_event_is_one():
    line = next(line for line in MANUAL.read_text().splitlines() if line.startswith('{"event"'))

    assert Printer().line(e.decode(line)) in MANUAL.read_text()


def test_the_manual_names_every_class_and_kind():
    text = MANUAL.read_text()

    for word in (*CLASSES, *OTHERS, *FdKind):
        assert re.search(rf"\b{word}\b", text), word


@pytest.mark.slow
def test_every_refusal_in_the_demo_says_why(tmp_path):
    trace = tmp_path / "demo"
    subprocess.run([*VFIOEMU, "demo", "--trace", trace], check=True, stdout=subprocess.DEVNULL, timeout=280)

    for side in "ab":
        lines = Path(f"{trace}.{side}").read_text().splitlines()
        refused = [line for line in lines if line.startswith("ioctl(") and " = -1 " in line]
        assert refused
        for line in refused:
            assert says_why(line.rpartition("/* ")[2].removesuffix(" */")), line
        assert sum("device_state=" in line for line in lines) > 5
        assert any(re.fullmatch(r"--- dma[01] state \w+ -> \w+ ---", line) for line in lines)
        assert not any("?<" in line for line in lines if line.startswith("ioctl("))
