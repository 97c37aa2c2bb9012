# SPDX-License-Identifier: MIT
"""A device for which the guest has no driver: it is migrated as it is, and its registers are not compared."""

import errno

from vfioemu.migration.building import BuildError, Step
from vfioemu.migration.guestspec import ProgramSpec


class NoDriver:
    """Leaves a device alone.

    Args:
        name: how the guest file calls the device.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    async def program(self, program: ProgramSpec, base: int, size: int, seed: int) -> None:
        """Refuse.

        Raises:
            BuildError: always; ENODEV.
        """
        raise BuildError(
            Step.PROGRAM, errno.ENODEV, "it is no dma-engine, and cannot be programmed", self._name
        )

    async def begin(self, seed: int) -> None:
        """Leave it alone."""

    async def registers(self) -> dict[str, str]:
        """Tell nothing: which registers of an unknown device are its state, and which may be read, nobody knows."""
        return {}

    async def writes(self) -> int:
        """Count no DMA."""
        return 0

    async def writer(self) -> int | None:
        """Know of no stamps."""
        return None
