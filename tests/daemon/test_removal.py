# SPDX-License-Identifier: MIT
"""Devices that report errors and ask for themselves, and those that are taken away while somebody has them open."""

import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing

from tests.daemon.helpers import MACHINE
from vfioemu import client, daemon
from vfioemu.core.base.errors import IoctlError
from vfioemu.uapi import constants as c

VFIOEMU = str(Path(sys.executable).with_name("vfioemu"))
TRIGGER = c.VFIO_IRQ_SET_DATA_EVENTFD | c.VFIO_IRQ_SET_ACTION_TRIGGER
ERR, REQ = c.VFIO_PCI_ERR_IRQ_INDEX, c.VFIO_PCI_REQ_IRQ_INDEX


@pytest.fixture
async def server():
    async with daemon.running(MACHINE) as running:
        yield running
        assert running.dispatcher.counters.bugs == 0


@pytest.fixture
async def ctl(server):
    async with client.control(server.control_path) as connection:
        yield connection


@pytest.fixture
async def session(server):
    async with client.connect(server.socket_path) as connection:
        yield connection


class Opened:
    """A mediated device that is open."""

    def __init__(self, made, container, group, device):
        self.uuid, self.number = made["name"], made["group"]
        self.container, self.group, self.device = container, group, device
        self.eventfd = -1

    async def listen(self, index):
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        await self.device.set_irqs(TRIGGER, index, 0, 1, struct.pack("<i", self.eventfd))

    def heard(self):
        try:
            return os.eventfd_read(self.eventfd)
        except BlockingIOError:
            return 0

    async def until_heard(self):
        while not (count := self.heard()):
            await trio.lowlevel.wait_readable(self.eventfd)
        return count

    def close(self):
        for file in (self.device, self.group, self.container):
            file.close()


async def open_mdev(session, ctl, model="dma-engine", **options):
    made = await ctl.call("mdev-start", type=model, options=options)
    container = await session.open_container()
    group = await session.open_group(made["group"])
    await group.set_container(container)
    await container.set_iommu()
    return Opened(made, container, group, await group.get_device(made["name"]))


# --- interrupts by command ---


@pytest.mark.parametrize(("what", "index"), [("error", ERR), ("request", REQ)])
async def test_a_device_tells_its_user(session, ctl, what, index):
    opened = await open_mdev(session, ctl, model="vfio-pci", pcie=True)
    assert await ctl.call("device-raise", device=opened.uuid, what=what) == {"heard": False}
    await opened.listen(index)
    for _ in range(2):
        assert await ctl.call("device-raise", device=opened.uuid, what=what) == {"heard": True}
        assert opened.heard() == 1
    await opened.device.set_irqs(TRIGGER, index, 0, 1, struct.pack("<i", -1))
    assert await ctl.call("device-raise", device=opened.uuid, what=what) == {"heard": False}
    opened.close()
    assert await ctl.call("device-raise", device=opened.uuid, what=what) == {"heard": False}


@pytest.mark.parametrize("model", ["oracle", "mtty"])
async def test_a_device_without_such_interrupts(ctl, model):
    made = await ctl.call("mdev-start", type=model)
    for what in ("error", "request"):
        assert await ctl.call("device-raise", device=made["name"], what=what) == {"heard": False}


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"device": "nothing", "what": "error"}, "DeviceNotFound"),
        ({"device": "mb0", "what": "noise"}, "BadArguments"),
        ({"device": "mb0"}, "BadArguments"),
    ],
)
async def test_what_no_device_raises(ctl, arguments, kind):
    with pytest.raises(client.ControlError) as refused:
        await ctl.call("device-raise", **arguments)
    assert refused.value.kind == kind


# --- removal ---


async def test_a_device_that_is_open_is_asked_for_and_waited_for(server, session, ctl, monkeypatch):
    monkeypatch.setattr("vfioemu.daemon.removal.AGAIN", 0.01)
    opened = await open_mdev(session, ctl)
    await opened.listen(REQ)
    answers = []
    async with trio.open_nursery() as nursery:

        async def stop():
            async with client.control(server.control_path) as other:
                answers.append(await other.call("mdev-stop", uuid=opened.uuid))

        nursery.start_soon(stop)
        for _ in range(3):  # at once, and again and again
            assert await opened.until_heard() >= 1
        assert not answers
        # It works as before, and nobody else gets it.
        assert (await opened.device.info()).num_irqs == 5
        with pytest.raises(OSError, match="No such device"):
            await opened.group.get_device(opened.uuid)
        assert [entry["open"] for entry in await ctl.call("mdev-list")] == [1]
        opened.device.close()
    assert answers == [{"uuid": opened.uuid}]
    assert await ctl.call("mdev-list") == []
    # Its group was taken out of the container.
    with pytest.raises(OSError, match="Invalid argument"):
        await opened.container.map_dma(0, 0, 4096)
    with pytest.raises(OSError, match="No such file"):
        await session.open_group(opened.number)
    opened.group.close()
    opened.container.close()


async def test_a_group_in_a_container_goes_without_a_device_that_is_open(session, ctl):
    opened = await open_mdev(session, ctl)
    opened.device.close()
    await ctl.call("mdev-stop", uuid=opened.uuid)
    assert await ctl.call("mdev-list") == []
    with pytest.raises(OSError, match="No such device"):
        await opened.group.set_container(opened.container)
    opened.group.close()
    opened.container.close()


async def test_a_mapping_keeps_it(server, session, ctl):
    opened = await open_mdev(session, ctl, model="vfio-pci")
    mapped = await opened.device.mmap(4096)
    opened.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop, server, opened.uuid)
        while await _devices_of(ctl, opened.number):
            await trio.testing.wait_all_tasks_blocked()
        assert [entry["open"] for entry in await ctl.call("mdev-list")] == [1]
        mapped.close()
    assert await ctl.call("mdev-list") == []


async def _devices_of(ctl, number):
    (devices,) = (
        group["devices"] for group in (await ctl.call("list"))["groups"] if group["number"] == number
    )
    return devices


async def _stop(server, uuid):
    async with client.control(server.control_path) as other:
        await other.call("mdev-stop", uuid=uuid)


async def test_who_stops_waiting_does_not_stop_the_removal(server, session, ctl):
    opened = await open_mdev(session, ctl)
    await opened.listen(REQ)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop, server, opened.uuid)
        await opened.until_heard()
        nursery.cancel_scope.cancel()
    assert await ctl.call("mdev-list") != []
    opened.close()
    while await ctl.call("mdev-list"):
        await trio.testing.wait_all_tasks_blocked()


async def test_who_hangs_up_with_an_unread_answer_is_no_bug_of_ours(server, session, ctl):
    """Its end is a reset then, and is seen while the answer is waited for."""
    opened = await open_mdev(session, ctl)
    await opened.listen(REQ)
    with socket.socket(socket.AF_UNIX) as stopper:
        stopper.connect(str(server.control_path))
        stopper.sendall(
            json.dumps({"execute": "mdev-stop", "arguments": {"uuid": opened.uuid}}).encode() + b"\n"
        )
        await opened.until_heard()
    opened.close()
    while await ctl.call("mdev-list"):
        await trio.testing.wait_all_tasks_blocked()


async def test_a_model_that_fails_to_ask_is_waited_for_all_the_same(
    server, session, ctl, monkeypatch, caplog
):
    monkeypatch.setattr("vfioemu.daemon.removal.AGAIN", 0.01)
    opened = await open_mdev(session, ctl)

    def fails():
        raise IoctlError(errno.EIO, "no such wire")

    model = server.machine.devices[opened.uuid].model
    monkeypatch.setattr(model, "request_removal", fails)
    with pytest.raises(client.ControlError, match="no such wire"):
        await ctl.call("device-raise", device=opened.uuid, what="request")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop, server, opened.uuid)
        while "no such wire" not in caplog.text:
            await trio.lowlevel.checkpoint()
        opened.close()
    assert await ctl.call("mdev-list") == []


async def test_a_client_that_dies_gives_it_back(server, ctl):
    async with trio.open_nursery() as nursery:
        async with client.connect(server.socket_path) as session:
            opened = await open_mdev(session, ctl)
            await opened.listen(REQ)
            nursery.start_soon(_stop, server, opened.uuid)
            await opened.until_heard()
            opened.close()
    assert await ctl.call("mdev-list") == []


async def test_nobody_hears_a_request_and_it_is_said_once(server, session, ctl, monkeypatch, caplog):
    monkeypatch.setattr("vfioemu.daemon.removal.AGAIN", 0.01)
    opened = await open_mdev(session, ctl, model="oracle")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop, server, opened.uuid)
        while "no device request channel" not in caplog.text:
            await trio.lowlevel.checkpoint()
        opened.close()
    assert caplog.text.count("no device request channel") == 1


async def test_the_command_says_what_it_waits_for_and_can_be_interrupted(server, session, ctl):
    opened = await open_mdev(session, ctl)
    where = ("--runtime-dir", str(server.control_path.parent))
    listed = await trio.run_process([VFIOEMU, "device", opened.uuid, "error", *where], capture_stdout=True)
    assert listed.stdout == b"not heard: nobody has set an eventfd for ERR\n"
    await opened.listen(REQ)
    listed = await trio.run_process([VFIOEMU, "device", opened.uuid, "request", *where], capture_stdout=True)
    assert (listed.stdout, opened.heard()) == (b"heard\n", 1)

    process = await trio.lowlevel.open_process(
        [VFIOEMU, "mdev", "stop", "-u", opened.uuid, *where], stderr=subprocess.PIPE
    )
    said = b""
    async with process.stderr:
        await opened.until_heard()
        process.send_signal(signal.SIGINT)
        while part := await process.stderr.receive_some():
            said += part
    assert await process.wait() == 128 + signal.SIGINT
    assert said.splitlines() == [
        b"the device is open; its user is asked to close it, waiting",
        b"the device is removed as soon as it is closed",
    ]
    opened.close()
    while await ctl.call("mdev-list"):
        await trio.testing.wait_all_tasks_blocked()
