# SPDX-License-Identifier: MIT
"""What the source is doing, in words: for the text of whatever ends it."""

from collections.abc import Mapping
from typing import Final

from vfioemu.migration import actions as do
from vfioemu.migration.actions import Action
from vfioemu.uapi.flags import state_name


def in_words(action: Action) -> str:
    """Name an action in words, for people."""
    match action:
        case do.SetState(device, state):
            return f"{device} to {state_name(state)}"
        case do.AskState(device) | do.ResetDevice(device) | do.SendDevice(device):
            return f"{_WORDS[type(action)]} {device}"
        case do.StartTracking(target) | do.StopTracking(target):
            return f"{_WORDS[type(action)]} {target.name}"
        case _:
            return _WORDS.get(type(action), type(action).__name__)


_WORDS: Final[Mapping[type, str]] = {
    do.Connect: "the connection",
    do.StartTracking: "start of dirty tracking on",
    do.StopTracking: "stop of dirty tracking on",
    do.Sync: "the read of the dirty logs",
    do.SendRam: "the pages",
    do.AskState: "the state of",
    do.ResetDevice: "the reset of",
    do.SendDevice: "the data of",
    do.SendCpus: "the state of the CPUs",
    do.SendSums: "the comparison at the destination",
    do.Prepare: "READY from the destination",
    do.Release: "the end of the saving sessions",
}
