# SPDX-License-Identifier: MIT
"""A daemon in the loop of its clients, who are several users' processes as far as it can tell; one of them is a bystander."""

import contextlib

import trio

from vfioemu import client
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.io.base import accounts

BIG_BAR = 1 << 20
UUID = "00000000-0000-4000-8000-00000000000"
HOSTILE, HARDWARE, OTHER, ORACLE = 10, 2, 11, 12
MACHINE = MachineSpec(
    groups=tuple(
        GroupSpec(number=n, iommu=IommuSpec(address_bits=48) if n == HARDWARE else None)
        for n in (HOSTILE, HARDWARE, OTHER, ORACLE)
    ),
    devices=tuple(
        DeviceSpec(symbol=f"d{n}", name=name, group=n, model=model, options=options)
        for n, name, model, options in (
            (HOSTILE, UUID + "1", "dma-engine", {"type": 1, "big-bar": BIG_BAR}),
            (HARDWARE, "0000:00:10.0", "dma-engine", {"type": 2, "logging": True}),
            (OTHER, UUID + "2", "dma-engine", {"type": 1}),
            (ORACLE, UUID + "3", "oracle", {"variant": "migspc"}),
        )
    ),
)
NAMES = {device.group: device.name for device in MACHINE.devices}


class World:
    """A daemon in this loop.

    Attributes:
        calls: of the bystander, so far.
    """

    def __init__(self, daemon, patch):
        self.path = daemon.socket_path
        self.server = daemon.server
        self.calls = 0
        self._patch = patch
        self._of, self._find = accounts.Accounts.of, accounts.Accounts.find

    @contextlib.asynccontextmanager
    async def connect(self, who):
        """Connect as another user's process: clients here are one process, and would have one share."""
        self._patch.setattr(accounts.Accounts, "of", lambda every, pid, uid: self._of(every, pid, uid + who))
        self._patch.setattr(
            accounts.Accounts, "find", lambda every, pid, uid: self._find(every, pid, uid + who)
        )
        async with client.connect(self.path) as session:
            yield session

    @contextlib.asynccontextmanager
    async def guest(self, session, number, iommu=3):
        with contextlib.ExitStack() as files:
            container = files.enter_context(await session.open_container())
            group = files.enter_context(await session.open_group(number))
            await group.set_container(container)
            await container.set_iommu(iommu)
            yield container, files.enter_context(await group.get_device(NAMES[number]))

    async def bystander(self, task_status=trio.TASK_STATUS_IGNORED):
        async with self.connect(1) as session:
            container = await session.open_container()
            task_status.started()
            while True:
                await container.check_extension(1)
                self.calls += 1
