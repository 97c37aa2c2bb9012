# SPDX-License-Identifier: MIT
"""Remove devices that are open: vfio_unregister_group_dev().

From the start of a removal nobody can open the device. Its user is asked to close it, at once and every ten seconds, by the
device's request interrupt (REQ); then the last close is waited for. A removal cannot be cancelled.
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
"""Seconds between two requests to the user."""
_TOLD: Final = 10
"""Every so many requests one is logged."""


class Removals:
    """Remove open devices.

    Args:
        machine: has the devices.
        dispatcher: runs the models' requests.
        nursery: for the tasks that wait.
    """

    def __init__(self, machine: Machine, dispatcher: Dispatcher, nursery: trio.Nursery) -> None:
        self._machine = machine
        self._dispatcher = dispatcher
        self._nursery = nursery
        self._going: dict[str, trio.Event] = {}

    def begin(self, device: Device, gone: Callable[[], None]) -> trio.Event:
        """Start to remove a device; after its last close `gone` is called and the returned event is set."""
        event = self._going.get(device.symbol)
        if event is None:
            event = self._going[device.symbol] = trio.Event()
            self._machine.withdraw(device)  # before the task starts: from now on nobody can open the device
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
        except IoctlError as error:  # raised by the model; still wait for the close
            log.warning("device %s: cannot signal the request interrupt: %s", device.symbol, error)

    def _tell(self, device: Device, count: int, *, heard: bool) -> None:
        if heard and count % _TOLD == 0:
            log.info("device %s: relaying device request to user (#%d)", device.symbol, count)
        elif not heard and not count:
            log.warning(
                "device %s: no device request channel (REQ) registered, waiting for the close", device.symbol
            )
