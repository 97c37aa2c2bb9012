# SPDX-License-Identifier: MIT
"""What a stopped device is, for the other side to be held against: its state, and what it shows."""

from typing import Final

from vfioemu.migration.deadlines import DaemonSilent
from vfioemu.migration.guest import UNKNOWN_STATE, GuestDevice
from vfioemu.migration.messages import DeviceLedger, DevicePart, DeviceVerdict, DeviceView, Likeness
from vfioemu.migration.verify import echo
from vfioemu.migration.verify.estimates import Estimate
from vfioemu.uapi.constants import VFIO_DEVICE_STATE_STOP

REGISTERS: Final = "registers"
_NOBODY_KNOWS: Final = "the guest has no driver that knows which of them may be read"


async def read_source(device: GuestDevice, sent: int, estimate: Estimate) -> DeviceLedger:
    """Read the source's device, whose state was sent; it is left in STOP.

    Args:
        device: in STOP_COPY.
        sent: bytes that were sent of it.
        estimate: what it has said of them.

    Raises:
        OSError: it does not stand still any more.
    """
    try:
        said = await device.stop_copy_size()
        found = await echo.read(device, sent)
    except echo.Unreadable as error:
        return DeviceLedger(
            name=device.name,
            why=str(error),
            promised=estimate.said,
            came=estimate.came,
            views=await _views(device),
        )
    return DeviceLedger(
        name=device.name,
        state=found.digest,
        size=found.size,
        said=None if said == UNKNOWN_STATE else said,
        promised=estimate.said,
        came=estimate.came,
        views=await _views(device),
    )


async def ask_again(device: echo.Readable, ledger: DeviceLedger, verdict: DeviceVerdict) -> DeviceVerdict:
    """Ask the source's device once more if its state is said to differ: it may never give the same state twice.

    Args:
        device: in STOP.
        ledger: what it was when it was asked before.
        verdict: of the destination.

    Raises:
        OSError: as `read_source`.
    """
    state = verdict.parts[0]
    if ledger.why or state.result is not Likeness.DIFFERS:
        return verdict
    try:
        again = await echo.read(device, ledger.size)
        if (again.digest, again.size) == (ledger.state, ledger.size):
            return verdict
        why = "its state is not the same when it is read twice"
    except echo.Unreadable as error:
        why = str(error)
    unknown = DevicePart(what=state.what, result=Likeness.NOT_COMPARED, detail=f"at the source: {why}")
    return DeviceVerdict(name=verdict.name, parts=[unknown, *verdict.parts[1:]])


async def read_destination(device: GuestDevice, received: int) -> DeviceLedger:
    """Read the destination's device, which has loaded its state; it is left in STOP.

    Args:
        device: in STOP.
        received: bytes that have come for it.

    Raises:
        OSError: it cannot be brought back to STOP.
    """
    try:
        found = await echo.read(device, received)
    except echo.Unreadable as error:
        await device.set_state(VFIO_DEVICE_STATE_STOP)
        return DeviceLedger(name=device.name, why=str(error), views=await _views(device))
    return DeviceLedger(name=device.name, state=found.digest, size=found.size, views=await _views(device))


async def _views(device: GuestDevice) -> list[DeviceView]:
    views = await device.views()
    try:
        registers = await device.driver.registers()
        why = "" if registers else _NOBODY_KNOWS
    except DaemonSilent:
        raise
    except OSError as error:  # a device that decodes nothing, or sleeps, has them all the same: in its state
        registers, why = {}, f"they cannot be read: {error.strerror or error}"
    return [*views, DeviceView(what=REGISTERS, values=registers, why=why)]
