# SPDX-License-Identifier: MIT
"""Driving handlers: what the core asks for is done at once where possible, else waited for.

`advance` runs a handler in a plain loop until it ends, needs something that has to be waited for, or has done its slice of
work; most calls never get out of that loop. `finish` does the waiting. It cannot be cancelled: a handler is never abandoned.
"""

import errno
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

import trio

from vfioemu.core.effects import (
    Abandoned,
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
from vfioemu.core.errors import IoctlError
from vfioemu.io.base.eventfd import ClientEventFd
from vfioemu.io.base.turns import BYTES_SHIFT, SLICE, Share
from vfioemu.io.memory import reach
from vfioemu.io.memory.pages import Piece
from vfioemu.io.memory.space import ClientSpace
from vfioemu.io.observe.counters import Counters
from vfioemu.io.shim.connection import Connection, Gone

if TYPE_CHECKING:
    from vfioemu.core.pages import Pages
    from vfioemu.io.shim.session import Session


_PIN_SLICE: Final = 1024
"""Pages that are looked at in one go."""

log: Final = logging.getLogger(__name__)


class Runner:
    """Drives one handler at a time, on behalf of nobody: releases and device work have no caller.

    Args:
        counters: where bugs are counted.
        share: on whose account; None for what is always short.

    Attributes:
        result: what the last handler returned.
    """

    __slots__ = ("_left", "_ready", "_task", "_tired", "counters", "result", "share", "steps")

    def __init__(self, counters: Counters, share: Share | None = None) -> None:
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
        try:
            while True:
                effect = resume(value)
                resume = steps.send
                self._left -= 1
                if self._left < 0:
                    self._tired = True
                    return effect
                try:
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
        """The boundary: a bug of ours costs this caller an EIO, and nobody else anything."""
        if isinstance(error, IoctlError):
            return error
        if isinstance(error, Gone):
            return IoctlError(errno.EFAULT, "the client is gone")
        self.counters.bugs += 1
        log.error("internal error in %s", self.who(), exc_info=error)
        return IoctlError(errno.EIO, "internal error")

    def who(self) -> str:
        """On whose behalf the handler runs, for the log."""
        return "the daemon's own work"

    # --- what happens at once: (wait for it?, result) ---

    def _caller_now(
        self, effect: ReadUser | WriteUser | TakeFd | GiveFd | RevokeFd | Watch | Abandoned
    ) -> tuple[bool, Any]:
        raise IoctlError(errno.EFAULT, f"{type(effect).__name__} without a caller")

    def _moved(self, size: int) -> None:
        """So many bytes are about to be looked at or copied."""
        self._left -= size >> BYTES_SHIFT

    def _pin_now(self, effect: PinUser) -> tuple[bool, Any]:
        space = effect.space
        if not isinstance(space, ClientSpace):
            return False, 0
        if effect.npages > _PIN_SLICE and space.bound is not None:
            return True, None
        count = space.pin_now(effect.vaddr, effect.npages, write=effect.write)
        return count is None, count

    def _signal_now(self, effect: Signal) -> tuple[bool, Any]:
        if isinstance(effect.eventfd, ClientEventFd):
            effect.eventfd.signal()
        return False, None

    def _dma_read_now(self, effect: DmaRead) -> tuple[bool, Any]:
        space = effect.space
        if not isinstance(space, ClientSpace):
            raise IoctlError(errno.EPERM, "no client's address space")
        self._moved(effect.size)
        data = space.read_now(effect.vaddr, effect.size)
        return data is None, data

    def _dma_write_now(self, effect: DmaWrite) -> tuple[bool, Any]:
        space = effect.space
        if not isinstance(space, ClientSpace):
            raise IoctlError(errno.EPERM, "no client's address space")
        self._moved(memoryview(effect.data).nbytes)
        return not space.write_now(effect.vaddr, effect.data), None

    def _pages_read_now(self, effect: PagesRead) -> tuple[bool, Any]:
        self._moved(effect.size)
        parts = []
        for piece in reach.pieces(effect.pages, effect.offset, effect.size):
            if self._unsettled(piece):
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
            if self._unsettled(piece) or not reach.write(effect.pages, piece, data[:count]):
                return True, None  # what is written already is written again
            data = data[count:]
        return False, None

    def _unsettled(self, piece: Piece) -> bool:
        """Whether it is memory that the call in progress has changed, and that does not show it yet."""
        del piece
        return False

    def _current_now(self, effect: Current) -> tuple[bool, Any]:
        del effect
        return False, None

    def _locked_now(self, effect: Locked) -> tuple[bool, Any]:
        self._ready = False
        self._task = None
        return not effect.lock.acquire(self._wake), None

    def _wake(self) -> None:
        """The lock that we wait for is ours."""
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
        self._ready = True

    def _breathe_now(self, effect: Breathe) -> tuple[bool, Any]:
        del effect
        return True, None

    # --- what is waited for ---

    async def _breathe_later(self, effect: object) -> None:
        del effect
        if self.share is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await self.share.breathe()

    async def _locked_later(self, effect: Locked) -> None:
        del effect
        if not self._ready:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
            self._task = None

    async def _caller_later(self, effect: Any) -> Any:
        raise AssertionError(f"{effect} has no caller to wait for")

    def _connection_of(self, session: "Session | None") -> tuple[Connection, int, trio.Lock | None]:
        """Where to ask for DMA memory of a session, with which seq, and what guards that connection.

        Raises:
            IoctlError: EPERM when the session is over, EFAULT when it serves no DMA memory.
        """
        if session is None:
            raise IoctlError(errno.EPERM, "the address space is gone")
        service = session.service
        if service is None or not service.connection.alive:
            raise IoctlError(errno.EFAULT, "the client shares no such memory and serves none")
        return service.connection, service.next_seq(), service.lock

    async def _pages_read_later(self, effect: PagesRead) -> bytes:
        parts = []
        for piece in reach.pieces(effect.pages, effect.offset, effect.size):
            data = reach.read(effect.pages, piece)
            if data is None:
                ask = DmaRead(piece.space, piece.vaddr, piece.end - piece.start)
                data = await self._piece_later(effect.pages, piece, ask)
            parts.append(data)
        return b"".join(parts)

    async def _pages_write_later(self, effect: PagesWrite) -> None:
        data = memoryview(effect.data).cast("B")
        for piece in reach.pieces(effect.pages, effect.offset, len(data)):
            count = piece.end - piece.start
            if not reach.write(effect.pages, piece, data[:count]):
                ask = DmaWrite(piece.space, piece.vaddr, data[:count])
                await self._piece_later(effect.pages, piece, ask)
            data = data[count:]

    async def _piece_later(self, pages: "Pages", piece: Piece, ask: DmaRead | DmaWrite) -> Any:
        try:
            return await self._dma_later(ask, pinned=True)
        except IoctlError as error:
            raise reach.lost(pages, piece, error) from None

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
        asked: int = await self._dma_later(effect)
        return asked

    async def _dma_later(self, effect: "PinUser | DmaRead | DmaWrite", *, pinned: bool = False) -> Any:
        space = effect.space
        assert isinstance(space, ClientSpace)
        try:
            connection, seq, lock = self._connection_of(space.session)
        except IoctlError:
            if isinstance(effect, PinUser):
                return 0
            raise
        if lock is None:
            return await self._ask_dma(effect, connection, seq, pinned)
        with trio.CancelScope(shield=True):
            async with lock:
                try:
                    return await self._ask_dma(effect, connection, seq, pinned)
                finally:
                    connection.expect_silence()

    async def _ask_dma(
        self, effect: "PinUser | DmaRead | DmaWrite", connection: Connection, seq: int, pinned: bool
    ) -> Any:
        try:
            if isinstance(effect, PinUser):
                return await connection.ask_pin(seq, effect.vaddr, effect.npages, write=effect.write)
            if isinstance(effect, DmaRead):
                data = await connection.ask_read(seq, effect.vaddr, effect.size, pinned=pinned)
                if data is None:
                    raise IoctlError(errno.EFAULT, f"{effect.vaddr:#x} cannot be read")
                return data
            if not await connection.ask_write(seq, effect.vaddr, effect.data, pinned=pinned):
                raise IoctlError(errno.EFAULT, f"{effect.vaddr:#x} cannot be written")
            return None
        except Gone:
            if isinstance(effect, PinUser):
                return 0
            raise IoctlError(errno.EFAULT, "the owner of the memory is gone") from None

    _NOW: ClassVar[dict[type[Any], Callable[[Any, Any], tuple[bool, Any]]]] = {
        ReadUser: _caller_now,
        WriteUser: _caller_now,
        TakeFd: _caller_now,
        GiveFd: _caller_now,
        RevokeFd: _caller_now,
        Watch: _caller_now,
        Abandoned: _caller_now,
        PinUser: _pin_now,
        Signal: _signal_now,
        DmaRead: _dma_read_now,
        DmaWrite: _dma_write_now,
        PagesRead: _pages_read_now,
        PagesWrite: _pages_write_now,
        Current: _current_now,
        Locked: _locked_now,
        Breathe: _breathe_now,
    }
    _LATER: ClassVar[dict[type[Any], Callable[[Any, Any], Any]]] = {
        ReadUser: _caller_later,
        WriteUser: _caller_later,
        TakeFd: _caller_later,
        GiveFd: _caller_later,
        RevokeFd: _caller_later,
        Watch: _caller_later,
        Abandoned: _caller_later,
        PinUser: _pin_later,
        DmaRead: _dma_later,
        DmaWrite: _dma_later,
        PagesRead: _pages_read_later,
        PagesWrite: _pages_write_later,
        Locked: _locked_later,
        Breathe: _breathe_later,
    }
