# SPDX-License-Identifier: MIT
"""Run the work that devices do by themselves: one task per device, asleep while there is nothing to do."""

import logging
import math
from typing import Final

import trio

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.machine import Machine
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.objects.device import Device
from vfioemu.io.base.turns import CALLS
from vfioemu.io.dispatch import Dispatcher

log: Final = logging.getLogger(__name__)


class Workers:
    """Run `Device.work` of the devices that have it.

    Args:
        machine: has the devices.
        dispatcher: runs the work, and checks what may have changed by it.
        nursery: for the tasks.
    """

    def __init__(self, machine: Machine, dispatcher: Dispatcher, nursery: trio.Nursery) -> None:
        self._dispatcher = dispatcher
        self._nursery = nursery
        self._scopes: dict[str, trio.CancelScope] = {}
        for device in machine.devices.values():
            self.add(device)

    def add(self, device: Device) -> None:
        """Start the task of a new device."""
        if type(device.model).work is DeviceModel.work:
            return
        scope = trio.CancelScope()
        self._scopes[device.symbol] = scope
        self._nursery.start_soon(self._work, device, scope)

    def remove(self, symbol: str) -> None:
        """Cancel the task of a device."""
        scope = self._scopes.pop(symbol, None)
        if scope is not None:
            scope.cancel()

    async def _work(self, device: Device, scope: trio.CancelScope) -> None:
        dispatcher = self._dispatcher
        share = dispatcher.hardware
        driver = dispatcher.driver(share)
        woken = trio.Event()

        def wake() -> None:
            woken.set()

        device.on_wake.append(wake)
        try:
            with scope:
                while True:
                    woken = trio.Event()
                    if not share.free:
                        await share.turn()
                    dispatcher.poller.reap()
                    due: float | None = None
                    try:
                        due = await driver.run(device.work, trio.current_time())
                    except IoctlError as error:
                        log.warning("device %s stops working: %s", device.symbol, error)
                    for look in dispatcher.progress:
                        look()
                    share.spend(CALLS)
                    with trio.move_on_at(math.inf if due is None else due):
                        await woken.wait()
        finally:
            device.on_wake.remove(wake)
