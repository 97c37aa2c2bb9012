# SPDX-License-Identifier: MIT
"""Showing that a guest lives: CPUs and devices make progress where it runs."""

import trio

from vfioemu.migration import events
from vfioemu.migration.guest import Guest
from vfioemu.migration.narrator import Narrator


async def watch(guest: Guest, narrator: Narrator, seconds: float) -> None:
    """Count what the guest does in so many seconds, and tell it."""
    try:
        narrator.say(await _count(guest, seconds))
    except OSError as error:
        narrator.warn(f"the daemon does not tell what the devices do: {error.strerror or error}")


async def _count(guest: Guest, seconds: float) -> events.Alive:
    cpu = guest.cpus.writes
    dma = {name: await device.driver.writes() for name, device in guest.devices.items()}
    began = trio.current_time()
    await trio.sleep(seconds)
    return events.Alive(
        seconds=trio.current_time() - began,
        cpu_writes=guest.cpus.writes - cpu,
        dma_writes={name: await device.driver.writes() - dma[name] for name, device in guest.devices.items()},
    )
