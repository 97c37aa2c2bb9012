# SPDX-License-Identifier: MIT
"""The seam for transports: another one than the shim's drives the same core, in files of its own only."""

import errno
import importlib.util
import struct
from pathlib import Path

import pytest
import trio

from tests.io.fake import FakeFile
from tests.io.local import BASE, Local, LocalEventFd
from vfioemu import client
from vfioemu.abi.dma_engine import Command, Register
from vfioemu.core.base.effects import Abandoned, Current, ReadUser, Signal, TakeFd, Watch, WriteUser
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.daemon import running
from vfioemu.io.observe.sink import Sink
from vfioemu.io.observe.tracer import Tracer
from vfioemu.io.transport import PREAD, PWRITE
from vfioemu.trace import events
from vfioemu.trace.filter import Filter
from vfioemu.uapi import constants as c
from vfioemu.uapi.structs import DeviceInfo, IommuType1DmaMap

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "stream_transport.py"
IOVA = 0x100000
DEVICES = {"mediated": (12, "00000000-0000-4000-8000-000000000001", 1), "pinning": (13, "1000:00:10.0", 3)}
MACHINE = MachineSpec(
    groups=tuple(
        GroupSpec(number=number, iommu=IommuSpec() if kind > 1 else None)
        for number, _, kind in DEVICES.values()
    ),
    devices=tuple(
        DeviceSpec(
            symbol=symbol,
            name=name,
            group=number,
            model="dma-engine",
            options={"type": kind, "bus-master": False},
        )
        for symbol, (number, name, kind) in DEVICES.items()
    ),
)


@pytest.fixture
async def daemon():
    """A daemon in this process."""
    async with running(MACHINE) as daemon:
        yield daemon


@pytest.fixture(params=[False, True], ids=["now", "later"])
async def local(request, daemon):
    """A second transport of it: its memory is at hand, or has to be waited for."""
    async with trio.open_nursery() as nursery:
        transport = Local(daemon.dispatcher, waits=request.param)
        daemon.dispatcher.joined(transport)
        nursery.start_soon(daemon.dispatcher.serve, transport)
        yield transport
        for fd in list(transport.files):
            transport.close(fd)
        await transport.settled()
        transport.hang_up()
        daemon.dispatcher.left(transport)
        assert daemon.dispatcher.counters.bugs == 0


async def device_of(local, symbol="mediated"):
    """The fds of container, group and device, by nothing but calls."""
    number, name, _ = DEVICES[symbol]
    container = await local.open("/dev/vfio/vfio")
    group = await local.open(f"/dev/vfio/{number}")
    await local.call(group, c.VFIO_GROUP_SET_CONTAINER, local.put(struct.pack("=i", container)))
    await local.call(container, c.VFIO_SET_IOMMU, c.VFIO_TYPE1v2_IOMMU)
    device = await local.call(group, c.VFIO_GROUP_GET_DEVICE_FD, local.put(name.encode() + b"\0"))
    return container, group, device


async def test_an_ioctl_is_answered_as_by_the_shim(daemon, local):
    _, group, device = await device_of(local)

    assert await local.call(device, c.VFIO_DEVICE_GET_INFO, local.put(DeviceInfo().build())) == 0

    info = DeviceInfo.parse(bytes(local.memory[: DeviceInfo.SIZE]))
    for fd in (device, group):
        local.close(fd)
    await local.settled()
    number, name, _ = DEVICES["mediated"]
    async with client.connect(daemon.socket_path) as session:
        container = await session.open_container()
        group = await session.open_group(number)
        await group.set_container(container)
        await container.set_iommu()
        assert await (await group.get_device(name)).info() == info


async def test_refusals_reach_the_caller_the_log_and_the_counters(local, caplog):
    caplog.set_level("INFO")
    container = await local.open("/dev/vfio/vfio")

    for cmd, arg, error in (
        (c.VFIO_SET_IOMMU, c.VFIO_TYPE1v2_IOMMU, errno.EINVAL),
        (c.VFIO_IOMMU_MAP_DMA, BASE - 8, errno.EINVAL),
    ):
        with pytest.raises(OSError, match="refused") as found:
            await local.call(container, cmd, arg)
        assert found.value.errno == error

    assert f"local: VFIO_SET_IOMMU on fd {container}: EINVAL" in caplog.text
    counted = {(name, error) for name, error, _ in local.dispatcher.counters.named_calls()}
    assert ("VFIO_SET_IOMMU", "EINVAL") in counted


@pytest.mark.parametrize("symbol", DEVICES)
async def test_devices_reach_memory_that_its_owner_has_to_be_asked_for(local, symbol):
    """By address (vfio_dma_rw()), or what the IOMMU has pinned."""
    container, _, device = await device_of(local, symbol)
    mapping = IommuType1DmaMap(
        flags=c.VFIO_DMA_MAP_FLAG_READ | c.VFIO_DMA_MAP_FLAG_WRITE, vaddr=BASE + 4096, iova=IOVA, size=8192
    )
    await local.call(container, c.VFIO_IOMMU_MAP_DMA, local.put(mapping.build()))

    for register, value in (
        (Register.BASE, IOVA),
        (Register.SIZE, 8192),
        (Register.ARG0, 2),
        (Register.COMMAND, Command.WRITE),
    ):
        at = local.put(value.to_bytes(8, "little"))
        assert await local.call(device, at, 8, register, op=PWRITE) == 8

    assert local.memory[4096:].count(b"VFE-DMA\0") == 2
    assert await local.call(device, BASE, 8, Register.BASE, op=PREAD) == 8
    assert int.from_bytes(local.memory[:8], "little") == IOVA


async def test_it_is_traced(daemon, local):
    seen = []
    tracer = Tracer(local.dispatcher, daemon.machine)

    def encode(event):
        seen.append(event)
        return b""

    sink = Sink(encode, Filter())
    tracer.add(sink)

    container = await local.open("/dev/vfio/vfio")
    await local.call(container, c.VFIO_CHECK_EXTENSION, c.VFIO_TYPE1v2_IOMMU)
    local.close(container)
    tracer.remove(sink)

    (ioctl,) = (event for event in seen if isinstance(event, events.Ioctl))
    (closed,) = (event for event in seen if isinstance(event, events.Close))
    assert (ioctl.pid, ioctl.fd, ioctl.ret) == (local.pid, container, 1)
    assert (closed.pid, closed.fd) == (local.pid, container)


async def test_every_effect_of_a_caller_comes_to_its_transport(local):
    """What the driver asks for, one effect after the other, by a file that does nothing else."""
    eventfd = LocalEventFd()
    found = []

    def nothing():
        yield from ()

    def everything(caller, arg):
        yield WriteUser(arg, b"abcd")
        found.append((yield ReadUser(arg, 4)))
        found.append((yield Current()))
        found.append((yield TakeFd(3)))
        try:
            yield TakeFd(99)
        except IoctlError as error:
            found.append(error.errno)
        yield Signal(eventfd)
        found.append((yield Watch(eventfd, nothing)))
        found.append((yield Abandoned(eventfd)))
        return 7

    file = FakeFile()
    file.calls[1] = everything
    local.files[3] = file

    assert await local.call(3, 1, BASE + 16) == 7

    assert found == [b"abcd", local.space, file, errno.EBADF, eventfd, False]
    assert eventfd.count == 1
    assert local.memory[16:20] == b"abcd"


async def test_a_caller_that_is_gone_is_efault_and_the_handler_ends(local):
    ended = []

    def reads(caller, arg):
        try:
            yield ReadUser(arg, 4)
        finally:
            ended.append(True)

    file = FakeFile()
    file.calls[1] = reads
    local.files[3] = file
    local.gone = True

    with pytest.raises(OSError, match="refused") as found:
        await local.call(3, 1, BASE)

    assert found.value.errno == errno.EFAULT
    assert ended


async def test_the_documented_transport_works_beside_the_shim(tmp_path):
    loader = importlib.util.spec_from_file_location("stream_transport", EXAMPLE)
    assert loader is not None
    assert loader.loader is not None
    example = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(example)
    path = str(tmp_path / "stream.sock")
    number, name, _ = DEVICES["pinning"]

    async with running(MACHINE) as daemon, trio.open_nursery() as nursery:
        await nursery.start(example.listen, daemon.dispatcher, path)
        info = await example.device_info(path, number, name)
        async with client.connect(daemon.socket_path) as session:
            container = await session.open_container()
            group = await session.open_group(
                number
            )  # the other client's files have been released: else EBUSY
            await group.set_container(container)
            await container.set_iommu()
            assert await (await group.get_device(name)).info() == info

        async with await trio.open_unix_socket(path) as stream:
            for fd, cmd, data, error in (
                (5, c.VFIO_DEVICE_GET_INFO, b"", errno.EBADF),
                (-1, example.OPEN, b"/dev/vfio/99", errno.ENOENT),
            ):
                with pytest.raises(OSError, match=r"\w") as found:
                    await example.call(stream, fd, cmd, data=data)
                assert found.value.errno == error
            opened, _ = await example.call(stream, -1, example.OPEN, data=b"/dev/vfio/vfio")
            with pytest.raises(OSError, match=r"\w") as found:
                await example.call(stream, opened, c.VFIO_IOMMU_GET_INFO, example.ADDRESS)
            assert found.value.errno == errno.EINVAL  # no IOMMU: the kernel does not look at the argument
            await stream.send_all(example.REQUEST.pack(0, 1, 0, example.MAX_DATA + 1))
            assert await stream.receive_some() == b""
        nursery.cancel_scope.cancel()
        assert daemon.dispatcher.counters.bugs == 0
