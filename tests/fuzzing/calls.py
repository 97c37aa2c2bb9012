# SPDX-License-Identifier: MIT
"""From a step of a program to a system call that can be started."""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.fuzzing.arguments import U64, is_avoided
from tests.fuzzing.checks import file_errnos, kind_of, name_of
from tests.fuzzing.client import ARGUMENT_SIZE, Client
from tests.fuzzing.model import PAGE
from tests.fuzzing.model.oracle import Command
from tests.fuzzing.program import Op, Step, Transfer
from tests.fuzzing.registers import Registers
from tests.fuzzing.world import COMMAND
from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import Steps
from vfioemu.core.base.file import File
from vfioemu.testing.scheduler import Task
from vfioemu.uapi import constants as c
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import IOCTLS, lookup

MAX_TRANSFER: Final = 2 * ARGUMENT_SIZE
READ_WRITE: Final = 3
DRIVER_ERRNOS: Final = frozenset({0, errno.EIO, errno.EAGAIN, errno.ENOMEM, errno.EBUSY, errno.ETIMEDOUT})
"""What an arc of a driver may fail with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call on one of our fds.

    Attributes:
        client: who calls.
        number: the fd.
        kind: what it is.
        name: of the call.
        serve: makes the handler.
        command: an ioctl's number.
        row_name: its name, if it is known.
        argument: its third argument.
        flags: the second word of what it points to.
        words: of a command to an oracle device.
        transfer: what it is, if it is no ioctl.
        size: of a transfer.
        offset: of a transfer.
        address: of the bytes.
        register: for the fd that it may give out.
    """

    client: Client
    number: int
    kind: FdKind
    name: str
    serve: Callable[[File, Caller], Steps[int]]
    command: int | None = None
    row_name: str | None = None
    argument: int = 0
    flags: int = 0
    words: tuple[int, ...] | None = None
    transfer: Transfer | None = None
    size: int = 0
    offset: int = 0
    address: int = 0
    register: int = 0

    @property
    def allowed(self) -> frozenset[str]:
        """Errnos of what is no ioctl."""
        return file_errnos(self.kind, "pwrite" if self.transfer is None else self.transfer.name.lower())

    def start(self) -> "Task[int]":
        """Leave it to the scheduler."""
        return self.client.process.start_call(self.number, self.serve, self.name)


def prepare(step: Step, registers: Registers, area: int) -> Call | None:
    """The call of a step, with its argument in `area`; None if there is no fd for it, or it is one that is avoided."""
    if step.op is Op.IOCTL:
        _, fd, row, place, register = step.numbers
        chosen = IOCTLS[row % len(IOCTLS)]
        return _ioctl(step, registers, area, registers.fd(fd, chosen.kind), chosen.number, place, register)
    if step.op is Op.NUMBER:
        _, fd, command = step.numbers
        return _ioctl(step, registers, area, registers.fd(fd, None), command, 0, fd)
    if step.op is Op.COMMAND:
        return _command(step, registers, area)
    return _transfer(step, registers, area)


def _ioctl(
    step: Step, registers: Registers, area: int, number: int | None, command: int, place: int, register: int
) -> Call | None:
    if number is None:
        return None
    kind = kind_of(registers.client.process, number)
    row = lookup(kind, command)
    payload = registers.resolve(step.data, step.links)
    if row is not None and row.argument != "pointer":
        argument = int.from_bytes(payload[:8], "little")
    else:
        argument = registers.place(payload, place, area)
    if command == c.VFIO_IOMMU_MAP_DMA and kind is FdKind.CONTAINER and is_avoided(payload):
        return None
    return Call(
        client=registers.client,
        number=number,
        kind=kind,
        name=name_of(kind, command),
        serve=lambda file, caller: file.ioctl(caller, command, argument),
        command=command,
        row_name=row.name if row is not None else None,
        argument=argument,
        flags=int.from_bytes(payload[4:8], "little"),
        register=register,
    )


def _command(step: Step, registers: Registers, area: int) -> Call | None:
    """A command for an oracle device; another device gets the same bytes."""
    number = registers.fd(step.numbers[1], FdKind.DEVICE)
    if number is None or kind_of(registers.client.process, number) is not FdKind.DEVICE:
        return None
    data = bytes([step.numbers[2]]).ljust(8, b"\0") + registers.resolve(step.data, step.links)
    words = list(COMMAND.unpack(data[: COMMAND.size].ljust(COMMAND.size, b"\0")))
    _tame(words)
    registers.client.process.memory.poke(registers.place(b"", 0, area), COMMAND.pack(*words))
    return Call(
        client=registers.client,
        number=number,
        kind=FdKind.DEVICE,
        name=f"device command {words[0]}",
        serve=lambda file, caller: file.pwrite(caller, area, COMMAND.size, 0),
        words=tuple(words),
        size=COMMAND.size,
    )


def _tame(words: list[int]) -> None:
    """Keep what the model would count page by page, and what a device would do bit by bit, in bounds."""
    command = words[0]
    if command in (Command.PIN, Command.UNPIN):
        words[1] &= ~(PAGE - 1)
    if command == Command.UNPIN:
        words[2] &= 0x3FF
    if command == Command.RW:
        words[2] = min(words[2], 1 << 17)
    if command == Command.LOG_DIRTY:
        words[2] &= (1 << 30) - 1
    if command == Command.FAIL and words[2] & 0xFFFFFFFF not in DRIVER_ERRNOS:
        words[2] = errno.EIO
    if command == Command.SIZES:
        words[1:4] = [word & 0xFFFFF for word in words[1:4]]


def _transfer(step: Step, registers: Registers, area: int) -> Call | None:
    _, fd, what, size, offset = step.numbers
    number = registers.fd(fd, FdKind.DATA if what < Transfer.PREAD else FdKind.DEVICE)
    if number is None:
        return None
    what = Transfer(what % len(Transfer))
    size = min(size, MAX_TRANSFER)
    offset &= U64 >> 1
    address = registers.place(registers.resolve(step.data, step.links), 0, area)
    serve: dict[Transfer, Callable[[File, Caller], Steps[int]]] = {
        Transfer.READ: lambda file, caller: file.read(caller, address, size),
        Transfer.WRITE: lambda file, caller: file.write(caller, address, size),
        Transfer.PREAD: lambda file, caller: file.pread(caller, address, size, offset),
        Transfer.PWRITE: lambda file, caller: file.pwrite(caller, address, size, offset),
        Transfer.MMAP: lambda file, caller: _map(file, caller, offset, size or PAGE),
        Transfer.POLL: lambda file, caller: _poll(file),
    }
    kind = kind_of(registers.client.process, number)
    return Call(
        client=registers.client,
        number=number,
        kind=kind,
        name=f"{kind} {what.name.lower()}",
        serve=serve[what],
        transfer=what,
        size=size,
        offset=offset if what is Transfer.PWRITE else 0,
        address=address,
    )


def _map(file: File, caller: Caller, offset: int, size: int) -> Steps[int]:
    return (yield from file.mmap(caller, offset, size, READ_WRITE, shared=True)).fd


def _poll(file: File) -> Steps[int]:
    yield from ()
    return file.poll()
