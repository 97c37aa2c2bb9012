# SPDX-License-Identifier: MIT
"""A second transport, complete: system calls on a UNIX stream socket. docs/transport.md explains it part by part.

A request is a header (fd, cmd, arg, size) and `size` bytes of data. With cmd 0 the data is the path of a device node to open;
otherwise the call is ioctl(fd, cmd, arg), and if there is data, it is the memory at `arg`. A reply is a header (result, size) and
the memory as the call left it.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final, NoReturn

import trio

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import Buffer, EventFd, ForeignFd, Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File, Mapped
from vfioemu.daemon import running
from vfioemu.daemon.config import load_machine
from vfioemu.io.base.accounts import Account
from vfioemu.io.base.listen import accept
from vfioemu.io.base.throttle import Throttle
from vfioemu.io.dispatch import Dispatcher
from vfioemu.io.memory.space import ClientSpace
from vfioemu.io.transport import IOCTL, Call, Gone
from vfioemu.uapi import constants as c
from vfioemu.uapi.structs import DeviceInfo

REQUEST: Final = struct.Struct("=iIQI")
REPLY: Final = struct.Struct("=qI")
OPEN: Final = 0
MAX_DATA: Final = 1 << 16
TIMEOUT: Final = 10.0
ADDRESS: Final = 0x1000
"""Where a client says that its argument is; any address will do."""
NAME_ROOM: Final = 4096
"""A name is read as strndup_user() does, up to its NUL, and by the page."""


class StreamCaller:
    """The `CallerAccess`: the caller's memory is what came with the request, his fds are numbers that we give him."""

    def __init__(self, quotas_of: Account) -> None:
        self.space = ClientSpace(
            None, None
        )  # nobody can be asked for memory later, so devices cannot do DMA to it
        self.space.quotas = quotas_of.quotas
        self.files: dict[int, File] = {}
        self.given: dict[int, File] = {}
        self.base = 0
        self.memory = bytearray()

    def begin(self, base: int, memory: bytearray) -> None:
        """Begin a call that comes with this memory."""
        self.base, self.memory = base, memory
        self.given.clear()

    def _at(self, address: int, size: int) -> slice:
        start = address - self.base
        if start < 0 or start + size > len(self.memory):
            raise IoctlError(errno.EFAULT, f"{size} bytes at {address:#x} did not come with the request")
        return slice(start, start + size)

    def read_now(self, address: int, size: int) -> bytes:
        """Read what came with the request: there is nothing to be waited for, ever."""
        return bytes(self.memory[self._at(address, size)])

    def write_now(self, address: int, data: Buffer) -> bool:
        """Change it; the reply carries it back."""
        self.memory[self._at(address, len(data))] = data
        return True

    async def read(self, address: int, size: int) -> bytes:
        """Do the same: `read_now` never says None."""
        return self.read_now(address, size)

    async def write(self, address: int, data: Buffer) -> None:
        """Do the same: `write_now` never says False."""
        self.write_now(address, data)

    def holds(self, space: object, vaddr: int, size: int) -> bool:
        """Nothing that a device could reach lies here as well: devices reach nothing."""
        return False

    async def flush(self) -> None:
        """Bring back nothing; see `holds`."""

    async def take_fd(self, number: int) -> File | EventFd | ForeignFd:
        """Look it up."""
        if number not in self.files:
            raise IoctlError(errno.EBADF, f"the caller's fd {number} is not open")
        return self.files[number]

    async def give_fd(self, file: File) -> int:
        """Give it the lowest number that is free."""
        number = next(n for n in range(len(self.files) + 1) if n not in self.files)
        self.files[number] = self.given[number] = file
        return number

    async def revoke_fd(self, number: int) -> None:
        """Take the number back."""
        del self.files[number], self.given[number]

    def watch(self, eventfd: EventFd, then: Callable[[], Steps[None]]) -> NoReturn:
        """Refuse: no eventfd comes by this transport."""
        raise AssertionError("an eventfd of another transport")

    async def abandoned(self, eventfd: EventFd) -> NoReturn:
        """Refuse, as `watch`."""
        raise AssertionError("an eventfd of another transport")


class StreamTransport:
    """The `Transport`: one connection. It is the `Client` as well, which a transport with sessions has apart."""

    def __init__(self, dispatcher: Dispatcher, stream: trio.SocketStream, account: Account) -> None:
        self.client = self
        self.talk = Throttle()
        self.pid = account.pid
        self.share = account.share
        self.access = StreamCaller(account)
        self._dispatcher = dispatcher
        self._stream = stream
        self._call = Call()
        self._caller = Caller(space=self.access.space, pid=account.pid)

    def __str__(self) -> str:
        return f"pid={self.pid} on a stream"

    def comm(self) -> str:
        """Refuse: nobody asks /proc."""
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))

    def files_open(self) -> int:
        """Count them."""
        return len(self.access.files)

    async def receive(self) -> Call | None:
        """Take the next ioctl, and answer what is none."""
        while True:
            header = await self._exactly(REQUEST.size)
            if not header:
                return None
            fd, cmd, arg, size = REQUEST.unpack(header)
            if size > MAX_DATA:
                return None  # a client that breaks the protocol is hung up on
            data = bytearray(await self._exactly(size))
            while not self.share.free:
                await self.share.turn()
            self._dispatcher.poller.reap()  # what was closed before this call has been released when it begins
            self.access.begin(arg, data)
            file = self.access.files.get(fd)
            if cmd != OPEN and file is not None:
                call = self._call
                call.op, call.args, call.file = IOCTL, (cmd, arg), file
                call.caller, call.fd, call.on = self._caller, fd, f"fd {fd}"
                return call
            result = -errno.EBADF if cmd != OPEN else await self._open(bytes(data))
            await self.reply(result)

    async def _open(self, path: bytes) -> int:
        driver = self._dispatcher.driver(self.share, self.access)
        try:
            file = await driver.run(self._dispatcher.machine.open, self._caller, path.decode("latin-1"))
        except IoctlError as error:
            return -error.errno
        return await self.access.give_fd(file)

    def show(self, mapped: Mapped) -> NoReturn:
        """Refuse: this transport receives no mmap()."""
        raise IoctlError(errno.ENODEV, "nothing can be mapped by a stream")

    async def reply(self, result: int) -> None:
        """Send the result, and the memory."""
        self.share.spend()
        memory = self.access.memory
        with trio.move_on_after(TIMEOUT):
            try:
                await self._stream.send_all(REPLY.pack(result, len(memory)) + memory)
            except trio.BrokenResourceError:
                raise Gone from None
            return
        raise Gone

    async def _exactly(self, size: int) -> bytes:
        """Return so many bytes, or none at the end of the connection."""
        found = b""
        while len(found) < size:
            more = await self._stream.receive_some(size - len(found))
            if not more:
                return b""
            found += more
        return found

    def close(self) -> None:
        """Close the caller's files, as the kernel does for a process that exits."""
        files = self.access.files
        for number in list(files):
            file = files.pop(number)
            self._dispatcher.release(file, self.share, (), pid=self.pid, files_left=len(files))


async def listen(
    dispatcher: Dispatcher, path: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve a dispatcher's machine to our own user at `path`, until cancelled."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        listener.setblocking(False)
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                sock, pid, uid = await accept(listener)
                if uid == os.getuid():
                    nursery.start_soon(serve, dispatcher, sock, pid)
                else:
                    sock.close()


async def serve(dispatcher: Dispatcher, sock: socket.socket, pid: int) -> None:
    """Serve one connection to its end."""
    async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
        transport = StreamTransport(dispatcher, stream, dispatcher.accounts.of(pid, os.getuid()))
        dispatcher.joined(transport)
        try:
            await dispatcher.serve(transport)
        except (Gone, trio.BrokenResourceError):
            pass
        finally:
            transport.close()
            dispatcher.left(transport)


async def call(
    stream: trio.SocketStream, fd: int, cmd: int, arg: int = 0, data: bytes = b""
) -> tuple[int, bytes]:
    """Make a call, as a client: its result, and the memory at `arg`."""
    await stream.send_all(REQUEST.pack(fd, cmd, arg, len(data)) + data)
    reply = b""
    while len(reply) < REPLY.size or len(reply) < REPLY.size + REPLY.unpack_from(reply)[1]:
        reply += await stream.receive_some()
    result, _ = REPLY.unpack_from(reply)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result, reply[REPLY.size :]


async def device_info(path: str, group: int, name: str) -> DeviceInfo:
    """Ask a device for its info, as a client: container, group, device."""
    async with await trio.open_unix_socket(path) as stream:
        container, _ = await call(stream, -1, OPEN, data=b"/dev/vfio/vfio")
        opened, _ = await call(stream, -1, OPEN, data=b"/dev/vfio/%d" % group)
        await call(stream, opened, c.VFIO_GROUP_SET_CONTAINER, ADDRESS, struct.pack("=i", container))
        await call(stream, container, c.VFIO_SET_IOMMU, c.VFIO_TYPE1v2_IOMMU)
        device, _ = await call(
            stream, opened, c.VFIO_GROUP_GET_DEVICE_FD, ADDRESS, name.encode().ljust(NAME_ROOM, b"\0")
        )
        _, info = await call(stream, device, c.VFIO_DEVICE_GET_INFO, ADDRESS, DeviceInfo().build())
        return DeviceInfo.parse(info)


async def main(machine: str, path: str) -> None:
    """Run a daemon that is called by both transports, and ask it by this one."""
    spec = load_machine(machine)
    async with running(spec) as daemon, trio.open_nursery() as nursery:
        await nursery.start(listen, daemon.dispatcher, path)
        for device in spec.devices:
            info = await device_info(path, device.group, device.name)
            print(f"{device.name}: {info.num_regions} regions, {info.num_irqs} interrupts")
        nursery.cancel_scope.cancel()
    os.unlink(path)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
