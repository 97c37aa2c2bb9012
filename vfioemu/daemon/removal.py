# SPDX-License-Identifier: MIT
"""Devices that are taken away while somebody has them open: vfio_unregister_group_dev().

Nobody can open them any more. Who has one open is asked for it, at once and every ten seconds, by the interrupt that devices
have for that; then it is waited for. There is no way back, whoever stops waiting.
"""

import logging
from collections.abc import Callable
from typing import Final

import trio

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.machine import Machine
from vfioemu.core.objects.device import Device
from vfioemu.io.dispatch import Dispatcher
from vfioemu.io.driver import Driver

log: Final = logging.getLogger(__name__)

AGAIN: Final = 10.0
"""Seconds between two requests."""
_TOLD: Final = 10
"""Of so many requests one is told."""


class Removals:
    """Takes devices away.

    Args:
        machine: whose devices.
        dispatcher: runs what they are asked for.
        nursery: where it is waited.
    """

    def __init__(self, machine: Machine, dispatcher: Dispatcher, nursery: trio.Nursery) -> None:
        self._machine = machine
        self._dispatcher = dispatcher
        self._nursery = nursery
        self._going: dict[str, trio.Event] = {}

    def begin(self, device: Device, gone: Callable[[], None]) -> trio.Event:
        """Withdraw a device; `gone` is called when it has been taken away, and then the event is set."""
        event = self._going.get(device.symbol)
        if event is None:
            event = self._going[device.symbol] = trio.Event()
            self._machine.withdraw(device)
            self._nursery.start_soon(self._remove, device, gone, event)
        return event

    async def _remove(self, device: Device, gone: Callable[[], None], event: trio.Event) -> None:
        driver = self._dispatcher.driver()
        count = 0
        while device.open_count:
            closed = trio.Event()
            device.on_closed.append(closed.set)
            try:
                await self._ask(driver, device, count)
                count += 1
                with trio.move_on_after(AGAIN):
                    await closed.wait()
            finally:
                device.on_closed.remove(closed.set)
        await driver.run(self._machine.take_away, device)
        del self._going[device.symbol]
        gone()
        event.set()

    async def _ask(self, driver: Driver, device: Device, count: int) -> None:
        try:
            self._tell(device, count, heard=await driver.run(device.request_removal))
        except IoctlError as error:  # of its model: it goes when it is closed
            log.warning("device %s: its user cannot be asked to give it back: %s", device.symbol, error)

    def _tell(self, device: Device, count: int, *, heard: bool) -> None:
        if heard and count % _TOLD == 0:
            log.info("device %s: its user is asked to give it back (#%d)", device.symbol, count)
        elif not heard and not count:
            log.warning(
                "device %s: nobody hears a request for it (REQ), it goes when it is closed", device.symbol
            )
