# SPDX-License-Identifier: MIT
"""The seventeen phases of a migration, and what can go wrong in each of them."""

import json
from dataclasses import dataclass
from enum import StrEnum

from vfioemu.migration import stream
from vfioemu.migration.chaos.pump import PREAMBLE, Harm
from vfioemu.migration.stream import FrameType
from vfioemu.uapi import constants as u


class Phase(StrEnum):
    """Where a migration is."""

    CONNECT = "connect"
    HELLO = "hello"
    SETUP = "setup"
    FIRST_SYNC = "first sync"
    BULK = "bulk"
    ITERATE = "iterate"
    SWITCHOVER = "switch-over"
    STOPPING = "stopping"
    FINAL_SYNC = "final sync"
    FINAL_SEND = "final send"
    DEVICES = "device state"
    CPUS = "CPU state"
    COMPARE = "compare"
    READY = "READY"
    COMMIT = "COMMIT"
    STARTED = "STARTED"
    CLEANUP = "clean-up"


class Fault(StrEnum):
    """What happens, and to whom: a is the source's side, b the destination's. STOP is SIGSTOP, and SIGCONT after that time."""

    KILL_SOURCE = "source KILL"
    STOP_SOURCE = "source STOP 1 s"
    KILL_DESTINATION = "destination KILL"
    REVIVE_DESTINATION = "destination KILL, started again"
    STOP_DESTINATION = "destination STOP 1 s"
    HANG_DESTINATION = "destination STOP 90 s"
    KILL_DAEMON_A = "daemon a KILL"
    STOP_DAEMON_A = "daemon a STOP 1 s"
    KILL_DAEMON_B = "daemon b KILL"
    STOP_DAEMON_B = "daemon b STOP 1 s"
    EIO_A = "next call to daemon a: EIO"
    ENOMEM_A = "next call to daemon a: ENOMEM"
    EIO_B = "next call to daemon b: EIO"
    ENOMEM_B = "next call to daemon b: ENOMEM"
    FULL_A = "journal a ENOSPC"
    FULL_B = "journal b ENOSPC"
    RESET = "link reset"
    HALF_CLOSE = "link half-close"
    STALL = "link stalls 2 s"
    LATE = "link stalls 15 s"
    BLACK_HOLE = "link black hole"
    CORRUPT_BODY = "link corrupts a frame"
    CORRUPT_BULK = "link corrupts pages"
    TRUNCATE = "link truncates a frame"
    DUPLICATE = "link duplicates a frame"
    REORDER = "link swaps two frames"
    PIECES = "link passes small pieces"


HARMS = {
    Fault.RESET: Harm.RESET,
    Fault.HALF_CLOSE: Harm.HALF_CLOSE,
    Fault.STALL: Harm.STALL,
    Fault.LATE: Harm.LATE,
    Fault.BLACK_HOLE: Harm.BLACK_HOLE,
    Fault.CORRUPT_BODY: Harm.CORRUPT_BODY,
    Fault.CORRUPT_BULK: Harm.CORRUPT_BULK,
    Fault.TRUNCATE: Harm.TRUNCATE,
    Fault.DUPLICATE: Harm.DUPLICATE,
    Fault.REORDER: Harm.REORDER,
    Fault.PIECES: Harm.PIECES,
}

_FRAMES = {
    PREAMBLE: Phase.CONNECT,
    FrameType.HELLO: Phase.HELLO,
    FrameType.SETUP: Phase.SETUP,
    FrameType.RAM: Phase.BULK,
    FrameType.CPUS: Phase.CPUS,
    FrameType.LEDGER: Phase.COMPARE,
    FrameType.READY: Phase.READY,
    FrameType.COMMIT: Phase.COMMIT,
    FrameType.STARTED: Phase.STARTED,
    FrameType.RELEASED: Phase.CLEANUP,
}
_CALLS = {
    "report": Phase.FIRST_SYNC,
    f"set_state {u.VFIO_DEVICE_STATE_PRE_COPY_P2P}": Phase.SWITCHOVER,
    f"set_state {u.VFIO_DEVICE_STATE_STOP_COPY}": Phase.STOPPING,
}


@dataclass(slots=True)
class Observer:
    """Tells the phase from what passes by.

    Attributes:
        final: the last sync was the final one.
    """

    final: bool = False
    rounds: int = 0

    def frame(self, kind: int, data: bytes) -> Phase | None:
        """Return the phase that a frame belongs to, if any."""
        if kind == FrameType.ROUND:
            self.rounds += 1
            self.final = json.loads(data[stream.HEADER_SIZE :])["final"]
            if self.final:
                return Phase.FINAL_SYNC
            return Phase.ITERATE if self.rounds > 1 else None
        if self.final and kind in (FrameType.RAM, FrameType.ZERO):
            return Phase.FINAL_SEND
        if self.final and kind == FrameType.DEVICE:
            return Phase.DEVICES
        return _FRAMES.get(kind)

    def call(self, what: str) -> Phase | None:
        """Return the phase that a call of the source to its daemon belongs to, if any."""
        return _CALLS.get(what)
