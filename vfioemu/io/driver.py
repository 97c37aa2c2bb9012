# SPDX-License-Identifier: MIT
"""Driving handlers: what the core asks for is done at once where possible, else waited for.

`advance` runs a handler in a plain loop until it ends, needs something that has to be waited for, or has done its slice of
work; most calls never get out of that loop. `finish` does the waiting. It cannot be cancelled: a handler is never abandoned.
"""

import errno
import logging
from collections.abc import Callable
from typing import Any, ClassVar, Final, Protocol

import trio

from vfioemu.core.base.effects import (
    Abandoned,
    AllocatePages,
    Breathe,
    Current,
    DmaRead,
    DmaWrite,
    Effect,
    GiveFd,
    Locked,
    PagesRead,
    PagesWrite,
    PinUser,
    ReadUser,
    RevokeFd,
    Signal,
    Steps,
    TakeFd,
    Watch,
    WriteUser,
)
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File
from vfioemu.io.base.turns import BYTES_SHIFT, SLICE, Share
from vfioemu.io.memory import reach
from vfioemu.io.memory.space import ClientSpace
from vfioemu.io.transport import NOBODY, CallerAccess, Gone
from vfioemu.syscalls.shared_pages import SharedPages

_PIN_SLICE: Final = 1024
"""Pages that are looked at in one go."""
_UNIT: Final = 1 << BYTES_SHIFT

log: Final = logging.getLogger(__name__)


class Bugs(Protocol):
    """Where bugs are counted (observe/counters.py)."""

    bugs: int


class Driver:
    """Drives one handler at a time.

    Args:
        counters: where bugs are counted.
        share: on whose account; None for what is always short.
        access: the memory and fds of who calls; releases and what devices do by themselves have no caller.

    Attributes:
        result: what the last handler returned.
    """

    __slots__ = ("_left", "_ready", "_task", "_tired", "access", "counters", "result", "share", "steps")

    def __init__(self, counters: Bugs, share: Share | None = None, access: CallerAccess = NOBODY) -> None:
        self.access = access
        self.counters = counters
        self.share = share
        self._left = SLICE
        self._tired = False
        self.steps: Steps[Any]
        self.result: Any = None
        self._ready = False
        self._task: trio.lowlevel.Task | None = None

    def start(self, make: Callable[..., Steps[Any]], *args: object) -> Effect | None:
        """Run the handler ``make(*args)``: None when it has ended (see `result`), else what to `finish`.

        Raises:
            IoctlError: the handler refused; EIO when it failed in another way.
        """
        try:
            self.steps = make(*args)
        except Exception as error:  # noqa: BLE001 - the boundary, see _refusal
            raise self._refusal(error) from None
        self._left = SLICE
        return self.advance(self.steps.send, None)

    def advance(self, resume: Callable[[Any], Effect], value: Any) -> Effect | None:
        """Run on until the handler ends, needs to wait for an effect, or is to give way before that."""
        steps = self.steps
        now = self._NOW
        access = self.access
        try:
            while True:
                effect = resume(value)
                resume = steps.send
                self._left -= 1
                if self._left < 0:
                    self._tired = True
                    return effect
                try:
                    # Small copies are done here, and not by way of the table: nearly every call has some, so what they cost is
                    # what a call costs.
                    if isinstance(effect, WriteUser) and len(effect.data) <= _UNIT:
                        waiting = not access.write_now(effect.addr, effect.data)
                        value = None
                    elif isinstance(effect, ReadUser) and effect.size <= _UNIT:
                        value = access.read_now(effect.addr, effect.size)
                        waiting = value is None
                    else:
                        waiting, value = now[type(effect)](self, effect)
                except Exception as error:  # noqa: BLE001 - the boundary, see _refusal
                    resume, value = steps.throw, self._refusal(error)
                    continue
                if waiting:
                    return effect
        except StopIteration as stop:
            self.result = stop.value
            return None
        except Exception as error:  # noqa: BLE001 - the boundary, see _refusal
            raise self._refusal(error) from None
        finally:
            # An error's traceback refers to this frame. If the frame referred to the error, the client's memory that hangs
            # on it would be unmapped only when the garbage collector comes by.
            value = None

    async def finish(self, effect: Effect | None) -> Any:
        """Wait for `effect` and all that follow: the handler's result.

        Raises:
            IoctlError: as in `start`.
        """
        while effect is not None:
            try:
                value = await self._wait(effect)
            except Exception as error:  # noqa: BLE001 - the boundary, see _refusal
                effect = self.advance(self.steps.throw, self._refusal(error))
            else:
                effect = self.advance(self.steps.send, value)
        return self.result

    async def _wait(self, effect: Effect) -> Any:
        """Give way if it is time, and wait for the effect if need be: its result."""
        if self._tired:
            self._tired = False
            await self._breathe_later(effect)
            self._left = SLICE
            waiting, value = self._NOW[type(effect)](self, effect)
            if not waiting:
                return value
        value = await self._LATER[type(effect)](self, effect)
        self._left = SLICE  # others were served meanwhile
        share = self.share
        if share is not None:
            share.spend()
            if not share.free:
                await share.turn()
        return value

    async def run(self, make: Callable[..., Steps[Any]], *args: object) -> Any:
        """Drive a handler from beginning to end."""
        effect = self.start(make, *args)
        return self.result if effect is None else await self.finish(effect)

    def _refusal(self, error: Exception) -> IoctlError:
        """Turn any exception into an answer: a bug of ours costs this caller an EIO, and nobody else anything."""
        if isinstance(error, IoctlError):
            return error
        if isinstance(error, Gone):
            return IoctlError(errno.EFAULT, "the client is gone")
        self.counters.bugs += 1
        log.error("internal error in %s", self.access, exc_info=error)
        return IoctlError(errno.EIO, "internal error")

    # --- what happens at once: (wait for it?, result) ---

    def _moved(self, size: int) -> None:
        """Count bytes that are about to be looked at or copied as work."""
        self._left -= size >> BYTES_SHIFT

    def _read_user_now(self, effect: ReadUser) -> tuple[bool, Any]:
        self._moved(effect.size)
        data = self.access.read_now(effect.addr, effect.size)
        return data is None, data

    def _write_user_now(self, effect: WriteUser) -> tuple[bool, Any]:
        self._moved(memoryview(effect.data).nbytes)
        return not self.access.write_now(effect.addr, effect.data), None

    def _fds_now(self, effect: TakeFd | GiveFd | RevokeFd | Abandoned) -> tuple[bool, Any]:
        return True, None

    def _watch_now(self, effect: Watch) -> tuple[bool, Any]:
        return False, self.access.watch(effect.eventfd, effect.then)

    def _allocate_now(self, effect: AllocatePages) -> tuple[bool, Any]:
        try:
            return False, SharedPages(effect.name, effect.size)
        except OSError as error:
            raise IoctlError(errno.ENOMEM, f"no memory for {effect.name}: {error}") from error

    def _current_now(self, effect: Current) -> tuple[bool, Any]:
        return False, self.access.space

    def _signal_now(self, effect: Signal) -> tuple[bool, Any]:
        effect.eventfd.signal()
        return False, None

    def _pin_now(self, effect: PinUser) -> tuple[bool, Any]:
        space = effect.space
        if not isinstance(space, ClientSpace):
            return False, 0
        if effect.npages > _PIN_SLICE and space.bound is not None:
            return True, None
        count = space.pin_now(effect.vaddr, effect.npages, write=effect.write)
        return count is None, count

    def _dma_read_now(self, effect: DmaRead) -> tuple[bool, Any]:
        space = effect.space
        if not isinstance(space, ClientSpace):
            raise IoctlError(errno.EPERM, "no client's address space")
        if self.access.holds(space, effect.vaddr, effect.size):
            return True, None
        self._moved(effect.size)
        data = space.read_now(effect.vaddr, effect.size)
        return data is None, data

    def _dma_write_now(self, effect: DmaWrite) -> tuple[bool, Any]:
        space = effect.space
        if not isinstance(space, ClientSpace):
            raise IoctlError(errno.EPERM, "no client's address space")
        size = memoryview(effect.data).nbytes
        if self.access.holds(space, effect.vaddr, size):
            return True, None
        self._moved(size)
        return not space.write_now(effect.vaddr, effect.data), None

    def _pages_read_now(self, effect: PagesRead) -> tuple[bool, Any]:
        self._moved(effect.size)
        parts = []
        for piece in reach.pieces(effect.pages, effect.offset, effect.size):
            if self.access.holds(piece.space, piece.vaddr, piece.end - piece.start):
                return True, None
            data = reach.read(effect.pages, piece)
            if data is None:
                return True, None
            parts.append(data)
        return False, parts[0] if len(parts) == 1 else b"".join(parts)

    def _pages_write_now(self, effect: PagesWrite) -> tuple[bool, Any]:
        data = memoryview(effect.data).cast("B")
        self._moved(len(data))
        for piece in reach.pieces(effect.pages, effect.offset, len(data)):
            count = piece.end - piece.start
            if self.access.holds(piece.space, piece.vaddr, count) or not reach.write(
                effect.pages, piece, data[:count]
            ):
                return True, None  # what is written already is written again
            data = data[count:]
        return False, None

    def _locked_now(self, effect: Locked) -> tuple[bool, Any]:
        self._ready = False
        self._task = None
        return not effect.lock.acquire(self._wake), None

    def _wake(self) -> None:
        """Go on: the lock that we wait for is ours."""
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
        self._ready = True

    def _breathe_now(self, effect: Breathe) -> tuple[bool, Any]:
        return True, None

    # --- what is waited for ---

    async def _breathe_later(self, effect: object) -> None:
        if self.share is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await self.share.breathe()

    async def _locked_later(self, effect: Locked) -> None:
        if not self._ready:
            # Not cancellable: the lock may be given to us in the very moment of the cancellation, and nobody would release it.
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
            self._task = None

    async def _read_user_later(self, effect: ReadUser) -> bytes:
        return await self.access.read(effect.addr, effect.size)

    async def _write_user_later(self, effect: WriteUser) -> None:
        await self.access.write(effect.addr, effect.data)

    async def _take_fd_later(self, effect: TakeFd) -> object:
        return await self.access.take_fd(effect.number)

    async def _give_fd_later(self, effect: GiveFd) -> int:
        file = effect.file
        assert isinstance(file, File)
        return await self.access.give_fd(file)

    async def _revoke_fd_later(self, effect: RevokeFd) -> None:
        await self.access.revoke_fd(effect.number)

    async def _abandoned_later(self, effect: Abandoned) -> bool:
        return await self.access.abandoned(effect.eventfd)

    async def _pin_later(self, effect: PinUser) -> int:
        """Look at pages slice by slice where looking means to read them, else ask."""
        space = effect.space
        assert isinstance(space, ClientSpace)
        done = 0
        while space.bound is not None and done < effect.npages:
            most = min(_PIN_SLICE, effect.npages - done)
            present = space.pin_now(effect.vaddr + (done << 12), most, write=effect.write) or 0
            done += present
            if present < most:
                return done
            await self._breathe_later(effect)
        if done:
            return done
        return await space.ask_pin(effect.vaddr, effect.npages, write=effect.write, during=self.access)

    async def _dma_read_later(self, effect: DmaRead) -> bytes:
        space = effect.space
        assert isinstance(space, ClientSpace)
        await self.access.flush()
        data = space.read_now(effect.vaddr, effect.size)
        if data is None:
            data = await space.ask_read(effect.vaddr, effect.size, pinned=False, during=self.access)
        return data

    async def _dma_write_later(self, effect: DmaWrite) -> None:
        space = effect.space
        assert isinstance(space, ClientSpace)
        await self.access.flush()
        if not space.write_now(effect.vaddr, effect.data):
            await space.ask_write(effect.vaddr, effect.data, pinned=False, during=self.access)

    async def _pages_read_later(self, effect: PagesRead) -> bytes:
        await self.access.flush()
        parts = []
        for piece in reach.pieces(effect.pages, effect.offset, effect.size):
            data = reach.read(effect.pages, piece)
            if data is None:
                size = piece.end - piece.start
                try:
                    data = await piece.space.ask_read(piece.vaddr, size, pinned=True, during=self.access)
                except IoctlError as error:
                    raise reach.lost(effect.pages, piece, error) from None
            parts.append(data)
        return b"".join(parts)

    async def _pages_write_later(self, effect: PagesWrite) -> None:
        await self.access.flush()
        data = memoryview(effect.data).cast("B")
        for piece in reach.pieces(effect.pages, effect.offset, len(data)):
            count = piece.end - piece.start
            part = data[:count]
            if not reach.write(effect.pages, piece, part):
                try:
                    await piece.space.ask_write(piece.vaddr, part, pinned=True, during=self.access)
                except IoctlError as error:
                    raise reach.lost(effect.pages, piece, error) from None
            data = data[count:]

    _NOW: ClassVar[dict[type[Any], Callable[[Any, Any], tuple[bool, Any]]]] = {
        ReadUser: _read_user_now,
        WriteUser: _write_user_now,
        TakeFd: _fds_now,
        GiveFd: _fds_now,
        RevokeFd: _fds_now,
        Watch: _watch_now,
        Abandoned: _fds_now,
        PinUser: _pin_now,
        Signal: _signal_now,
        DmaRead: _dma_read_now,
        DmaWrite: _dma_write_now,
        PagesRead: _pages_read_now,
        PagesWrite: _pages_write_now,
        AllocatePages: _allocate_now,
        Current: _current_now,
        Locked: _locked_now,
        Breathe: _breathe_now,
    }
    _LATER: ClassVar[dict[type[Any], Callable[[Any, Any], Any]]] = {
        ReadUser: _read_user_later,
        WriteUser: _write_user_later,
        TakeFd: _take_fd_later,
        GiveFd: _give_fd_later,
        RevokeFd: _revoke_fd_later,
        Abandoned: _abandoned_later,
        PinUser: _pin_later,
        DmaRead: _dma_read_later,
        DmaWrite: _dma_write_later,
        PagesRead: _pages_read_later,
        PagesWrite: _pages_write_later,
        Locked: _locked_later,
        Breathe: _breathe_later,
    }
