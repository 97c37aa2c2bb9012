# SPDX-License-Identifier: MIT
"""A first client: map memory, let a device write into it, and ask which pages are dirty.

vfioemu serve --machine docs/examples/machine.toml --runtime-dir build/try --background
python docs/examples/first_calls.py build/try/vfio.sock
vfioemu stop --runtime-dir build/try
"""

import errno
import sys

import trio

import vfioemu.client
from vfioemu.abi.dma_engine import Command, Register
from vfioemu.uapi.constants import VFIO_TYPE1v2_IOMMU


async def main(path: str) -> None:
    """Do with the daemon what a program does with /dev/vfio."""
    async with vfioemu.client.connect(path) as session:
        container = await session.open_container()
        group = await session.open_group(12)
        await group.set_container(container)
        await container.set_iommu(VFIO_TYPE1v2_IOMMU)
        device = await group.get_device("00000000-0000-4000-8000-000000000001")

        ram = vfioemu.client.Memory(1 << 20)
        await session.share_memory(ram)
        await container.map_dma(ram.address, iova=0x100000, size=ram.size)
        await container.dirty_start()

        async def program(register: Register, value: int) -> None:
            await device.pwrite(value.to_bytes(8, "little"), register)

        await program(Register.BASE, 0x100000)
        await program(Register.SIZE, ram.size)
        await program(Register.ARG0, 3)
        await program(Register.COMMAND, Command.WRITE)  # three pages, now

        for iova, size in await container.dirty_ranges(0x100000, ram.size):
            print(f"dirty: {size // 4096} pages at {iova:#x}")
        try:
            await container.map_dma(ram.address, iova=0x100000, size=4096)
        except OSError as error:
            print(f"mapping it twice: {errno.errorcode[error.errno or 0]}, as from Linux")


trio.run(main, sys.argv[1])
