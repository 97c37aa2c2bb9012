# SPDX-License-Identifier: MIT
"""A dma-engine in a daemon: what a harness asks of it on the control socket, while it runs and after its client has gone."""

import struct

import pytest

from tests.releases import having
from tests.stamps import Stamp
from vfioemu import client, daemon
from vfioemu.abi.dma_engine import Command, Register
from vfioemu.client.control import ControlError
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec

PAGE = 4096
UUID = "00000000-0000-4000-8000-000000000001"
MACHINE = MachineSpec(
    groups=(GroupSpec(number=1),),
    devices=(
        DeviceSpec(symbol="dma0", name=UUID, group=1, model="dma-engine", options={"journal": True, "id": 5}),
    ),
)


async def test_a_harness_learns_what_was_written_last_even_when_the_client_has_gone():
    async with daemon.running(MACHINE) as server, client.control(server.control_path) as control:
        with client.Memory(8 * PAGE) as memory:
            async with client.connect(server.socket_path) as session:
                await write_pages(session, memory, 11)
                registers = await inspect(control, "registers")
                assert (registers["SEQ"], registers["SIZE"]) == (11, 8 * PAGE)
            found = await inspect(control, "writes", first=2 * PAGE, limit=3)

            assert (found["device_id"], found["total"], found["next"]) == (5, 8, 5 * PAGE)
            assert [iova // PAGE for iova, _, _ in found["writes"]] == [2, 3, 4]
            for iova, seq, _ in found["writes"]:
                assert Stamp.parse(memory.view, iova) == Stamp(5, seq, iova)


async def write_pages(session, memory, count):
    container = await session.open_container(profile=having("VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2").name)
    group = await session.open_group(1)
    await group.set_container(container)
    await container.set_iommu(3)
    device = await group.get_device(UUID)
    await session.share_memory(memory)
    await container.map_dma(memory.address, 0, memory.size)
    for register, value in (
        (Register.SIZE, 8 * PAGE),
        (Register.ARG0, count),
        (Register.COMMAND, Command.WRITE),
    ):
        await device.pwrite(struct.pack("<Q", value), register)


async def inspect(control, what, device="dma0", **arguments):
    return await control.call("inspect", device=device, what=what, arguments=arguments)


async def test_what_cannot_be_inspected_is_refused_by_name():
    async with daemon.running(MACHINE) as server, client.control(server.control_path) as control:
        for arguments, refusal in (
            ({"what": "registers", "device": "dma7"}, "DeviceNotFound"),
            ({"what": "weather"}, "NothingToInspect"),
            ({"what": "writes", "first": "here"}, "BadArguments"),
        ):
            with pytest.raises(ControlError) as caught:
                await inspect(control, **arguments)
            assert caught.value.kind == refusal
        assert (await inspect(control, "registers", device=UUID))["SEQ"] == 0
