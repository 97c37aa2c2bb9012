# SPDX-License-Identifier: MIT
"""The ioctl path: from a call that some transport has received to its reply.

How a call goes through this house, and why like that:

1. A transport (transport.py) receives it and says on which open file of the core it is made. What a number of an fd, or a token
   on a wire, means is known there and nowhere else.
2. `Dispatcher.serve`, below, starts the file's operation. That is a generator: a *handler*, written in the core as if the
   caller's memory were at hand, which yields an effect wherever it needs something from outside.
3. The driver (driver.py) runs it in a plain loop, and performs each effect as it comes. Almost always all of them can be performed
   at once, and then nothing has been awaited between the call and its reply: one turn of the event loop, no task switch, no
   allocation of a coroutine for an effect. Where an effect has to be waited for (the caller is asked for its memory, a lock is
   taken), `serve` awaits `finish`, and other clients are served meanwhile.
4. The result is counted, logged if it is a refusal, traced if somebody listens; then the transport replies.

Why one task for a connection, and not one for a call: a connection has one call at a time, because a thread of a client makes one
system call at a time. A task for each call would cost as much as the call.

Why generators and not `async def` in the core: the core is driven by the daemon, by tests without an event loop, by fuzzers that
let the n-th effect fail, and it must not be cancelled in between. A handler that has begun runs to its end even if its caller dies
at the first effect, since it may hold the container's lock; the rest of its effects then answer EFAULT. trio's cancellation would
unwind it.

Everything here is the same for each transport. What differs is behind `Transport`; nothing in this file, in the driver or in
observe/ knows a message, a session, or a token.
"""

import errno
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import trio

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File
from vfioemu.io.base.accounts import Accounts
from vfioemu.io.base.limits import Limits
from vfioemu.io.base.poller import Poller
from vfioemu.io.base.throttle import Throttle
from vfioemu.io.base.turns import Rounds, Share
from vfioemu.io.driver import Driver
from vfioemu.io.memory.pages import Owner
from vfioemu.io.observe.counters import Counters, call_name, errno_name
from vfioemu.io.observe.tracer import Tracer
from vfioemu.io.transport import IOCTL, MMAP, NOBODY, PREAD, READ, WRITE, CallerAccess, Client, Transport
from vfioemu.printable import printable

log: Final = logging.getLogger(__name__)

_NORMAL: Final = ("ENOTTY", "ENOMSG")
"""How a kernel says that it has no such feature, and a device that it has nothing to add: no program takes it for a fault."""


class Opener(Protocol):
    """What opens device nodes: a Machine."""

    def open(self, caller: Caller, path: str) -> Steps[File]:
        """open(2) of `path`."""


class Waiting(Protocol):
    """Somebody whose next calls wait for the release of a file that he held: close() has returned when release() has."""

    def release_begins(self) -> None:
        """Hold back calls from now on."""

    def release_ends(self) -> None:
        """Go on, unless there is another release."""


class Refused(Protocol):
    """Whose refused call is logged."""

    talk: Throttle


class Dispatcher:
    """Runs the calls of all transports of a daemon, and whatever nobody waits for, on one machine.

    Args:
        machine: what opens device nodes.
        nursery: for what has to be waited for and nobody waits for.
        limits: what each client may have; all transports together, since the fds are this process's.
        several: more than one user may connect.

    Attributes:
        accounts: what each process holds of ours.
        counters: of what has happened.
        tracer: set while somebody listens.
        poller: what has to be noticed before the next call.
        rounds: how the daemon's time goes by.
        hardware: the share in it of what devices do by themselves, all of them together.
        progress: called when a device has worked, as poll() of its files may have changed.
    """

    def __init__(
        self,
        machine: Opener,
        nursery: trio.Nursery,
        limits: Limits | None = None,
        *,
        several: bool = False,
    ) -> None:
        self.machine = machine
        self.limits = limits or Limits()
        self.counters = Counters()
        self.tracer: Tracer | None = None
        self.poller = Poller()
        self.rounds = Rounds()
        self.accounts = Accounts(self.limits, self.rounds, several=several)
        self.hardware = Share(self.rounds)
        self.progress: list[Callable[[], None]] = []
        self._nursery = nursery
        self._clients: dict[Client, None] = {}
        trio.lowlevel.add_instrument(self.rounds)

    def driver(self, share: Share | None = None, access: CallerAccess = NOBODY) -> Driver:
        """Make what performs effects, one handler at a time; arguments as for `Driver`."""
        return Driver(self.counters, share, access)

    # --- who is there ---

    @property
    def clients(self) -> Iterator[Client]:
        """Whoever is connected, oldest first."""
        return iter(self._clients)

    def joined(self, client: Client) -> None:
        """Note that somebody has connected. A process may be there several times."""
        self._clients[client] = None
        if self.tracer is not None:
            self.tracer.connected(client)

    def left(self, client: Client) -> None:
        """Note that it is gone."""
        del self._clients[client]
        if self.tracer is not None:
            self._nursery.start_soon(self._tell_gone, client)

    async def _tell_gone(self, client: Client) -> None:
        """Tell in a later turn of the loop: a process that dies closes its connection and its files in the same moment."""
        while self.poller.reap():
            pass
        if self.tracer is not None:
            self.tracer.disconnected(client)

    # --- calls ---

    async def serve(self, transport: Transport) -> None:
        """Answer calls until there are no more.

        Raises:
            Gone: the client does not take an answer. Whatever else `receive` raises.
        """
        access = transport.access
        client = transport.client
        driver = Driver(self.counters, transport.share, access)
        count = self.counters.count
        while (call := await transport.receive()) is not None:
            file = call.file
            op = call.op
            args = call.args
            start = driver.start
            record = None
            why = ""
            cmd = 0
            if self.tracer is not None:
                record = self.tracer.begin(call)
                start = record.starter(start)
            try:
                if op == IOCTL:
                    cmd, arg = args
                    effect = start(file.ioctl, call.caller, cmd, arg)
                elif op == PREAD:
                    address, size, offset = args
                    make = file.pread if not offset >> 63 else _negative
                    effect = start(make, call.caller, address, size, offset)
                elif op == READ:
                    effect = start(file.read, call.caller, *args)
                elif op == MMAP:
                    effect = start(file.mmap, call.caller, *args[:3], bool(args[3]))
                elif op == WRITE:
                    effect = start(file.write, call.caller, *args)
                else:
                    effect = start(_negative if args[2] >> 63 else file.pwrite, call.caller, *args)
                result = driver.result if effect is None else await driver.finish(effect)
                if op == MMAP:
                    transport.show(result)
                    result = 0
            except IoctlError as error:
                result = -error.errno
                why = error.why
            driver.result = None  # it would keep what it refers to until the next call
            count(file.kind, op, cmd, result)
            if why:
                self.refused(client, f"{call_name(file.kind, op, cmd)} on {call.on}", -result, why)
            if record is not None and self.tracer is not None:
                self.tracer.end(record, result, why, access.given)
            await transport.reply(result)

    def refused(self, client: Refused, what: str, error: int, why: str) -> None:
        """Log a refused call, unless the client has had too many of them in a short time."""
        if client.talk.allows():
            name = errno_name(error)
            level = logging.DEBUG if name in _NORMAL else logging.INFO
            log.log(level, "%s: %s: %s: %s%s", client, what, name, printable(why), client.talk.left_out())

    def remark(self, space: Owner, kind: str, text: str, level: int = logging.WARNING) -> None:
        """Count and trace something that no call shows; log the first of its kind for each process."""
        self.counters.remark(kind)
        if self.tracer is not None:
            self.tracer.remark(space.pid, kind, text)
        if kind not in space.remarked:
            space.remarked.add(kind)
            log.log(logging.DEBUG if kind in ("memlock", "lost") else level, "pid=%d: %s", space.pid, text)

    # --- what nobody waits for ---

    def run(
        self,
        make: Callable[[], Steps[None]],
        what: str,
        share: Share | None = None,
        waiting: Sequence[Waiting] = (),
    ) -> None:
        """Run a handler that has no caller: at once as far as it can, the rest in a task when it can.

        Args:
            make: makes the handler.
            what: what it is, for the log.
            share: whose part of the daemon's time it uses up; by default the hardware's.
            waiting: whose calls wait until it has ended, if it cannot at once.
        """
        driver = Driver(self.counters, self.hardware if share is None else share)
        try:
            effect = driver.start(make)
        except IoctlError as error:
            log.error("%s: %s", what, error)
            return
        if effect is None:
            return
        for each in waiting:
            each.release_begins()

        async def wait() -> None:
            try:
                await driver.finish(effect)
            except IoctlError as error:
                log.error("%s: %s", what, error)
            finally:
                for each in waiting:
                    each.release_ends()

        self._nursery.start_soon(wait)

    def release(
        self, file: File, share: Share, waiting: Sequence[Waiting], *, pid: int = 0, files_left: int = 0
    ) -> None:
        """Run a file's release(): its last reference is gone.

        Args:
            file: which.
            share: of the process that had it.
            waiting: whose calls wait for it, as in `run`.
            pid: of that process, for traces.
            files_left: how many emulated files it still has.
        """
        tracer = self.tracer
        mappings = None if tracer is None else tracer.mappings_with(file)
        held = 0 if mappings is None else mappings()
        self.run(file.release, f"release of a {file.kind}", share, waiting)
        if tracer is not None and mappings is not None:
            tracer.closed(file, pid, files_left, held - mappings())

    def close(self) -> None:
        """Let go of everything, after all tasks have ended."""
        self.poller.close()
        trio.lowlevel.remove_instrument(self.rounds)


def _negative(caller: Caller, addr: int, size: int, offset: int) -> Steps[int]:
    """Refuse an offset below zero, as ksys_pread64() and ksys_pwrite64() do."""
    yield from ()
    raise IoctlError(errno.EINVAL, f"offset {offset - (1 << 64)}")
