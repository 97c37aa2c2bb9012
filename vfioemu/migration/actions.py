# SPDX-License-Identifier: MIT
"""What the engine asks of its driver, and what the driver answers.

Exactly one action is outstanding at any time. The driver performs it and feeds one event to `Engine.step()`. Every
event carries `now`, the driver's clock, because the engine has none.

======================  ==========================================  =====================================
action                  does                                        answered by
======================  ==========================================  =====================================
Connect                 connection, HELLO, SETUP, the peer accepts  Done | Failed
BeginLedger             note every write, outside of the uAPI       Done
FillBitmaps             the bitmap of each block := all ones        Done
StartTracking(target)   DIRTY_PAGES START, LOGGING_START, CPU log   Done | Failed
StopTracking(target)    the opposite                                Done | Failed
Sync(final)             read and clear every log into the bitmaps   Synced | Failed
SendRam(limit)          up to `limit` bytes of dirty pages          RamSent | Failed
SetState(device)        MIG_DEVICE_STATE                            Done | Failed
AskState(device)        read MIG_DEVICE_STATE                       StateIs | Failed
ResetDevice(device)     DEVICE_RESET                                Done | Failed
SendDevice(device)      bytes of its saving fd                      DeviceSent | Failed
PauseCpus / ResumeCpus  virtual CPUs                                Done
WatchCpus               wait until each of them has moved           Done | Failed
Throttle(share)         slow the virtual CPUs down                  Done
Wait(seconds)           nothing, for so long                        Done | Failed
SendCpus                state of the virtual CPUs                   Done | Failed
ReadLedger(moment)      which writes came too late?                 Checked | Failed
ReadDevice(device)      what a stopped device is, for comparison    Done | Failed
SendSums                checksums, device ledgers; the comparison   Checked | Failed
Prepare                 PREPARE; wait for READY                     Done | Failed
Note(record)            write it to the journal, durably            Done | Failed
Commit                  COMMIT; wait for the answer                 Started | Refused | Failed
Query                   on a new connection: what became of it?     Started | Refused | Failed
Abort                   tell the peer to forget all; best effort    Done | Failed
Release                 the source gives up what it holds           Done
Audit                   hold all memory against its checksums       Checked | Failed
Finish                  the end; nothing is outstanding after it    (none)
======================  ==========================================  =====================================
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from vfioemu.migration.failedcall import FailedCall
from vfioemu.migration.plan import Blocker, Reason
from vfioemu.migration.records import Record


class TargetKind(StrEnum):
    """What dirty tracking can be switched on for."""

    CPU = "cpu"
    CONTAINER = "container"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Target:
    """One tracker that has to be started and stopped."""

    kind: TargetKind
    name: str


@dataclass(frozen=True, slots=True)
class Connect:
    """Reach the destination and have the geometry of the guest accepted."""


@dataclass(frozen=True, slots=True)
class BeginLedger:
    """Have every write of CPUs and devices noted outside of the uAPI; only for a verification.

    It never fails: what keeps no ledger is not compared, and the driver says so.
    """


@dataclass(frozen=True, slots=True)
class FillBitmaps:
    """Every page has to be sent: the bulk round begins from all ones."""


@dataclass(frozen=True, slots=True)
class StartTracking:
    """Switch a tracker on."""

    target: Target


@dataclass(frozen=True, slots=True)
class StopTracking:
    """Switch a tracker off."""

    target: Target


@dataclass(frozen=True, slots=True)
class Sync:
    """Read and clear all logs, OR them into the bitmap of each block, ask the devices how much they still have.

    Attributes:
        final: CPUs and devices have stopped; nothing can be written afterwards.
    """

    final: bool


@dataclass(frozen=True, slots=True)
class SendRam:
    """Send dirty pages. The bit of a page is cleared before its bytes are read, never after.

    Attributes:
        limit: bytes; 0 = all that is left.
        final: nothing runs any more.
    """

    limit: int
    final: bool


@dataclass(frozen=True, slots=True)
class SetState:
    """Bring a device into a state of VFIO_DEVICE_STATE_*."""

    device: str
    state: int


@dataclass(frozen=True, slots=True)
class AskState:
    """Ask a device for its state, whether or not anything was done to it."""

    device: str


@dataclass(frozen=True, slots=True)
class ResetDevice:
    """The last means to get a device running again."""

    device: str


@dataclass(frozen=True, slots=True)
class SendDevice:
    """Send what the saving fd of a device has.

    Attributes:
        limit: bytes; 0 = to its end (final).
    """

    device: str
    limit: int
    final: bool


@dataclass(frozen=True, slots=True)
class PauseCpus:
    """Stop the virtual CPUs."""


@dataclass(frozen=True, slots=True)
class ResumeCpus:
    """Let the virtual CPUs run."""


@dataclass(frozen=True, slots=True)
class WatchCpus:
    """Wait, for a moment, until each virtual CPU has had its turn since it was let run."""


@dataclass(frozen=True, slots=True)
class Throttle:
    """Keep the virtual CPUs from running for a share of the time.

    Attributes:
        share: from 0, they run as fast as they like, to less than 1.
    """

    share: float


@dataclass(frozen=True, slots=True)
class SendCpus:
    """Send the state of the (stopped) virtual CPUs."""


class Moment(StrEnum):
    """When the ledger is read, after the guest has been told to stand still."""

    SYNCED = "after the final sync"
    COMMIT = "just before COMMIT"
    STARTED = "after STARTED"


@dataclass(frozen=True, slots=True)
class ReadLedger:
    """Read which writes came after the guest had been told to stand still, and sum their pages anew."""

    moment: Moment


@dataclass(frozen=True, slots=True)
class ReadDevice:
    """Read the state of a device again, whose state was sent, and what it shows; it is in STOP then."""

    device: str


@dataclass(frozen=True, slots=True)
class SendSums:
    """Send a checksum of each page and what each device is, and wait for the result of the comparison."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Let time pass; ended early by a cancel or by the loss of the peer."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Prepare:
    """First phase of the hand-over."""


@dataclass(frozen=True, slots=True)
class Note:
    """Write a record to the source's journal; done when it survives a crash."""

    record: Record


@dataclass(frozen=True, slots=True)
class Commit:
    """Second phase: from here on the source may run only if the destination has refused."""


@dataclass(frozen=True, slots=True)
class Query:
    """Ask on a new connection whether the destination runs; it refuses for ever if it does not."""


@dataclass(frozen=True, slots=True)
class Abort:
    """Tell the peer that nothing will come of it."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Release:
    """The destination owns the guest: end the saving sessions."""


@dataclass(frozen=True, slots=True)
class Audit:
    """Sum all memory of the guest that was given up, and hold it against the checksums of what was sent."""


class Outcome(StrEnum):
    """How a migration ended."""

    COMPLETED = "completed"
    MISMATCH = "mismatch"
    """The destination has not got the same guest, and the source runs it on."""
    LOST = "lost"
    """The destination was told to start the guest, and has died since; it may not run anywhere from where it was before."""
    BLOCKED = "blocked"
    FAILED = "failed"
    CANCELLED = "cancelled"
    IN_DOUBT = "in_doubt"


@dataclass(frozen=True, slots=True)
class Finish:
    """The end.

    Attributes:
        source_runs: the guest runs on the source.
        mismatches: pages and devices of which the verification could not say that they are the same, and late writes.
        lost_devices: devices that could not be brought back to RUNNING, or did not say that they are.
        why_lost: what the first of them, or the CPUs, did instead.
        errno: of the call that failed, verbatim; None if no call failed.
        call: which call that was.
    """

    outcome: Outcome
    reason: Reason | None = None
    detail: str = ""
    source_runs: bool = False
    mismatches: int = 0
    lost_devices: tuple[str, ...] = ()
    why_lost: str = ""
    blockers: tuple[Blocker, ...] = ()
    errno: int | None = None
    call: FailedCall | None = None


Action: TypeAlias = (
    Connect
    | BeginLedger
    | FillBitmaps
    | StartTracking
    | StopTracking
    | Sync
    | SendRam
    | SetState
    | AskState
    | ResetDevice
    | SendDevice
    | PauseCpus
    | ResumeCpus
    | WatchCpus
    | Throttle
    | SendCpus
    | ReadLedger
    | ReadDevice
    | SendSums
    | Wait
    | Prepare
    | Note
    | Commit
    | Query
    | Abort
    | Release
    | Audit
    | Finish
)


@dataclass(frozen=True, slots=True)
class Done:
    """It worked, and there is nothing to tell."""

    now: float


@dataclass(frozen=True, slots=True)
class Failed:
    """It did not work; `errno` and `call` tell of a call that failed.

    Attributes:
        unknown: it may have worked, or may still: nobody has waited for the answer.
    """

    now: float
    reason: Reason
    detail: str = ""
    errno: int | None = None
    call: FailedCall | None = None
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class StateIs:
    """What a device has answered: VFIO_DEVICE_STATE_*."""

    now: float
    state: int


@dataclass(frozen=True, slots=True)
class Synced:
    """The logs were read.

    Attributes:
        pages: pages that are dirty now, in all blocks.
        dirtied: how many of them this sync added.
        device_bytes: what the devices still have to send, stop-copy part included.
        largest: the device that has most of it.
        sent: bytes on the wire.
    """

    now: float
    pages: int
    dirtied: int
    device_bytes: int = 0
    largest: str = ""
    sent: int = 0


@dataclass(frozen=True, slots=True)
class RamSent:
    """Pages went out.

    Attributes:
        sent: bytes on the wire.
        pages: pages still dirty in the bitmaps.
        seconds: how much of the time it took to send them; None: all of it. Looking for zero pages, which are not
            sent, says nothing about the link.
    """

    now: float
    sent: int
    pages: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceSent:
    """Device state went out.

    Attributes:
        pending: what PRECOPY_INFO says is left (initial and dirty bytes); 0 at the end of the stream, and if a read
            has given nothing (ENOMSG), whatever PRECOPY_INFO says.
    """

    now: float
    sent: int
    pending: int


@dataclass(frozen=True, slots=True)
class Checked:
    """What was to be compared was compared.

    Attributes:
        mismatches: pages and devices that differ from the source's, or could not be compared.
        reason: MISMATCH, or NOT_COMPARED if nothing is known to differ.
        detail: all of them in a sentence.
    """

    now: float
    mismatches: int = 0
    reason: Reason = Reason.MISMATCH
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """The destination runs, or has run.

    Attributes:
        ended: it has died since, and the guest with it.
        early: writes there after the comparison and before the start; it moved all the same, as the user wanted.
    """

    now: float
    ended: bool = False
    early: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """The destination has refused for ever to run this guest.

    Attributes:
        reason: LATE_WRITE if somebody has written there before the start.
        errno: of the call that failed there, if one did.
        call: that call.
    """

    now: float
    detail: str = ""
    reason: Reason = Reason.PEER_REFUSED
    errno: int | None = None
    call: FailedCall | None = None


Event: TypeAlias = Done | Failed | StateIs | Synced | RamSent | DeviceSent | Checked | Started | Refused
