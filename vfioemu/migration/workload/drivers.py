# SPDX-License-Identifier: MIT
"""Which driver a guest has for a device."""

from vfioemu import client
from vfioemu.migration.guest import GuestDriver
from vfioemu.migration.workload.dma_engine import DmaEngineDriver
from vfioemu.migration.workload.mtty import MttyDriver
from vfioemu.migration.workload.none import NoDriver


async def find_driver(name: str, file: client.Device) -> GuestDriver:
    """Probe a device.

    Args:
        name: how the guest file calls it, for errors.
        file: the device.

    Raises:
        OSError: the daemon refuses a call.
    """
    for driver in (DmaEngineDriver, MttyDriver):
        found = await driver.probe(name, file)
        if found is not None:
            return found
    return NoDriver(name)
