# SPDX-License-Identifier: MIT
"""A device of a guest: an emulated fd of a daemon.

Only the public uAPI is used, through vfioemu.client; nothing here knows what is behind the fd.
"""

import errno
from collections.abc import Sequence
from typing import Final

from vfioemu import client
from vfioemu.migration import configspace
from vfioemu.migration.deadlines import asked
from vfioemu.migration.guest import UNKNOWN_STATE, GuestDriver
from vfioemu.migration.guestspec import DeviceSpec
from vfioemu.migration.messages import DeviceView
from vfioemu.migration.plan import PAGE
from vfioemu.migration.verify.views import Views
from vfioemu.migration.workload.drivers import find_driver
from vfioemu.migration.workload.none import NoDriver
from vfioemu.uapi import constants as u
from vfioemu.uapi.flags import state_name

_PRE_COPY: Final = (u.VFIO_DEVICE_STATE_PRE_COPY, u.VFIO_DEVICE_STATE_PRE_COPY_P2P)


class VfioDevice:
    """A device of the guest.

    Attributes:
        driver: what the guest runs on it.
    """

    def __init__(self, spec: DeviceSpec, file: client.Device) -> None:
        self.name = spec.name
        self.migration = 0
        self.logging = False
        self.driver: GuestDriver = NoDriver(spec.name)
        self._file = file
        self._state = u.VFIO_DEVICE_STATE_RUNNING
        self._data: client.DataFd | None = None
        self._config = configspace.ConfigSpace(file)
        self._views = Views(file)
        self._sent_config = False
        self._end: bytes | None = None
        """Of a state that is taken in: what may be config space; None before there is any."""

    async def open(self) -> None:
        """Find out what it can do."""
        file = self._file
        await asked(file, "VFIO_DEVICE_GET_REGION_INFO", self._config.open())
        if await asked(file, "VFIO_DEVICE_FEATURE", file.probe(u.VFIO_DEVICE_FEATURE_MIGRATION)):
            self.migration = await asked(file, "VFIO_DEVICE_FEATURE_MIGRATION", file.migration_flags())
            await self._revive()
        logging = file.probe(u.VFIO_DEVICE_FEATURE_DMA_LOGGING_START)
        self.logging = await asked(file, "VFIO_DEVICE_FEATURE", logging)
        self.driver = await find_driver(self.name, file)
        await self._views.prepare()

    async def _revive(self) -> None:
        """Reset a device that is not in RUNNING, as a VMM's machine reset does.

        A client that was killed leaves its device in whatever state it had. Most drivers forget that with the last close;
        those that keep it (mtty, as in the kernel) would be of no use to the next guest.
        """
        if await self.get_state() != u.VFIO_DEVICE_STATE_RUNNING:
            try:
                await self.reset()
            except OSError:
                pass  # it cannot; a migration says so before it begins (DEVICE_NOT_RUNNING)

    async def get_state(self) -> int:
        """VFIO_DEVICE_STATE_*."""
        return await asked(self._file, "MIG_DEVICE_STATE", self._file.get_state())

    async def set_state(self, state: int) -> None:
        """MIG_DEVICE_STATE; a device that has taken in its state gets its config space, before it uses any of it."""
        if state == u.VFIO_DEVICE_STATE_RESUMING:
            self._views.forget()
        if self._end is not None and state != u.VFIO_DEVICE_STATE_RESUMING:
            await self._finish_state()
        what = f"MIG_DEVICE_STATE {state_name(state)}"
        data = await asked(self._file, what, self._file.set_state(state))
        self._state = state
        self._sent_config = False
        if data is not None:
            self._close_data()
            self._data = data
        elif state not in (*_PRE_COPY, u.VFIO_DEVICE_STATE_STOP_COPY, u.VFIO_DEVICE_STATE_RESUMING):
            self._close_data()

    async def reset(self) -> None:
        """DEVICE_RESET."""
        await asked(self._file, "VFIO_DEVICE_RESET", self._file.reset())
        self._state = u.VFIO_DEVICE_STATE_RUNNING
        self._end = None
        self._close_data()

    async def read_state(self, size: int) -> bytes | None:
        """Read the saving fd, and at its end config space, in one piece; None for ENOMSG."""
        data = b"" if self._sent_config else await self.read_own(size)
        if data is None or data or self._state != u.VFIO_DEVICE_STATE_STOP_COPY:
            return data
        if self._sent_config:
            return b""
        self._sent_config = True
        return await asked(self._file, "a read of config space", self._config.save())

    async def read_own(self, size: int) -> bytes | None:
        """Read the saving fd; None for ENOMSG."""
        try:
            return await self._read(size)
        except OSError as error:
            if error.errno == errno.ENOMSG:
                return None
            raise

    async def views(self) -> list[DeviceView]:
        """Read what it shows: verify/views.py."""
        return await self._views.read()

    async def write_state(self, data: bytes | bytearray) -> None:
        """Write it to the resuming fd, but for a piece that may be config space, until another one follows."""
        await self._write(self._end or b"")
        self._end = bytes(data) if configspace.is_end(data) else b""
        if not self._end:
            await self._write(data)

    async def _finish_state(self) -> None:
        end, self._end = self._end or b"", None
        own, config = configspace.split(end)
        await self._write(own)
        await asked(self._file, "a write of config space", self._config.restore(config))

    async def _read(self, size: int) -> bytes:
        data = self._need_data()
        return await asked(data, "a read of the device's state", data.read(size))

    async def _write(self, data: bytes | bytearray) -> None:
        file = self._need_data()
        done = 0
        while done < len(data):
            rest = memoryview(data)[done:]
            done += await asked(file, "a write of the device's state", file.write(rest))

    async def pending(self) -> int:
        """PRECOPY_INFO, in PRE_COPY; 0 elsewhere."""
        if self._state not in _PRE_COPY:
            return 0
        data = self._need_data()
        info = await asked(data, "VFIO_MIG_GET_PRECOPY_INFO", data.precopy_info())
        return info.initial_bytes + info.dirty_bytes

    async def stop_copy_size(self) -> int:
        """MIG_DATA_SIZE."""
        try:
            return await asked(self._file, "MIG_DATA_SIZE", self._file.stop_copy_length())
        except OSError as error:
            if error.errno == errno.ENOTTY:
                return UNKNOWN_STATE
            raise

    async def start_logging(self, ranges: Sequence[tuple[int, int]]) -> None:
        """DMA_LOGGING_START with 4 KiB pages; the device may choose larger ones, REPORT speaks 4 KiB all the same."""
        await asked(self._file, "DMA_LOGGING_START", self._file.logging_start(PAGE, ranges))

    async def stop_logging(self) -> None:
        """DMA_LOGGING_STOP."""
        await asked(self._file, "DMA_LOGGING_STOP", self._file.logging_stop())

    async def report(self, iova: int, size: int, bitmap: bytearray) -> None:
        """DMA_LOGGING_REPORT."""
        report = self._file.logging_report(iova, size, PAGE, bitmap)
        await asked(self._file, "DMA_LOGGING_REPORT", report)

    def close(self) -> None:
        """Close its fds."""
        self._close_data()
        self._file.close()

    def _need_data(self) -> client.DataFd:
        if self._data is None:
            raise OSError(errno.EBADF, f"{self.name} has no data fd in this state")
        return self._data

    def _close_data(self) -> None:
        if self._data is not None:
            self._data.close()
            self._data = None
