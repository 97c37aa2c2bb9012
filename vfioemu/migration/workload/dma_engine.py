# SPDX-License-Identifier: MIT
"""The guest's driver for the dma-engine: has it write stamped pages, and reads the registers that have to move with it."""

import errno
from typing import Final, Self

from vfioemu import client
from vfioemu.abi import dma_engine as dma
from vfioemu.migration.building import Step, about
from vfioemu.migration.deadlines import asked
from vfioemu.migration.guestspec import ProgramSpec
from vfioemu.migration.workload.ids import read_ids
from vfioemu.uapi import constants as u

_IDS: Final = dma.VENDOR_ID.to_bytes(2, "little") + dma.DEVICE_ID.to_bytes(2, "little")
_COMMAND: Final = 0x04
"""Its place in config space, and two of its bits."""
_COMMAND_MEMORY: Final = 0x2
_COMMAND_MASTER: Final = 0x4
_STATE: Final = (
    *(dma.Register.ID, dma.Register.DEVICE_ID, dma.Register.CONTROL, dma.Register.BASE, dma.Register.SIZE),
    *(
        dma.Register.PATTERN,
        dma.Register.RATE,
        dma.Register.WRITE_SIZE,
        dma.Register.OFFSET,
        dma.Register.SEED,
    ),
    *(dma.Register.HOT_PAGES, dma.Register.LIMIT, dma.Register.PIN_MODE, dma.Register.PIN_PAGES),
    *(dma.Register.IRQ_EVERY, dma.Register.BATCH, dma.Register.SEQ, dma.Register.WRITES, dma.Register.BYTES),
    *(dma.Register.FAILED, dma.Register.HIDDEN, dma.Register.IRQS, dma.Register.LAST_IOVA),
)
"""What has to be the same on both sides; pins held and the result of the last command are not state that moves."""


class DmaEngineDriver:
    """Drives one dma-engine; `probe` makes one.

    Args:
        name: how the guest file calls the device.
        file: the device.
        bar: where BAR 0 begins in the device's file.
    """

    def __init__(self, name: str, file: client.Device, bar: int) -> None:
        self._name = name
        self._file = file
        self._bar = bar

    @classmethod
    async def probe(cls, name: str, file: client.Device) -> Self | None:
        """Look whether a device is a dma-engine; None if it is not. No register of another device is read."""
        if await read_ids(file) != _IDS:
            return None
        info = file.region_info(u.VFIO_PCI_BAR0_REGION_INDEX)
        region = await asked(file, "VFIO_DEVICE_GET_REGION_INFO", info)
        if region.size < dma.BAR_SIZE or not region.flags & u.VFIO_REGION_INFO_FLAG_READ:
            return None
        driver = cls(name, file, region.offset)
        return driver if await driver._read(dma.Register.ID) == dma.ENGINE_ID else None

    async def program(self, program: ProgramSpec, base: int, size: int, seed: int) -> None:
        """Make it a bus master, and have it write [base, base+size) by DMA, by itself.

        Raises:
            BuildError: a register does not take its value.
        """
        pins = {} if program.pin is None else {dma.Register.PIN_MODE: dma.PinMode[program.pin.upper()]}
        registers = {
            dma.Register.BASE: base,
            dma.Register.SIZE: size,
            dma.Register.PATTERN: dma.Pattern[program.pattern.upper()],
            dma.Register.RATE: program.rate,
            dma.Register.WRITE_SIZE: program.write_size,
            dma.Register.SEED: seed,
            dma.Register.HOT_PAGES: program.hot_pages,
            **pins,
            dma.Register.PIN_PAGES: program.pin_pages,
            dma.Register.CONTROL: dma.CONTROL_RUN,
        }
        await self._enable()
        for register, value in registers.items():
            with about(Step.PROGRAM, f"{self._name} {register.name} = {value:#x}"):
                write = self._file.pwrite(value.to_bytes(8, "little"), self._bar + register)
                await asked(self._file, "a write of its registers", write)

    async def _enable(self) -> None:
        """Set memory decoding and bus mastering in COMMAND, as pci_enable_device() and pci_set_master() do."""
        with about(Step.PROGRAM, f"{self._name} COMMAND"):
            info = self._file.region_info(u.VFIO_PCI_CONFIG_REGION_INDEX)
            place = (await asked(self._file, "VFIO_DEVICE_GET_REGION_INFO", info)).offset + _COMMAND
            read = await asked(self._file, "a read of config space", self._file.pread(2, place))
            value = int.from_bytes(read, "little") | _COMMAND_MEMORY | _COMMAND_MASTER
            write = self._file.pwrite(value.to_bytes(2, "little"), place)
            await asked(self._file, "a write of config space", write)

    async def begin(self, seed: int) -> None:
        """Leave it alone until it is programmed."""

    async def registers(self) -> dict[str, str]:
        """Read the registers that move with the device."""
        read = self._file.pread(dma.REGISTERS_SIZE, self._bar)
        bar = await asked(self._file, "a read of its registers", read)
        return {
            register.name: hex(int.from_bytes(bar[register : register + 8], "little")) for register in _STATE
        }

    async def writes(self) -> int:
        """Read WRITES; 0 while it decodes no memory."""
        return await self._read_if_awake(dma.Register.WRITES) or 0

    async def writer(self) -> int | None:
        """Read DEVICE_ID, which its stamps carry; None while it decodes no memory."""
        return await self._read_if_awake(dma.Register.DEVICE_ID)

    async def _read_if_awake(self, register: dma.Register) -> int | None:
        """Read a register of a device that the guest may have put to sleep."""
        try:
            return await self._read(register)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return None

    async def _read(self, register: dma.Register) -> int:
        read = self._file.pread(8, self._bar + register)
        return int.from_bytes(await asked(self._file, "a read of its registers", read), "little")
