# SPDX-License-Identifier: MIT
"""A machine of files that do what a test wants, a server for it, and a client that may break every rule."""

import array
import contextlib
import errno
import os
import socket
import tempfile
from pathlib import Path

import trio

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File, Mapped
from vfioemu.io.base.limits import Limits
from vfioemu.io.dispatch import Dispatcher
from vfioemu.io.shim.access import Access
from vfioemu.io.shim.server import Server
from vfioemu.uapi.kinds import FdKind
from vfioemu.wire import messages as m

ECHO = 1


class FakeFile(File):
    """A file whose ioctls are generator functions, by number."""

    def __init__(self, kind=FdKind.CONTAINER, **calls):
        self.kind = kind
        self.calls = {}
        self.released = 0
        self.on_release = None
        self.revents = 5
        self.mapped = -1
        self.mapped_from = 0
        for name, call in calls.items():
            setattr(self, name, call)

    @classmethod
    def share(cls, file):
        """Another open file with the same calls."""
        other = cls(file.kind)
        other.calls = file.calls
        return other

    def ioctl(self, caller, cmd, arg):
        if cmd not in self.calls:
            raise IoctlError(errno.ENOTTY, f"no ioctl {cmd}")
        return (yield from self.calls[cmd](caller, arg))

    def mmap(self, caller, offset, size, prot, shared):
        yield from ()
        if self.mapped < 0:
            raise IoctlError(errno.ENODEV, "cannot be mapped")
        return Mapped(self.mapped, self.mapped_from)

    def poll(self):
        return self.revents

    def release(self):
        self.released += 1
        if self.on_release is not None:
            yield from self.on_release()


class FakeMachine:
    """Opens the files in `nodes` by path."""

    def __init__(self):
        self.nodes = {}

    def open(self, caller, path):
        yield from ()
        if path not in self.nodes:
            raise IoctlError(errno.ENOENT, f"no {path}")
        node = self.nodes[path]
        return node() if callable(node) else node


class Serving:
    """A server and how to reach it."""

    def __init__(self, machine, dispatcher, server, path):
        self.machine = machine
        self.dispatcher = dispatcher
        self.server = server
        self.path = path


@contextlib.asynccontextmanager
async def serving(machine=None, memory=m.MemoryMode.ASK, **limits):
    """Run a server of a fake machine."""
    machine = machine or FakeMachine()
    access = Access(uids=frozenset({os.getuid()}), memory=memory)
    with tempfile.TemporaryDirectory(prefix="vfioemu-") as folder:
        path = Path(folder) / "s"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(os.fspath(path))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            listener.listen(512)
            async with trio.open_nursery() as nursery:
                dispatcher = Dispatcher(machine, nursery, Limits(**limits))
                server = Server(dispatcher, access, nursery)
                async with trio.open_nursery() as services:
                    services.start_soon(server.listen, listener)
                    services.start_soon(server.watch_hangups)
                    yield Serving(machine, dispatcher, server, path)
                    services.cancel_scope.cancel()
                server.stop()
                nursery.cancel_scope.cancel()
            server.close()
            dispatcher.close()


class Raw:
    """A connection of a client that decides about each packet itself."""

    def __init__(self, path, *, greet=True):
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        self.greet = greet
        self.session = 0
        self.seq = 0
        self.fds = []

    async def __aenter__(self):
        self.sock.connect(os.fspath(self.path))
        if self.greet:
            await self.hello()
        return self

    async def __aexit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()

    async def hello(self, session=0, flags=0, versions=(m.VERSION, m.VERSION), magic=m.MAGIC):
        """Greet: the reply's message."""
        args = (magic, versions[0] | versions[1] << 32, session, m.INFINITE)
        await self.send(m.encode(m.HELLO, 0, args=args, flags=flags))
        message, _ = await self.receive()
        self.session = message.arg2
        return message

    async def send(self, packet, fd=-1):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
        while True:
            try:
                self.sock.sendmsg([packet], rights, socket.MSG_NOSIGNAL)
                return
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.sock)

    async def packet(self):
        """The next packet; empty at the end."""
        while True:
            await trio.lowlevel.wait_readable(self.sock)
            try:
                data, ancillary, _, _ = self.sock.recvmsg(m.MAX_MESSAGE, socket.CMSG_LEN(4))
            except BlockingIOError:
                continue
            except ConnectionError:
                return b""
            for _, _, rights in ancillary:
                self.fds.extend(array.array("i", rights))
            return data

    async def receive(self):
        """The next message and its data."""
        data = await self.packet()
        assert data, "the daemon hung up"
        return m.decode(data), data[m.HEADER_SIZE :]

    async def start(self, kind, token=0, *args, flags=0, data=b"", fd=-1):
        """Send a call, and do not wait."""
        self.seq += 1
        args = (*args, *[0] * (4 - len(args)))
        flags |= m.F_FD if fd >= 0 else 0
        await self.send(m.encode(kind, self.seq, token, args, flags) + data, fd)

    async def call(self, kind, token=0, *args, **more):
        """Make a call that asks for nothing: the reply."""
        await self.start(kind, token, *args, **more)
        return await self.receive()

    async def open(self, path):
        """Open: the token's serial."""
        message, _ = await self.call(m.OPEN, data=path.encode())
        assert m.signed(message.arg0) == 0, message
        from vfioemu.wire import names

        return names.of_fd(self.fds[-1]).serial

    async def answer(self, *args, data=b"", flags=0, seq=None, kind=m.ANSWER, fd=-1):
        """Answer an ask."""
        args = (*args, *[0] * (4 - len(args)))
        flags |= m.F_FD if fd >= 0 else 0
        await self.send(m.encode(kind, self.seq if seq is None else seq, 0, args, flags) + data, fd)

    async def ended(self):
        """Wait for the daemon to hang up."""
        while await self.packet():
            pass
