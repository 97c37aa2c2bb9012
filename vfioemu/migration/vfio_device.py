# SPDX-License-Identifier: MIT
"""A device of a guest: an emulated fd of a daemon, and what its guest driver does.

Only the public uAPI is used, through vfioemu.client; nothing here knows what is behind the fd.
"""

import errno
import hashlib
from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

import trio

from vfioemu import client
from vfioemu.migration import configspace
from vfioemu.migration.building import BuildError, Step, about
from vfioemu.migration.guestspec import DeviceSpec, ProgramSpec
from vfioemu.migration.messages import DeviceLedger
from vfioemu.migration.plan import PAGE
from vfioemu.uapi import constants as u
from vfioemu.uapi import dma_engine as dma

T = TypeVar("T")

UNKNOWN_STATE: Final = 100 << 30
"""QEMU's VFIO_MIG_STOP_COPY_SIZE: a device that cannot tell its size must not make the downtime look short."""

_PRE_COPY: Final = (u.VFIO_DEVICE_STATE_PRE_COPY, u.VFIO_DEVICE_STATE_PRE_COPY_P2P)

_LEDGER: Final = (
    *(dma.Register.ID, dma.Register.DEVICE_ID, dma.Register.CONTROL, dma.Register.BASE, dma.Register.SIZE),
    *(
        dma.Register.PATTERN,
        dma.Register.RATE,
        dma.Register.WRITE_SIZE,
        dma.Register.OFFSET,
        dma.Register.SEED,
    ),
    *(dma.Register.HOT_PAGES, dma.Register.LIMIT, dma.Register.PIN_MODE, dma.Register.PIN_PAGES),
    *(dma.Register.IRQ_EVERY, dma.Register.BATCH, dma.Register.SEQ, dma.Register.WRITES, dma.Register.BYTES),
    *(dma.Register.FAILED, dma.Register.HIDDEN, dma.Register.IRQS, dma.Register.LAST_IOVA),
)
"""What has to be the same on both sides; pins held and the result of the last command are not state that moves."""


async def whole(call: Awaitable[T]) -> T:
    """Make a call to the daemon, whatever is cancelled meanwhile.

    A call that is cut may have taken effect or not, and it ends its connection; with the last connection of a session
    goes the session, and with that the guest's devices.
    """
    with trio.CancelScope(shield=True):
        answer = await call
    return answer


class VfioDevice:
    """A device of the guest, with its guest driver: that of the dma-engine, where it is one."""

    def __init__(self, spec: DeviceSpec, file: client.Device) -> None:
        self.name = spec.name
        self.migration = 0
        self.logging = False
        self._spec = spec
        self._file = file
        self._bar = 0
        self._engine = False
        self._state = u.VFIO_DEVICE_STATE_RUNNING
        self._data: client.DataFd | None = None
        self._config = configspace.ConfigSpace(file)
        self._sent_config = False
        self._end: bytes | None = None
        """Of a state that is taken in: what may be config space; None before there is any."""

    async def open(self) -> None:
        """Find out what it can do."""
        await whole(self._config.open())
        if await self._file.probe(u.VFIO_DEVICE_FEATURE_MIGRATION):
            self.migration = await self._file.migration_flags()
        self.logging = await self._file.probe(u.VFIO_DEVICE_FEATURE_DMA_LOGGING_START)
        region = await self._file.region_info(u.VFIO_PCI_BAR0_REGION_INDEX)
        if region.size >= dma.BAR_SIZE and region.flags & u.VFIO_REGION_INFO_FLAG_READ:
            self._bar = region.offset
            self._engine = await self._read(dma.Register.ID) == dma.ENGINE_ID

    async def program(self, program: ProgramSpec, base: int, size: int, seed: int) -> None:
        """Have it write [base, base+size) by DMA, by itself."""
        if not self._engine:
            raise BuildError(
                Step.PROGRAM, errno.ENODEV, "it is no dma-engine, and cannot be programmed", self.name
            )
        pins = {} if program.pin is None else {dma.Register.PIN_MODE: dma.PinMode[program.pin.upper()]}
        registers = {
            dma.Register.BASE: base,
            dma.Register.SIZE: size,
            dma.Register.PATTERN: dma.Pattern[program.pattern.upper()],
            dma.Register.RATE: program.rate,
            dma.Register.WRITE_SIZE: program.write_size,
            dma.Register.SEED: seed,
            dma.Register.HOT_PAGES: program.hot_pages,
            **pins,
            dma.Register.PIN_PAGES: program.pin_pages,
            dma.Register.CONTROL: dma.CONTROL_RUN,
        }
        for register, value in registers.items():
            with about(Step.PROGRAM, f"{self.name} {register.name} = {value:#x}"):
                await self._file.pwrite(value.to_bytes(8, "little"), self._bar + register)

    async def get_state(self) -> int:
        """VFIO_DEVICE_STATE_*."""
        return await whole(self._file.get_state())

    async def set_state(self, state: int) -> None:
        """MIG_DEVICE_STATE; a device that has taken in its state gets its config space, before it uses any of it."""
        if self._end is not None and state != u.VFIO_DEVICE_STATE_RESUMING:
            await self._finish_state()
        data = await whole(self._file.set_state(state))
        self._state = state
        self._sent_config = False
        if data is not None:
            self._close_data()
            self._data = data
        elif state not in (*_PRE_COPY, u.VFIO_DEVICE_STATE_STOP_COPY, u.VFIO_DEVICE_STATE_RESUMING):
            self._close_data()

    async def reset(self) -> None:
        """DEVICE_RESET."""
        await whole(self._file.reset())
        self._state = u.VFIO_DEVICE_STATE_RUNNING
        self._end = None
        self._close_data()

    async def read_state(self, size: int) -> bytes | None:
        """Read the saving fd, and at its end config space, in one piece; None for ENOMSG."""
        try:
            data = b"" if self._sent_config else await whole(self._need_data().read(size))
        except OSError as error:
            if error.errno == errno.ENOMSG:
                return None
            raise
        if data or self._state != u.VFIO_DEVICE_STATE_STOP_COPY:
            return data
        if self._sent_config:
            return b""
        self._sent_config = True
        return await whole(self._config.save())

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
        await whole(self._config.restore(config))

    async def _write(self, data: bytes | bytearray) -> None:
        done = 0
        while done < len(data):
            done += await whole(self._need_data().write(memoryview(data)[done:]))

    async def pending(self) -> int:
        """PRECOPY_INFO, in PRE_COPY; 0 elsewhere."""
        if self._state not in _PRE_COPY:
            return 0
        info = await whole(self._need_data().precopy_info())
        return info.initial_bytes + info.dirty_bytes

    async def stop_copy_size(self) -> int:
        """MIG_DATA_SIZE."""
        try:
            return await whole(self._file.stop_copy_length())
        except OSError as error:
            if error.errno == errno.ENOTTY:
                return UNKNOWN_STATE
            raise

    async def start_logging(self, ranges: Sequence[tuple[int, int]]) -> None:
        """DMA_LOGGING_START with 4 KiB pages; the device may choose larger ones, REPORT speaks 4 KiB all the same."""
        await whole(self._file.logging_start(PAGE, ranges))

    async def stop_logging(self) -> None:
        """DMA_LOGGING_STOP."""
        await whole(self._file.logging_stop())

    async def report(self, iova: int, size: int, bitmap: bytearray) -> None:
        """DMA_LOGGING_REPORT."""
        await whole(self._file.logging_report(iova, size, PAGE, bitmap))

    async def ledger(self) -> DeviceLedger:
        """The registers that have to be the same on both sides."""
        registers = {}
        if self._engine:
            bar = await whole(self._file.pread(dma.REGISTERS_SIZE, self._bar))
            registers = {
                register.name: hex(int.from_bytes(bar[register : register + 8], "little"))
                for register in _LEDGER
            }
        digest = hashlib.blake2b(repr(sorted(registers.items())).encode(), digest_size=16).hexdigest()
        return DeviceLedger(name=self.name, registers=registers, digest=digest)

    async def writes(self) -> int:
        """WRITES of a dma-engine."""
        return await self._read(dma.Register.WRITES) if self._engine else 0

    def close(self) -> None:
        """Close its fds."""
        self._close_data()
        self._file.close()

    async def _read(self, register: dma.Register) -> int:
        return int.from_bytes(await whole(self._file.pread(8, self._bar + register)), "little")

    def _need_data(self) -> client.DataFd:
        if self._data is None:
            raise OSError(errno.EBADF, f"{self.name} has no data fd in this state")
        return self._data

    def _close_data(self) -> None:
        if self._data is not None:
            self._data.close()
            self._data = None
