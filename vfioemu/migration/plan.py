# SPDX-License-Identifier: MIT
"""What is to be migrated, within which limits, and what forbids it.

Values only: the engine decides on them, drivers fill them from a live guest, tests invent them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from vfioemu.uapi.constants import VFIO_MIGRATION_P2P, VFIO_MIGRATION_PRE_COPY, VFIO_MIGRATION_STOP_COPY

PAGE: Final = 4096
"""Guest pages are 4 KiB, the smallest page size of every emulated IOMMU; bitmaps have one bit for each."""


class Reason(StrEnum):
    """Why a migration ended as it did: a closed list, stable for scripts. reasons.py says what each means."""

    NO_MIGRATION_SUPPORT = "no_migration_support"
    P2P_MIXED = "p2p_mixed"
    DEVICE_NOT_RUNNING = "device_not_running"
    TRACKING_START_FAILED = "tracking_start_failed"
    TRACKING_SYNC_FAILED = "tracking_sync_failed"
    DEVICE_ERROR = "device_error"
    DEVICE_STATE_TOO_LARGE = "device_state_too_large"
    NOT_CONVERGING = "not_converging"
    PEER_ABSENT = "peer_absent"
    PEER_BUSY = "peer_busy"
    OUTAGE_TOO_LONG = "outage_too_long"
    DAEMON_SILENT = "daemon_silent"
    PEER_REFUSED = "peer_refused"
    PEER_LOST = "peer_lost"
    PEER_SILENT = "peer_silent"
    PEER_UNTRUSTED = "peer_untrusted"
    GUEST_DIFFERS = "guest_differs"
    VERIFY_REQUIRED = "verify_required"
    TLS_REFUSED = "tls_refused"
    STREAM_CORRUPT = "stream_corrupt"
    VERSION = "version"
    CANCELLED = "cancelled"
    LATE_WRITE = "late_write"
    MISMATCH = "mismatch"
    NOT_COMPARED = "not_compared"
    LOG_FAILED = "log_failed"
    GUEST_ENDED = "guest_ended"


class OnMismatch(StrEnum):
    """What becomes of a guest if nothing shows that it has arrived as it was."""

    ABORT = "abort"
    """The destination refuses it for ever, and the source runs it on."""
    MOVE = "move"
    """It moves all the same, as with a VMM that compares nothing."""


class Tracker(StrEnum):
    """Who tells which pages the devices of one container wrote."""

    DEVICE = "device"
    """DMA logging of every device of the container; their reports are OR-ed."""
    CONTAINER = "container"
    """VFIO_IOMMU_DIRTY_PAGES of the container."""
    ALL_DIRTY = "all-dirty"
    """Nobody: every page counts as written, at every sync."""
    NONE = "none"
    """Nobody, and nobody is needed: there is no device in the container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One RAM block of the guest."""

    name: str
    npages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    """One device, as its uAPI describes it.

    Attributes:
        name: unique in the guest.
        migration: the flags of VFIO_DEVICE_FEATURE_MIGRATION; 0 when the device has no such feature.
        logging: it supports VFIO_DEVICE_FEATURE_DMA_LOGGING_START.
        running: it is in VFIO_DEVICE_STATE_RUNNING.
    """

    name: str
    migration: int
    logging: bool
    running: bool = True

    @property
    def p2p(self) -> bool:
        """It has the RUNNING_P2P state."""
        return bool(self.migration & VFIO_MIGRATION_P2P)

    @property
    def precopy(self) -> bool:
        """It has the PRE_COPY state."""
        return bool(self.migration & VFIO_MIGRATION_PRE_COPY)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerPlan:
    """One container with its devices.

    Attributes:
        dirty_pages: it reports the migration capability with 4 KiB pages, so DIRTY_PAGES works on it.
    """

    name: str
    devices: tuple[DevicePlan, ...]
    dirty_pages: bool

    @property
    def tracker(self) -> Tracker:
        """QEMU's order (vfio_get_dirty_bitmap): device logging if all have it, else the container, else nobody."""
        if not self.devices:
            return Tracker.NONE
        if all(device.logging for device in self.devices):
            return Tracker.DEVICE
        return Tracker.CONTAINER if self.dirty_pages else Tracker.ALL_DIRTY


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """One reason why a migration may not even begin."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The guest as the engine sees it."""

    blocks: tuple[Block, ...]
    containers: tuple[ContainerPlan, ...]
    verify: bool = False

    @property
    def npages(self) -> int:
        """Pages of RAM, of all blocks."""
        return sum(block.npages for block in self.blocks)

    @property
    def devices(self) -> tuple[DevicePlan, ...]:
        """Every device, in the order in which they are started; they are stopped in the reverse order."""
        return tuple(device for container in self.containers for device in container.devices)

    def blockers(self) -> tuple[Blocker, ...]:
        """All reasons at once, so that a user does not meet them one by one."""
        return tuple(self._blockers())

    def _blockers(self) -> Iterator[Blocker]:
        devices = self.devices
        for device in devices:
            if not device.migration & VFIO_MIGRATION_STOP_COPY:
                yield Blocker(reason=Reason.NO_MIGRATION_SUPPORT, detail=f"{device.name} has no STOP_COPY")
            elif not device.running:
                yield Blocker(reason=Reason.DEVICE_NOT_RUNNING, detail=f"{device.name} is not in RUNNING")
        if len(devices) > 1:  # QEMU: vfio_multiple_devices_migration_is_supported()
            for device in devices:
                if not device.p2p:
                    yield Blocker(
                        reason=Reason.P2P_MIXED,
                        detail=f"{device.name} has no P2P, which {len(devices)} devices together need",
                    )


MAX_DEVICE_STATE: Final = 32 << 30
"""Bytes of state that one device may have, if the user has not said it: the largest vGPUs have as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the user allows.

    Attributes:
        bandwidth: bytes per second while the guest runs; 0 = as fast as it goes. The stopped phase is never slowed.
        downtime: seconds that the guest should stand still at most; times the measured bandwidth it is the threshold,
            and the outage is held against it.
        max_outage: seconds after which a stop is ended, and the guest goes on; 0 = never, None = `default_max_outage`.
        max_rounds: pre-copy rounds, the bulk round among them, before the engine says that it does not converge;
            0 = no limit.
        max_seconds: the same for the time since the destination has accepted the guest; 0 = no limit,
            None = `default_timeout`.
        max_device_state: bytes of state that one device may have.
        slice_bytes: RAM sent by one action when the bandwidth is not limited.
        window: seconds over which the bandwidth is measured and limited (QEMU's BUFFER_DELAY).
        on_mismatch: whether the guest moves even if it is not the same there.
    """

    bandwidth: int = 0
    downtime: float = 0.3
    max_outage: float | None = None
    max_rounds: int = 0
    max_seconds: float | None = None
    max_device_state: int = MAX_DEVICE_STATE
    slice_bytes: int = 64 << 20
    device_slice_bytes: int = 1 << 20
    window: float = 0.1
    on_mismatch: OnMismatch = OnMismatch.ABORT


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One pre-copy round: from one sync to the next.

    Attributes:
        number: 0 is the bulk round.
        pages: pages to be sent when the round began.
        dirtied: pages that its sync found newly dirty (all, in the bulk round).
        device_bytes: device state still to come when the round began, stop-copy part included.
        largest: the device that has most of it.
        ram_bytes: bytes of RAM sent, headers included.
        bandwidth: as measured when the round ended.
    """

    number: int
    pages: int
    dirtied: int
    began: float
    device_bytes: int = 0
    largest: str = ""
    ram_bytes: int = 0
    state_bytes: int = 0
    seconds: float = 0.0
    bandwidth: float = 0.0
