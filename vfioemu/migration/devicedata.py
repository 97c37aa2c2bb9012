# SPDX-License-Identifier: MIT
"""What the devices of a source say of their state, held against what they send: who says too little, or has no end, is named."""

from collections.abc import Callable, Mapping
from typing import Final

from vfioemu.migration.guest import UNKNOWN_STATE, GuestError
from vfioemu.migration.plan import Reason

STUCK: Final = 5.0
"""Seconds in which the pre-copy data of a device have to become less, or a warning names it."""
TIMES: Final = 4
"""How often what MIG_DATA_SIZE says a stopped device may send: it is an estimate..."""
MORE: Final = 4 << 30
"""... and so many bytes besides: some drivers say 0."""


class DeviceData:
    """The state of all devices, in bytes.

    Args:
        limit: bytes that the state of one device may have.
        warn: is told what the user should know.

    Attributes:
        dry: devices whose last read has given nothing (ENOMSG).
    """

    def __init__(self, limit: int, warn: Callable[[str], None]) -> None:
        self.dry: set[str] = set()
        self._limit = limit
        self._warn = warn
        self._warned: set[str] = set()
        self._said: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._stopped: dict[str, int] = {}
        self._lowest: dict[str, tuple[int, float]] = {}

    def says(self, sizes: Mapping[str, int], *, final: bool) -> None:
        """Note what MIG_DATA_SIZE says.

        Raises:
            GuestError: DEVICE_STATE_TOO_LARGE, as long as the guest has not been stopped for it.
        """
        self._said.update(sizes)
        for device, size in sizes.items():
            if size != UNKNOWN_STATE and not final:
                self._check(device, size)

    def sends(self, device: str, count: int, *, final: bool) -> None:
        """Note bytes that a device has given; `final`: it has been stopped.

        Raises:
            GuestError: DEVICE_STATE_TOO_LARGE; DEVICE_ERROR, it gives far more than it has said, and there is no end of it.
        """
        self._sent[device] = self._sent.get(device, 0) + count
        self._check(device, self._sent[device])
        if not final:
            return
        stopped = self._stopped[device] = self._stopped.get(device, 0) + count
        said = self._said.get(device, UNKNOWN_STATE)
        if said != UNKNOWN_STATE and stopped > TIMES * said + MORE:
            raise GuestError(
                Reason.DEVICE_ERROR,
                f"{device} has given {stopped} bytes since it was stopped, and there is no end of it; MIG_DATA_SIZE was {said}",
            )

    def left(self, device: str, pending: int, *, dry: bool, now: float) -> int:
        """Return the pre-copy bytes that count as left: none if a read has given nothing, as in QEMU.

        vfio_update_estimated_pending_data(): a device may count what it cannot give now, or give up counting.

        Args:
            device: its name.
            pending: initial and dirty bytes of PRECOPY_INFO.
            dry: the last read has given nothing.
            now: the time.
        """
        if dry:
            self.dry.add(device)
            if pending:
                self._once(device, f"says that {pending} bytes of pre-copy data are left, and gives none")
            return 0
        self.dry.discard(device)
        lowest, since = self._lowest.get(device, (pending + 1, now))
        if pending < lowest or not pending:
            self._lowest[device] = pending, now
        elif now - since >= STUCK:
            self._once(device, f"has {pending} bytes of pre-copy data left; they do not become less")
        return pending

    def _once(self, device: str, what: str) -> None:
        if device not in self._warned:
            self._warned.add(device)
            self._warn(f"{device} {what}")

    def _check(self, device: str, size: int) -> None:
        if size > self._limit:
            raise GuestError(
                Reason.DEVICE_STATE_TOO_LARGE,
                f"{device} has a state of {size} bytes, and {self._limit} are allowed (--max-device-state)",
            )
