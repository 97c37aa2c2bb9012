# SPDX-License-Identifier: MIT
"""Loading a guest: what a destination does with each frame between SETUP and COMMIT."""

from collections.abc import Sequence
from typing import Final

import trio

from vfioemu.migration import stream
from vfioemu.migration.deadlines import DaemonSilent
from vfioemu.migration.failedcall import FailedCall
from vfioemu.migration.guest import Guest, GuestDevice
from vfioemu.migration.ledger import Written
from vfioemu.migration.messages import Checked, Cpus, DeviceLedger, DeviceVerdict, Ledger
from vfioemu.migration.narrator import Narrator
from vfioemu.migration.plan import MAX_DEVICE_STATE, PAGE, OnMismatch, Reason
from vfioemu.migration.stream import MAX_DETAIL, FrameType, Header, StreamError, corrupt
from vfioemu.migration.sums import chunks_of
from vfioemu.migration.transport import Channel
from vfioemu.migration.verify.devices import read_destination
from vfioemu.migration.verify.pages import PageVerifier
from vfioemu.migration.verify.result import compare
from vfioemu.native.runs import Runs
from vfioemu.printable import printable
from vfioemu.uapi.constants import (
    VFIO_DEVICE_STATE_RESUMING,
    VFIO_DEVICE_STATE_RUNNING,
    VFIO_DEVICE_STATE_RUNNING_P2P,
    VFIO_DEVICE_STATE_STOP,
    VFIO_MIGRATION_P2P,
)
from vfioemu.uapi.flags import state_name

MAX_EARLY: Final = 16
"""Writes before the start that the source is told of one by one."""
BEFORE_START: Final = "before the start"


class Loader:
    """Fills one guest shell.

    Args:
        guest: the shell; its CPUs are paused.
        channel: where the bulk of frames comes from.
        narrator: hears of device states.
        max_device_state: bytes of state that one device may send.
        verify: everything is compared.

    Attributes:
        early: writes of devices and CPUs before the start that have been found.
    """

    def __init__(
        self,
        guest: Guest,
        channel: Channel,
        narrator: Narrator,
        max_device_state: int = MAX_DEVICE_STATE,
        *,
        verify: bool,
    ) -> None:
        self._max_device_state = max_device_state
        self._guest = guest
        self._channel = channel
        self._narrator = narrator
        self._npages = [block.npages for block in guest.ram]
        self._nchunks = [chunks_of(block.npages) for block in guest.ram]
        self._devices: Sequence[GuestDevice] = list(guest.devices.values())
        self._chunks = [0] * len(self._devices)
        self._bytes = [0] * len(self._devices)
        self._complete = [False] * len(self._devices)
        self._loaded = False
        self._have_cpus = False
        self._verifier = PageVerifier(guest.ram)
        self._seconds = 0.0
        self._compares = verify
        self._read: list[DeviceLedger] = []
        self._verdicts: list[DeviceVerdict] = []
        self._ledger = guest.ledger() if verify else None
        self.early = 0

    async def begin(self) -> None:
        """Devices to RESUMING; what they write from now on, until they are started, is noted."""
        if self._ledger is not None:
            await self._ledger.begin()
            if self._ledger.not_compared:
                self._narrator.warn(f"writes of devices are not compared: {self._ledger.not_compared}")
        for device in self._devices:
            await self._set_state(device, VFIO_DEVICE_STATE_RESUMING)

    async def take(self, header: Header, body: bytes) -> None:
        """Do what a frame says."""
        match header.type:
            case FrameType.RAM | FrameType.ZERO:
                await self.take_pages(self._channel, header, body)
            case FrameType.DEVICE:
                await self._device(header, body)
            case FrameType.CPUS:
                self._cpus(body)
                if self._compares:
                    await self._read_devices()
            case FrameType.SUMS:
                await self._sums(body)
            case _:
                raise corrupt(f"{header.type.name} frame while loading")

    async def compare(self, body: bytes, *, devices: bool) -> Checked | None:
        """LEDGER: compare devices. With the last of them comes the end of the comparison, and what came of it.

        Args:
            body: of the frame.
            devices: all of them have to be there; else only what has come through the stream is compared.
        """
        ledger = stream.decode(body, Ledger)
        for theirs in ledger.devices:
            index = len(self._verdicts)
            if index >= len(self._read) or theirs.name != self._devices[index].name:
                raise corrupt(f"a ledger of device {theirs.name!r}, which is unknown or was there before")
            self._verdicts.append(compare(theirs, self._read[index]))
        if not ledger.last:
            return None
        if devices and len(self._verdicts) < len(self._devices):
            raise corrupt(f"no ledger of device {self._devices[len(self._verdicts)].name!r}")
        self._verifier.require_complete()
        differ = self._verifier.differ()
        if differ.chunks:
            await self._channel.send(FrameType.DIFFER, differ)
            return None
        return await self._checked()

    async def page_sums(self, body: bytes) -> Checked | None:
        """PAGE_SUMS: find the pages of a chunk that differ; what came of the comparison, with the last chunk that was asked for."""
        self._verifier.page_sums(*stream.unpack_sums(body, self._npages))
        return None if self._verifier.asked else await self._checked()

    async def _checked(self) -> Checked:
        early = await self._read_ledger()
        return Checked(
            early=self.early,
            early_writes=[printable(str(write), MAX_DETAIL) for write in early[:MAX_EARLY]],
            ledger="" if self._ledger is None else printable(self._ledger.not_compared, MAX_DETAIL),
            pages=self._verifier.verified,
            mismatched_pages=self._verifier.mismatched,
            mismatches=self._verifier.mismatches,
            verdicts=self._verdicts,
            seconds=self._seconds,
        )

    async def _read_devices(self) -> None:
        """Read what the devices are. The state of the CPUs is the last that is loaded, and the source reads its devices now, too."""
        await self._load()
        began = trio.current_time()
        for device, size in zip(self._devices, self._bytes, strict=True):
            try:
                self._read.append(await read_destination(device, size))
            except OSError as error:
                raise _failed(device, "comparison", error) from None
        self._seconds += trio.current_time() - began

    async def finish(self) -> None:
        """PREPARE: everything has to be here."""
        if not self._have_cpus:
            raise corrupt("PREPARE without the state of the CPUs")
        await self._load()

    async def start(self, on_mismatch: OnMismatch) -> None:
        """COMMIT: devices in two passes, then the CPUs.

        Args:
            on_mismatch: whether that is done if somebody has written since the comparison.

        Raises:
            StreamError: a device does not start, or LATE_WRITE.
        """
        known = self.early
        early = await self._read_ledger()
        if self.early > known and on_mismatch is OnMismatch.ABORT:
            detail = f"{self.early - known} writes came before the start: {early[0] if early else ''}"
            raise StreamError(Reason.LATE_WRITE, printable(detail, MAX_DETAIL))
        await self.end()
        for device in self._devices:
            if device.migration & VFIO_MIGRATION_P2P:
                await self._set_state(device, VFIO_DEVICE_STATE_RUNNING_P2P)
        for device in self._devices:
            await self._set_state(device, VFIO_DEVICE_STATE_RUNNING)
        self._guest.cpus.resume()

    async def end(self) -> None:
        """Note no writes any more."""
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            await ledger.end()

    async def _read_ledger(self) -> Sequence[Written]:
        if self._ledger is None:
            return ()
        reading = await self._ledger.read(stopped=False)
        self.early += reading.count
        self._narrator.ledger(BEFORE_START, reading, self._ledger.not_compared)
        return reading.late

    async def stop(self) -> bool:
        """Undo a start that failed, as far as it goes.

        Returns:
            False if a device may run, now or as soon as its daemon wakes up.
        """
        self._guest.cpus.pause()
        known = True
        for device in self._devices:
            try:
                await device.set_state(VFIO_DEVICE_STATE_STOP)
            except OSError as error:
                known = known and not isinstance(error, DaemonSilent)
                self._narrator.warn(f"{device.name} does not stop: {error.strerror}")
        return known

    async def take_pages(self, channel: Channel, header: Header, body: bytes) -> None:
        """RAM and ZERO, from any of the connections of a migration."""
        if header.type is FrameType.RAM:
            await self._ram(channel, header, body)
        else:
            index, runs = stream.unpack_runs(body, self._npages)
            await trio.to_thread.run_sync(self._zero, index, runs)

    async def _ram(self, channel: Channel, header: Header, body: bytes) -> None:
        index, runs = stream.unpack_runs(body, self._npages)
        block = self._guest.ram[index]
        if runs.pages() * PAGE != header.bulk:
            raise corrupt(f"{header.bulk} raw bytes for {runs.pages()} pages")
        await channel.receive_pages(block, runs, block.sums)

    def _zero(self, index: int, runs: Runs) -> None:
        try:
            self._guest.ram[index].zero(runs)
        except OSError as error:
            raise StreamError(Reason.DEVICE_ERROR, f"zero pages: {error.strerror}") from None

    async def _device(self, header: Header, body: bytes) -> None:
        chunk = stream.unpack_state(body)
        index = chunk.device
        if index >= len(self._devices) or self._complete[index] or chunk.index != self._chunks[index]:
            raise corrupt(f"chunk {chunk.index} of the state of device {index} does not belong here")
        device = self._devices[index]
        self._chunks[index] += 1
        self._bytes[index] += header.bulk
        if self._bytes[index] > self._max_device_state:
            raise StreamError(
                Reason.DEVICE_STATE_TOO_LARGE,
                f"the state of {device.name} is longer than {self._max_device_state} bytes (--max-device-state)",
            )
        data = bytearray(header.bulk)
        if data:
            await self._channel.receive_bulk([memoryview(data)])
            chunk.check(data, device.name)
            try:
                await device.write_state(data)
            except OSError as error:
                raise _failed(device, "state", error) from None
        self._complete[index] = chunk.last

    def _cpus(self, body: bytes) -> None:
        states = stream.decode(body, Cpus).cpus
        cpus = self._guest.cpus.cpus
        if len(states) != len(cpus):
            raise corrupt(f"the state of {len(states)} CPUs, there are {len(cpus)}")
        for cpu, state in zip(cpus, states, strict=True):
            cpu.state = state
        self._have_cpus = True

    async def _sums(self, body: bytes) -> None:
        began = trio.current_time()
        self._verifier.digests(*stream.unpack_sums(body, self._nchunks))
        self._seconds += trio.current_time() - began

    async def _load(self) -> None:
        """RESUMING -> STOP, in which a device looks at what it got."""
        if self._loaded:
            return
        for device, complete in zip(self._devices, self._complete, strict=True):
            if not complete:
                raise corrupt(f"the state of {device.name} is not complete")
            await self._set_state(device, VFIO_DEVICE_STATE_STOP)
        self._loaded = True

    async def _set_state(self, device: GuestDevice, state: int) -> None:
        try:
            await device.set_state(state)
        except OSError as error:
            raise _failed(device, state_name(state), error) from None
        self._narrator.device(device.name, state)


def _failed(device: GuestDevice, what: str, error: OSError) -> StreamError:
    reason = Reason.DAEMON_SILENT if isinstance(error, DaemonSilent) else Reason.DEVICE_ERROR
    detail = f"{device.name}: {what}: {error.strerror or error}"
    return StreamError(reason, detail, error.errno, FailedCall.of(error, device.name))
