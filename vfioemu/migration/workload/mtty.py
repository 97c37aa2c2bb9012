# SPDX-License-Identifier: MIT
"""The guest's driver for a mtty: looks at its ports as a driver of serial ports does, and leaves a byte in each."""

from typing import Final, Self

from vfioemu import client
from vfioemu.migration.building import Step, about
from vfioemu.migration.deadlines import asked
from vfioemu.migration.workload.ids import read_ids
from vfioemu.migration.workload.none import NoDriver

_IDS: Final = bytes.fromhex("48435332")
"""4348:3253 as config space has it: a WCH CH352, which a mtty says that it is."""
_BARS: Final = 2
_PORT: Final = 8
_SCRATCH: Final = 7
_SAFE: Final = {"LCR": 3, "MCR": 4, "SCR": _SCRATCH}
"""Registers of a 16550 that do not change by being read, and that only its driver changes."""


class MttyDriver(NoDriver):
    """Drives one mtty; `probe` makes one.

    Args:
        name: how the guest file calls the device.
        file: the device.
        ports: where each port begins in the device's file.
    """

    def __init__(self, name: str, file: client.Device, ports: list[int]) -> None:
        super().__init__(name)
        self._name = name
        self._file = file
        self._ports = ports

    @classmethod
    async def probe(cls, name: str, file: client.Device) -> Self | None:
        """Look whether a device is a mtty; None if it is not. No register is read."""
        if await read_ids(file) != _IDS:
            return None
        regions = [
            await asked(file, "VFIO_DEVICE_GET_REGION_INFO", file.region_info(bar)) for bar in range(_BARS)
        ]
        return cls(name, file, [region.offset for region in regions if region.size >= _PORT])

    async def begin(self, seed: int) -> None:
        """Write a byte into the scratch register of each port, as Linux's 8250 driver does when it looks for one.

        So a port that has lost its state is another one than before.
        """
        for number, port in enumerate(self._ports):
            with about(Step.PROGRAM, f"{self._name} port {number}"):
                write = self._file.pwrite(bytes([1 + (seed + number) % 255]), port + _SCRATCH)
                await asked(self._file, "a write of its registers", write)

    async def registers(self) -> dict[str, str]:
        """Read the registers that a read leaves alone."""
        values = {}
        for number, port in enumerate(self._ports):
            for name, register in _SAFE.items():
                read = self._file.pread(1, port + register)
                value = await asked(self._file, "a read of its registers", read)
                values[f"port {number} {name}"] = value.hex()
        return values
