# SPDX-License-Identifier: MIT
"""A second transport, in this process: calls are made by a function, memory is a bytearray, fds are numbers in a dict.

It uses nothing of io/shim. If it no longer works without a change in io/, the seam is not one any more.
"""

import errno

import trio

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import EventFd
from vfioemu.core.base.errors import IoctlError
from vfioemu.io.base.throttle import Throttle
from vfioemu.io.base.turns import Share
from vfioemu.io.memory.space import ClientSpace
from vfioemu.io.transport import IOCTL, Call, Gone

BASE = 0x10000


class LocalEventFd(EventFd):
    """An eventfd that is a number."""

    def __init__(self):
        self.count = 0
        self.closed = False

    def signal(self):
        self.count += 1

    def close(self):
        self.closed = True


class Local:
    """Transport, client, caller's access, and owner of memory that has to be asked for, all in one.

    Args:
        dispatcher: of a daemon.
        waits: memory is never at hand: what can be waited for is waited for.
    """

    def __init__(self, dispatcher, *, waits=False, size=1 << 16):
        self.dispatcher = dispatcher
        self.client = self.access = self
        self.share = Share(dispatcher.rounds)
        self.talk = Throttle()
        self.pid = 77
        self.waits = waits
        self.memory = bytearray(size)
        self.files = {}
        self.given = {}
        self.held_back = 0
        self._released = trio.Event()
        self.space = ClientSpace(self, None)
        self.caller = Caller(space=self.space, pid=self.pid)
        self.watched = []
        self.gone = False
        self._send, self._calls = trio.open_memory_channel(0)
        self._answers, self._receive = trio.open_memory_channel(0)

    def __str__(self):
        return "local"

    # --- what a program does ---

    async def call(self, fd, *args, op=IOCTL):
        """Make a call; an OSError with its errno."""
        await self._send.send((op, fd, args))
        result = await self._receive.receive()
        if result < 0:
            raise OSError(-result, "refused")
        return result

    async def open(self, path):
        file = await self.dispatcher.driver(access=self).run(self.dispatcher.machine.open, self.caller, path)
        return await self.give_fd(file)

    def put(self, data, at=0):
        """Put an argument into the memory: its address."""
        self.memory[at : at + len(data)] = data
        return BASE + at

    def close(self, fd):
        file = self.files.pop(fd)
        self.dispatcher.release(file, self.share, [self], pid=self.pid, files_left=len(self.files))

    # --- Client ---

    def comm(self):
        return "local"

    def files_open(self):
        return len(self.files)

    # --- who waits for a release ---

    def release_begins(self):
        self.held_back += 1

    def release_ends(self):
        self.held_back -= 1
        self._released.set()

    async def settled(self):
        """Wait for releases: close() returns when they have ended."""
        while self.held_back:
            self._released = trio.Event()
            await self._released.wait()

    # --- Transport ---

    async def receive(self):
        try:
            op, fd, args = await self._calls.receive()
        except trio.EndOfChannel:
            return None
        self.dispatcher.poller.reap()
        await self.settled()
        self.given = {}
        call = Call()
        call.op, call.args, call.file = op, args, self.files[fd]
        call.caller, call.fd, call.on = self.caller, fd, f"fd {fd}"
        return call

    def show(self, mapped):
        raise IoctlError(errno.ENODEV, "nothing is mapped here")

    async def reply(self, result):
        self.share.spend()
        await self._answers.send(result)

    def hang_up(self):
        self._send.close()

    # --- CallerAccess ---

    def _at(self, address, size):
        if self.gone:
            raise Gone
        start = address - BASE
        if start < 0 or start + size > len(self.memory):
            raise IoctlError(errno.EFAULT, f"{address:#x}")
        return slice(start, start + size)

    def read_now(self, address, size):
        return None if self.waits else bytes(self.memory[self._at(address, size)])

    async def read(self, vaddr, size, *, pinned=False, during=None):
        await trio.lowlevel.cancel_shielded_checkpoint()
        return bytes(self.memory[self._at(vaddr, size)])

    def write_now(self, address, data):
        if not self.waits:
            self.memory[self._at(address, len(data))] = data
        return not self.waits

    async def write(self, vaddr, data, *, pinned=False, during=None):
        await trio.lowlevel.cancel_shielded_checkpoint()
        self.memory[self._at(vaddr, len(data))] = data

    def holds(self, space, vaddr, size):
        return False

    async def flush(self):
        pass

    async def take_fd(self, number):
        if number not in self.files:
            raise IoctlError(errno.EBADF, f"fd {number}")
        return self.files[number]

    async def give_fd(self, file):
        number = max(self.files, default=2) + 1
        self.files[number] = self.given[number] = file
        return number

    async def revoke_fd(self, number):
        del self.files[number], self.given[number]

    def watch(self, eventfd, then):
        self.watched.append((eventfd, then))
        return eventfd

    async def abandoned(self, eventfd):
        return False

    # --- the owner of memory that devices reach: Asker ---

    def hung_up(self):
        return self.gone

    async def pin(self, vaddr, npages, *, write, during):
        await trio.lowlevel.cancel_shielded_checkpoint()
        start = vaddr - BASE
        return max(0, min(npages, (len(self.memory) - start) // 4096)) if start >= 0 else 0
