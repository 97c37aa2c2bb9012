# SPDX-License-Identifier: MIT
"""Bytes of a client reach the daemon's log, its trace and the terminal escaped: no command, no line of their own."""

import io
import json
import logging
import os
import sys

import pytest
import trio

from tests.system.run.helpers import HERE, Runner
from vfioemu import client
from vfioemu.cli import errors
from vfioemu.printable import Lines
from vfioemu.testing.daemon import daemon_process, machine_of

NASTY = "\x1b]0;OWNED\x07\x1b[31m\nvfioemu: INFO: forged\r\x9b2J\u202e\u2028\x7f"
RAW = set("\x1b\x07\r\x9b\u202e\u2028\x7f")


def assert_clean(text):
    assert not RAW & set(text), ascii(text)
    assert not [line for line in text.splitlines() if line.startswith("vfioemu: INFO: forged")]


async def speak(path):
    """Say it wherever a client can say something."""
    async with client.connect(path) as session:
        names = [
            f"/dev/vfio/{NASTY}",
            f"/dev/vfio/vfio,profile={NASTY}",
            f"/dev/vfio/vfio,{NASTY}=x",
            NASTY,
            NASTY * 50,
        ]
        for name in names:
            with pytest.raises(OSError, match=r"No such|Invalid|too long"):
                await session.open(name)
        group = await session.open_group(4)
        container = await session.open_container()
        await group.set_container(container)
        await container.set_iommu(3)
        with pytest.raises(OSError, match="No such"):
            await group.get_device(NASTY)


def test_log_and_trace(tmp_path):
    trace = {kind: tmp_path / kind for kind in ("text", "json")}
    for kind, path in trace.items():
        options = [f"--trace={path}", f"--trace-format={kind}"]
        with daemon_process(machine_of([4]), *options) as daemon:
            trio.run(speak, daemon.socket_path)
            said = daemon.log()
        assert_clean(said)
        assert "OWNED" in said  # it is told, escaped
    assert_clean(trace["text"].read_text())
    lines = trace["json"].read_text()
    assert_clean(lines)
    assert "OWNED" in lines
    for line in lines.splitlines():
        json.loads(line)


def test_what_run_says():
    code = f"import os\ntry: os.open({'/dev/vfio/' + NASTY!r}, os.O_RDWR)\nexcept OSError: pass\n"
    runner = Runner("--device=mtty", "--trace")
    environment = {**os.environ, "VFIOEMU_DEBUG": "path,rpc,fd,shim"}
    done = runner(sys.executable, "-c", code, env=environment, cwd=HERE.parents[1])
    assert done.returncode == 0
    assert "OWNED" in done.stderr
    assert_clean(done.stderr)


def test_records_are_one_line_and_tracebacks_none_of_their_own():
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(Lines("vfioemu: %(levelname)s: %(message)s"))
    try:
        raise ValueError(NASTY)
    except ValueError as error:
        handler.handle(
            logging.LogRecord(
                "x", logging.ERROR, "", 0, "said %s", (NASTY,), (ValueError, error, error.__traceback__)
            )
        )
    assert_clean(out.getvalue())
    first, *others = out.getvalue().splitlines()
    assert first.startswith("vfioemu: ERROR: said \\x1b]0;OWNED")
    assert others
    assert all(line.startswith("  ") for line in others)


def test_errors_of_commands():
    out = io.StringIO()
    errors.report(f"the daemon refuses: {NASTY}", f"try {NASTY}", out)
    assert not RAW & set(out.getvalue())
