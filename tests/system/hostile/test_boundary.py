# SPDX-License-Identifier: MIT
"""What must not happen costs one connection: not the daemon, and nobody else's."""

import os
import socket

import pytest
import trio

from tests.system.hostile.helpers import Raw
from vfioemu import client
from vfioemu import daemon as daemons
from vfioemu.core.objects.spec import MachineSpec
from vfioemu.io.shim.channel import Channel
from vfioemu.testing.daemon import DaemonProcess
from vfioemu.wire import messages as m


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"execute":"stats","arguments":{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}}",
        b'{"execute":"stats","id":' + b"9" * 5000 + b"}",
        b'{"execute":"set-parameter","arguments":{"name":"dma_entry_limit","value":' + b"9" * 400 + b"}}",
        b'{"execute":"mdev-start","arguments":{"type":"dma-engine","options":{"id":1e400}}}',
        b'{"execute":"mdev-start","arguments":{"type":"oracle","options":{"variant":["x"]}}}',
        b'{"execute":"trace","arguments":{"filters":["/' + b"(" * 1000 + b'"]}}',
        b'{"execute":"trace","arguments":{"filters":["/a{99999999999999999999}"]}}',
        b'{"execute":"trace","arguments":{"filters":[' + b'"dma",' * 999 + b'"dma"]}}',
        b'{"execute":"mdev-stop","arguments":{"uuid":"\\ud800"}}',
        b'{"execute":"\\u0000"}',
        b"\xff\xfe",
    ],
    ids=[
        "array",
        "nested",
        "id",
        "huge",
        "infinite",
        "list",
        "groups",
        "repeats",
        "filters",
        "surrogate",
        "nul",
        "bytes",
    ],
)
def test_any_line_on_the_control_socket_is_refused(daemon: DaemonProcess, line):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        sock.connect(os.fspath(daemon.control_path))
        with sock.makefile("rb") as answers:
            answers.readline()
            sock.sendall(line + b"\n")
            assert b'"error"' in answers.readline()

    assert daemon.ask("stats")["sessions"] == 0


async def test_bug_in_a_connection_ends_that_connection(monkeypatch, caplog):
    """As long as there are none to test with, one is made."""

    async def buggy(channel, *args):
        raise ZeroDivisionError("a bug")

    async with daemons.running(MachineSpec()) as running, client.connect(running.socket_path) as other:
        container = await other.open_container()
        with monkeypatch.context() as patch:
            patch.setattr(Channel, "_serve_other", buggy)
            async with Raw(running.socket_path) as raw:
                raw.send(m.OPEN, data=b"/dev/vfio/vfio")
                with trio.fail_after(10):
                    assert await raw.is_ended()
        assert await container.check_extension(3) == 1
        container.close()
        assert running.dispatcher.counters.bugs == 1
    assert "internal error in a connection" in caplog.text
