# SPDX-License-Identifier: MIT
"""The control socket: every command, and what is refused."""

import contextlib
import errno
import json
import os
import socket

import pytest
import trio

from tests.daemon.helpers import DEVICES, MACHINE, pin, set_up
from vfioemu import client, daemon
from vfioemu.cli.errors import CommandError
from vfioemu.cli.where import connected
from vfioemu.control_client import ControlSocket
from vfioemu.daemon import control as dc
from vfioemu.io.base.limits import Limits
from vfioemu.wire import control as protocol


@pytest.fixture
async def server():
    async with daemon.running(MACHINE) as running:
        yield running


@pytest.fixture
async def ctl(server):
    async with client.control(server.control_path) as connection:
        yield connection


async def test_greeting_names_the_commands(ctl):
    about = ctl.greeting["vfioemu"]
    assert about["pid"] == os.getpid()
    for command in about["commands"]:
        assert isinstance(command, str)
    assert set(about["commands"]) >= {"list", "stats", "set-parameter", "mdev-start", "metrics", "clients"}


async def test_list(ctl):
    listing = await ctl.call("list")
    assert {device["symbol"] for device in listing["devices"]} == set(DEVICES)
    assert listing["parameters"] == {"dma_entry_limit": 65535}
    assert {group["number"]: group["iommu"] for group in listing["groups"]} == {
        2: True,
        12: False,
        13: False,
        20: False,
    }


async def test_stats_and_clients_follow_what_happens(server, ctl):
    async with client.connect(server.socket_path) as session:
        container, group, device = await set_up(session)
        with client.Memory(4 * 4096) as memory:
            await session.share_memory(memory)
            await container.map_dma(memory.address, 0, memory.size)
            await pin(device, 0, 2)
            stats = await ctl.call("stats")
            assert stats["files"] == {"container": 1, "group": 1, "device": 1}
            assert stats["totals"]["mappings"] == 1
            assert stats["totals"]["pins"] == 2
            (entry,) = await ctl.call("clients")
            assert entry["session"] == session.number
            assert entry["pid"] == os.getpid()
            assert entry["locked_pages"] == 2
            assert entry["shared_bytes"] == 4 * 4096
            assert entry["files"] == 3
        for file in (device, group, container):
            file.close()
        stats = await ctl.call("stats")
        assert stats["files"] == {}
        assert stats["containers"] == {}
        counted = {(entry["call"], entry["errno"]): entry["count"] for entry in stats["calls"]}
        assert counted["VFIO_IOMMU_MAP_DMA", ""] == 1
        assert counted["open", ""] == 2
    with trio.fail_after(5):
        while await ctl.call("clients"):
            pass


async def test_unknown_calls_are_counted_as_other(server, ctl):
    async with client.connect(server.socket_path) as session:
        container = await session.open_container()
        for number in range(5):
            with pytest.raises(OSError, match="Invalid"):
                await container.ioctl(0x1000 + number)
    counted = {
        (entry["call"], entry["errno"]): entry["count"] for entry in (await ctl.call("stats"))["calls"]
    }
    assert counted["other", "EINVAL"] == 5
    assert len(server.dispatcher.counters.calls) == 2


async def test_metrics(server, ctl):
    async with client.connect(server.socket_path) as session:
        container = await session.open_container()
        await container.get_api_version()
        text = await ctl.call("metrics")
    assert 'vfioemu_calls_total{call="VFIO_GET_API_VERSION",errno=""} 1.0' in text
    assert 'vfioemu_files{kind="container"} 1.0' in text
    assert "vfioemu_sessions 1.0" in text


async def test_parameter_applies_to_later_containers(server, ctl):
    assert await ctl.call("set-parameter", name="dma_entry_limit", value=1) == {"dma_entry_limit": 1}
    async with client.connect(server.socket_path) as session:
        container, _, _ = await set_up(session)
        await container.map_dma(0, 0, 4096)
        with pytest.raises(OSError, match="No space"):
            await container.map_dma(0, 4096, 4096)


async def test_mdev_comes_and_goes(server, ctl):
    types = {entry["id"]: entry for entry in await ctl.call("mdev-types")}
    assert {"oracle", "dma-engine"} <= set(types)
    assert types["oracle"]["description"].startswith("The device the golden traces were recorded with")
    assert "variant" in types["oracle"]["options"]
    made = await ctl.call("mdev-start", type="oracle", options={"variant": "log"})
    assert [entry["name"] for entry in await ctl.call("mdev-list")] == [made["name"]]
    async with client.connect(server.socket_path) as session:
        container = await session.open_container()
        group = await session.open_group(made["group"])
        await group.set_container(container)
        await container.set_iommu()
        device = await group.get_device(made["name"])
        for file in (device, group, container):
            file.close()
        await ctl.call("mdev-stop", uuid=made["name"])
        with pytest.raises(OSError, match="No such file"):
            await session.open_group(made["group"])
    assert await ctl.call("mdev-list") == []


UUID = "00000000-0000-4000-8000-0000000000aa"


@pytest.mark.parametrize(
    ("command", "arguments", "kind"),
    [
        ("mdev-start", {"type": "dma-engine", "uuid": ""}, "BadArguments"),
        ("nothing", {}, "CommandNotFound"),
        ("list", {"x": 1}, "BadArguments"),
        ("set-parameter", {"name": "x", "value": 1}, "ParameterNotFound"),
        ("set-parameter", {"name": "dma_entry_limit", "value": -1}, "BadArguments"),
        ("set-parameter", {"name": "dma_entry_limit", "value": "x"}, "BadArguments"),
        ("mdev-start", {"type": "none"}, "TypeNotFound"),
        ("mdev-start", {"type": "oracle", "uuid": "5"}, "BadArguments"),
        ("mdev-start", {"type": "oracle", "uuid": DEVICES["mb0"][1]}, "DeviceExists"),
        ("mdev-start", {"type": "oracle", "uuid": UUID, "options": {"variant": "x"}}, "BadArguments"),
        ("mdev-stop", {"uuid": DEVICES["mb0"][1]}, "DeviceNotFound"),
    ],
)
async def test_refusals(ctl, command, arguments, kind):
    with pytest.raises(client.ControlError) as refused:
        await ctl.call(command, **arguments)
    assert refused.value.kind == kind


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"5", b'{"execute": 5}', b'{"execute": "list", "x": 1}'])
async def test_garbage_is_answered_and_the_connection_lives(server, line):
    async with await trio.open_unix_socket(os.fspath(server.control_path)) as stream:
        await stream.send_all(line + b'\n{"execute": "list", "id": "last"}\n')
        text = b""
        while b'"last"' not in text:
            text += await stream.receive_some()
    answers = [json.loads(part) for part in text.splitlines()]
    assert answers[-1]["id"] == "last"
    if line:
        assert answers[1]["error"]["class"] == "BadRequest"


async def test_endless_line_ends_the_connection(server, monkeypatch):
    monkeypatch.setattr(protocol, "MAX_REQUEST", 1000)
    async with await trio.open_unix_socket(os.fspath(server.control_path)) as stream:
        await stream.send_all(b"x" * 2000)
        with trio.fail_after(5):
            try:
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass


async def test_who_has_been_silent_for_longest_makes_room(server, monkeypatch):
    monkeypatch.setattr(dc, "MAX_CONNECTIONS", 2)
    async with client.control(server.control_path) as speaks, client.control(server.control_path) as silent:
        assert await speaks.call("list")
        for _ in range(5):
            async with client.control(server.control_path) as third:
                assert await third.call("list")
                assert await speaks.call("list")
        with pytest.raises(client.DaemonGone):
            await silent.call("list")
    assert server.dispatcher.counters.bugs == 0


async def test_who_listens_to_a_trace_stays_and_others_are_told(server, monkeypatch):
    monkeypatch.setattr(dc, "MAX_CONNECTIONS", 1)
    async with await trio.open_unix_socket(os.fspath(server.control_path)) as listens:
        await listens.send_all(b'{"execute": "trace"}\n')
        got = b""
        while got.count(b"\n") < 2:
            got += await listens.receive_some()
        with pytest.raises(client.ControlError, match="the limit of 1 connections is reached") as refused:
            async with client.control(server.control_path):
                pass
        assert refused.value.kind == "TooManyConnections"
        with pytest.raises(CommandError, match="refuses the connection: the limit of 1 connections"):
            await trio.to_thread.run_sync(connected, server.control_path.parent)
        async with client.connect(server.socket_path) as session:
            await session.open("/dev/vfio/vfio")
        assert b'"event":"open"' in await listens.receive_some()


def test_a_daemon_that_does_not_answer_is_not_waited_for_without_end(tmp_path):
    """Stopped, for example: connect() succeeds all the same."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "control.sock"))
        listener.listen()
        with pytest.raises(TimeoutError) as late:
            ControlSocket(tmp_path / "control.sock", 0.01)
        assert late.value.errno == errno.ETIMEDOUT
        with pytest.raises(CommandError, match="timed out") as refused:
            connected(tmp_path, 0.01)
        assert "vfioemu stop" in refused.value.hint
    with pytest.raises(CommandError, match="no daemon runs"):
        connected(tmp_path)


async def test_what_listens_and_is_no_daemon_is_told(tmp_path):
    path = tmp_path / "control.sock"

    async def babble(stream):
        await stream.send_all(b"220 mail.example.org\n")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        async with trio.open_nursery() as nursery:
            listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener.dup()))]
            nursery.start_soon(trio.serve_listeners, babble, listeners)
            with pytest.raises(client.DaemonGone, match="not a line of a vfioemu daemon"):
                async with client.control(path):
                    pass
            with pytest.raises(CommandError, match="not a line of a vfioemu daemon"):
                await trio.to_thread.run_sync(connected, tmp_path)
            nursery.cancel_scope.cancel()


async def test_bug_in_a_command_is_told(server, ctl, monkeypatch, caplog):
    """A model that somebody else has written may not know what it was given."""

    def buggy(*_):
        raise OverflowError("a bug")

    monkeypatch.setattr(server.machine, "add_device", buggy)
    with pytest.raises(client.ControlError, match="OverflowError"):
        await ctl.call("mdev-start", type="dma-engine")
    assert "a bug" in caplog.text
    assert (await ctl.call("stats"))["internal_errors"] == 1


async def test_line_that_comes_in_single_bytes(server):
    stream = await trio.open_unix_socket(server.control_path)
    async with stream:
        for byte in b'{"execute":"mdev-list"}\n{"execute":"x"}\n':
            await stream.send_all(bytes([byte]))
        got = b""
        with trio.fail_after(5):
            while got.count(b"\n") < 3:
                got += await stream.receive_some()
    assert b'{"return":[]' in got
    assert b"CommandNotFound" in got


async def test_client_that_never_reads_is_hung_up_on(caplog):
    async with daemon.running(MACHINE, limits=Limits(ask_timeout=0.2)) as server:
        stream = await trio.open_unix_socket(server.control_path)
        async with stream:
            with trio.fail_after(10), contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await stream.send_all(b'{"execute":"metrics"}\n' * 100)
    assert "does not read" in caplog.text


@pytest.mark.parametrize("spelling", ["{}", "{{{}}}", "urn:uuid:{}"])
async def test_mdev_is_stopped_by_whatever_it_was_started_by(ctl, spelling):
    name = spelling.format("00000000-0000-4000-8000-0000000000AB")
    assert (await ctl.call("mdev-start", type="dma-engine", uuid=name))["name"] == name.strip("{}")[
        -36:
    ].lower()
    await ctl.call("mdev-stop", uuid=name)
    assert await ctl.call("mdev-list") == []


async def test_address_beyond_64_bits_is_refused(ctl):
    with pytest.raises(client.ControlError, match="cannot be at"):
        await ctl.call("mdev-start", type="nvme", options={"addresses": [1 << 70]})
