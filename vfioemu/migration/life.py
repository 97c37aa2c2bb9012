# SPDX-License-Identifier: MIT
"""Looking whether a guest that was brought back runs: a part of the engine, and pure like it."""

from collections.abc import Generator, Sequence

from vfioemu.migration import actions as do
from vfioemu.migration.actions import Action, Event
from vfioemu.migration.plan import DevicePlan
from vfioemu.uapi.constants import VFIO_DEVICE_STATE_RUNNING
from vfioemu.uapi.flags import state_name


def look(devices: Sequence[DevicePlan]) -> Generator[Action, Event, tuple[list[str], str]]:
    """Ask every device, also those that nothing was done to, whose daemon may have died meanwhile; and watch the CPUs.

    Returns:
        The devices that do not say that they run, and why; the text is empty only if all of the guest runs.
    """
    lost, why = [], ""
    for device in devices:
        answer = yield do.AskState(device.name)
        if isinstance(answer, do.StateIs) and answer.state == VFIO_DEVICE_STATE_RUNNING:
            continue
        lost.append(device.name)
        state = f"it is in {state_name(answer.state)}" if isinstance(answer, do.StateIs) else ""
        why = why or f"{device.name}: {answer.detail if isinstance(answer, do.Failed) else state}"
    moved = yield do.WatchCpus()
    if isinstance(moved, do.Failed):
        why = why or moved.detail
    return lost, why
