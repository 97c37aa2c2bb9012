# SPDX-License-Identifier: MIT
"""The ledger that a daemon keeps of what devices write, read through its control socket (protocol/control.md)."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import trio

from vfioemu.client.control import Control, ControlError, control
from vfioemu.migration.deadlines import CALL_TIMEOUT
from vfioemu.migration.device_writes import DeviceCount, DeviceWrite, LedgerError, TakenPages
from vfioemu.migration.plan import PAGE

T = TypeVar("T")

CONTROL: Final = "control.sock"
GOODBYE: Final = 0.3
"""Seconds for the last one, which nobody needs."""


class _Begun(msgspec.Struct, frozen=True):
    daemon: str
    devices: list[str]


class _Count(msgspec.Struct, frozen=True):
    device: str
    writes: int
    stopped: int


class _Pages(msgspec.Struct, frozen=True):
    device: str
    range: int
    first: int
    bits: str


class _Taken(msgspec.Struct, frozen=True):
    devices: list[_Count]
    pages: list[_Pages]
    more: bool


class _Write(msgspec.Struct, frozen=True):
    seq: int
    iova: int
    size: int
    when: float


class DaemonLedger:
    """The ledger of the devices of one guest.

    Args:
        daemon: path of the daemon's socket for programs; the control socket is beside it.
        daemon_id: that the session with the daemon has been told: the control socket has to be the same daemon's.
        names: the name of each device in the guest, and its name at the daemon.
        limit: seconds for one answer of the daemon.
    """

    def __init__(
        self, daemon: str, daemon_id: bytes, names: Mapping[str, str], limit: float = CALL_TIMEOUT
    ) -> None:
        self._limit = limit
        self._path = Path(daemon).parent / CONTROL
        self._daemon_id = daemon_id.hex()
        self._names = names
        self._symbols: dict[str, str] = {}
        self._npages: list[int] = []
        self._stack = AsyncExitStack()
        self._control: Control | None = None

    async def begin(self, ranges: Sequence[tuple[int, int]]) -> None:
        """See `DeviceWrites.begin`."""
        try:
            with trio.fail_after(self._limit):
                self._control = await self._stack.enter_async_context(control(self._path))
        except trio.TooSlowError:
            raise LedgerError(
                f"{self._path} does not answer within {self._limit:g} s (--call-timeout)"
            ) from None
        except ControlError as error:
            raise LedgerError(f"the daemon refuses a control connection: {error}") from None
        except OSError as error:
            raise LedgerError(f"the control socket {self._path}: {error.strerror or error}") from None
        begun = await self._call(_Begun, "ledger-begin", devices=list(self._names.values()), ranges=ranges)
        if begun.daemon != self._daemon_id:
            raise LedgerError(f"{self._path} belongs to another daemon than the one that has the devices")
        if len(begun.devices) != len(self._names):
            raise LedgerError(f"a ledger of {len(begun.devices)} devices instead of {len(self._names)}")
        self._symbols = dict(zip(begun.devices, self._names, strict=True))
        self._npages = [size // PAGE for _, size in ranges]

    async def take(self) -> tuple[Mapping[str, DeviceCount], list[TakenPages]]:
        """See `DeviceWrites.take`."""
        pages: list[TakenPages] = []
        # A part of an answer has at least one page, so that there is an end even if all devices write as fast as they can.
        most = len(self._symbols) * sum(self._npages)
        while True:
            taken = await self._call(_Taken, "ledger-take")
            pages += [self._pages(part) for part in taken.pages]
            if not taken.more:
                break
            if not taken.pages or len(pages) > most:
                raise LedgerError(f"ledger-take: {len(pages)} parts, and there are more")
        counts = {one.device: DeviceCount(one.writes, one.stopped) for one in taken.devices}
        if counts.keys() != self._symbols.keys():
            raise LedgerError(f"counts of {len(counts)} devices instead of {len(self._symbols)}")
        return {self._symbols[symbol]: count for symbol, count in counts.items()}, pages

    async def writes(self, device: str, since: int, *, stopped: bool) -> list[DeviceWrite]:
        """See `DeviceWrites.writes`."""
        symbol = next(symbol for symbol, name in self._symbols.items() if name == device)
        writes = await self._call(
            list[_Write], "ledger-writes", device=symbol, since=since, stopped=stopped, limit=4096
        )
        return [DeviceWrite(device, one.seq, one.iova, one.size, one.when) for one in writes]

    async def end(self) -> None:
        """See `DeviceWrites.end`."""
        if self._control is None:
            return
        # By the command as well as by hanging up, so that who begins one after this finds none.
        with trio.CancelScope(shield=True):
            try:
                with trio.fail_after(GOODBYE):
                    await self._call(dict[str, bool], "ledger-end")
            except (LedgerError, trio.TooSlowError):
                pass  # it ends with the connection
            self._control = None
            await self._stack.aclose()

    async def _call(self, type_: type[T], command: str, **arguments: object) -> T:
        if self._control is None:
            raise LedgerError("it has ended")
        try:
            with trio.fail_after(self._limit):
                answer = await self._control.call(command, **arguments)
            return msgspec.convert(answer, type_)
        except trio.TooSlowError:
            raise LedgerError(
                f"{command}: no answer of the daemon within {self._limit:g} s (--call-timeout)"
            ) from None
        except ControlError as error:
            unknown = error.kind == "CommandNotFound"
            raise LedgerError(
                "this daemon keeps no ledger; a newer one does" if unknown else f"{command}: {error}"
            ) from None
        except OSError as error:
            raise LedgerError(f"{command}: {error.strerror or error}") from None
        except msgspec.ValidationError as error:
            raise LedgerError(f"{command}: an answer that is none: {error}") from None

    def _pages(self, part: _Pages) -> TakenPages:
        try:
            bits = base64.b64decode(part.bits, validate=True)
        except binascii.Error:
            raise LedgerError("ledger-take: pages that are no base64") from None
        if (
            part.device not in self._symbols
            or not 0 <= part.range < len(self._npages)
            or not 0 <= part.first < self._npages[part.range]
            or len(bits) % 8
        ):
            raise LedgerError(
                f"ledger-take: {len(bits)} bytes for page {part.first} of range {part.range} of {part.device!r}"
            )
        return TakenPages(self._symbols[part.device], part.range, part.first, bits)
