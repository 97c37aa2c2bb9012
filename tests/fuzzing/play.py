# SPDX-License-Identifier: MIT
"""Plays a program (program.py) in a world, and holds every answer against the registry and the model.

The model follows as long as it can: until an effect fails, calls overlap, or a device is opened that reaches memory in
ways that the model does not know. From then on what is checked holds for any input (checks.py), and that no lock is
held between calls.
"""

import errno
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final

from tests.fuzzing import model
from tests.fuzzing.calls import Call, prepare
from tests.fuzzing.checks import HONEST, Checks, kind_of
from tests.fuzzing.choices import Choices
from tests.fuzzing.commands import follow_command, follow_data
from tests.fuzzing.expect import Expectation
from tests.fuzzing.expect_device import FeatureExpectation
from tests.fuzzing.layout import PLAYED, reaches_memory
from tests.fuzzing.model import PAGE
from tests.fuzzing.program import CALLS, Op, Step, Transfer
from tests.fuzzing.registers import PROTECTIONS, Registers
from tests.fuzzing.watch import Watcher
from tests.fuzzing.world import DataFile, Handle, World
from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.profile import Quirks
from vfioemu.core.objects.device import Device
from vfioemu.testing.process import Process, Result, errno_name
from vfioemu.testing.scheduler import Task
from vfioemu.uapi import constants as c
from vfioemu.uapi.kinds import FdKind

FAULTS: Final = (errno.EFAULT, errno.EBADF, errno.EMFILE)
OVERLAPPING: Final = CALLS | {Op.CLOSE, Op.EXIT, Op.WORK}


class Play(Checks):
    """One program on its way.

    Args:
        quirks: of the machine.
        calls: counts what was answered with what.
    """

    def __init__(self, quirks: Quirks = "recorded", calls: Counter[tuple[str, str]] | None = None) -> None:
        self.scheduler = Watcher()
        world = World(quirks, layout=(*PLAYED, *HONEST), scheduler=self.scheduler)
        self._kernel = Process(world.machine, scheduler=self.scheduler, pid=0, kernel_thread=True)
        super().__init__(world, Counter() if calls is None else calls)
        self.registers = [Registers(client) for client in world.clients]
        self._devices: list[Device] = list(world.machine.devices.values())[: len(PLAYED)]
        self._clock = 0.0
        for client in world.clients:
            self.add_foreign(client)

    def play(self, steps: Sequence[Step]) -> None:
        """Make all steps, then end everything; AssertionError tells what is wrong."""
        waiting = list(reversed(steps))
        while waiting:
            step = waiting.pop()
            if step.op is Op.OVERLAP:
                count = min(2 + step.numbers[0] % 4, len(waiting))
                self._overlap(step.data, [waiting.pop() for _ in range(count)])
            elif step.op in CALLS:
                self._call(step)
            else:
                self._other(step)
            self._check()
        self.everybody_dies()
        self._check_locks()
        self.honest_client()

    def _other(self, step: Step) -> None:
        """Make a step that is no call; only calls meet faults."""
        if step.op is not Op.FAULT:
            for registers in self.registers:
                registers.client.process.heal()
        self._others[step.op](self, step)

    def _check(self) -> None:
        self._check_locks()
        if self.exact:
            self.world.check()
            self.check_fds()

    def _check_locks(self) -> None:
        held = self.scheduler.held()
        assert not held, f"locks that are held between calls: {', '.join(held)}"

    def _of(self, who: int) -> Registers:
        return self.registers[who % len(self.registers)]

    # --- calls ---

    def _call(self, step: Step) -> None:
        """Make one call, alone."""
        registers = self._of(step.numbers[0])
        call = prepare(step, registers, registers.client.argument)
        if call is None or (self.exact and self._is_hidden_command(call)):
            return
        process = call.client.process
        fault = process.pending_fault()
        if fault is not None:
            self.exact = False
        before = set(process.fds)
        handle = self._handle(call.client, call.number) if self.exact else None
        result = self._finish(call.start()) if handle is None else self._follow(call, handle)
        process.heal()
        self.count(call.name, result)
        self._check_answer(call, result, "" if fault is None else errno_name(fault))
        new = set(process.fds) - before
        if handle is not None:
            self.adopt(handle, new)
            if new and isinstance(handle.thing, model.Group):
                variant, _ = PLAYED[self.world.number(handle)]
                self.exact &= not reaches_memory(variant)
        for number in new:
            registers.set(call.register, number)

    def _follow(self, call: Call, handle: Handle) -> Result:
        """Make a call that the model makes, too, if it knows that call."""
        thing = handle.thing
        if isinstance(thing, DataFile) and thing.session is not None:
            result = self._finish(call.start())
            follow_data(call, thing.session, result)
            return result
        if isinstance(thing, model.Device):
            if thing not in self.world.oracles:
                return self._finish(call.start())
            if call.words is not None:
                return follow_command(self.world, handle, call.words)
            result = self._follow_device(call, thing)
            client = call.client  # a bitmap may lie where devices write
            client.contents[:] = client.process.memory.peek(client.data, len(client.contents))
            return result
        if call.command is None:
            return self._finish(call.start())
        expectation = Expectation(self.world, handle, call.argument)
        expected = expectation.answer(call.row_name)
        result = self._finish(call.start())
        if expected is not None:
            same = result if result.err else Result(min(result.ret, 1) if expected.ret == 1 else result.ret)
            assert same == expected, f"{call.name}: {result.err or result.ret}, not {expected}"
        if expectation.bitmap is not None:
            expectation.bitmap.check()
            call.client.contents[:] = call.client.process.memory.peek(
                call.client.data, len(call.client.contents)
            )
        return result

    def _follow_device(self, call: Call, device: model.Device) -> Result:
        if call.command == c.VFIO_DEVICE_RESET:
            device.reset()
        if call.command != c.VFIO_DEVICE_FEATURE:
            return self._finish(call.start())
        expectation = FeatureExpectation(call.client, device, call.argument)
        expected = expectation.answer()
        before = set(call.client.process.fds)
        result = self._finish(call.start())
        if expected is not None:
            assert result == expected, f"{call.name}: {result.err or result.ret}, not {expected}"
            opened = len(set(call.client.process.fds) - before)
            assert opened == expectation.opens, f"{call.name}: {opened} new fds"
        expectation.check()
        expectation.finish(result)
        return result

    def _is_hidden_command(self, call: Call) -> bool:
        """A plain write that an oracle device takes for a command: the model would not know."""
        writes = call.transfer in (Transfer.WRITE, Transfer.PWRITE)
        if not writes or call.size != 64 or call.offset:
            return False
        handle = self._handle(call.client, call.number)
        return handle.thing in self.world.oracles

    def _check_answer(self, call: Call, result: Result, fault: str) -> None:
        if call.command is not None:
            self.check_errno(call.kind, call.command, call.flags, result, fault)
            return
        allowed = call.allowed | {fault}
        assert result.err is None or result.err in allowed, (
            f"{call.name}: {result.err} is none of {sorted(allowed)}"
        )

    def _handle(self, client: object, number: int) -> Handle:
        return next(h for h in self.world.handles if h.client is client and h.number == number)

    def _finish(self, task: "Task[int]") -> Result:
        try:
            return Result(self.scheduler.run(task))
        except IoctlError as error:
            return Result(-1, errno_name(error.errno))

    # --- calls that overlap ---

    def _overlap(self, order: bytes, steps: Sequence[Step]) -> None:
        """Let calls of both processes run at once; `order` says whose turn it is."""
        self.exact = False
        running: list[tuple[Call | None, Task[int]]] = []
        for number, step in enumerate(steps):
            if step.op in CALLS:
                registers = self._of(step.numbers[0])
                call = prepare(step, registers, registers.area(number))
                if call is not None:
                    running.append((call, call.start()))
            elif step.op in OVERLAPPING:
                process = self._of(0 if step.op is Op.WORK else step.numbers[0]).client.process
                running.append((None, process.start(self._as_task(step), step.op.name)))
            elif step.op is not Op.OVERLAP:
                self._other(step)
        processes = [registers.client.process for registers in self.registers]
        faults = {
            errno_name(fault) for process in processes if (fault := process.pending_fault()) is not None
        }
        turns = Choices(order)
        self.scheduler.choose = lambda ready: ready[turns.randrange(len(ready))]
        results = [(call, self._finish(task)) for call, task in running]
        self.scheduler.choose = None
        for process in processes:
            process.heal()
        for call, result in results:
            if call is not None:
                self.count(f"overlapping {call.name}", result)
                if result.err not in faults:
                    self._check_answer(call, result, "")

    def _as_task(self, step: Step) -> Steps[int]:
        """A step that is no call, as one that takes its turn among calls."""
        if step.op is Op.WORK:
            yield from self._devices[step.numbers[0] % len(self._devices)].work(self._tick(step))
            return 0
        self._others[step.op](self, step)
        return 0

    # --- other steps ---

    def _container(self, step: Step) -> None:
        registers = self._of(step.numbers[0])
        if not self._is_full(registers):
            if self.exact:
                number = self.world.open_container(registers.client).number
            else:
                number = registers.client.process.open("/dev/vfio/vfio").ret
            registers.set(step.numbers[1], number)

    def _group(self, step: Step) -> None:
        registers, number = self._of(step.numbers[0]), step.numbers[2] % len(PLAYED)
        if self._is_full(registers):
            return
        if self.exact:
            handle = self.world.open_group(registers.client, number)
            if handle is not None:
                registers.set(step.numbers[1], handle.number)
            return
        result = registers.client.process.open(f"/dev/vfio/{number}")
        assert result.err in (None, "EBUSY"), f"open of a group: {result.err}"
        if result.err is None:
            registers.set(step.numbers[1], result.ret)

    def _device(self, step: Step) -> None:
        registers, number = self._of(step.numbers[0]), step.numbers[3] % len(PLAYED)
        client, group = registers.client, registers.fd(step.numbers[2], FdKind.GROUP)
        if group is None or kind_of(client.process, group) is not FdKind.GROUP:
            return
        if not self.exact:
            name = registers.place(f"{self.world.name(number)}\0".encode(), 0, client.argument)
            result = client.process.ioctl(group, c.VFIO_GROUP_GET_DEVICE_FD, name)
            self.check_errno(FdKind.GROUP, c.VFIO_GROUP_GET_DEVICE_FD, 0, result)
            if result.err is None:
                registers.set(step.numbers[1], result.ret)
            return
        registers.place(b"", 0, client.argument)
        handle = self.world.open_device(self._handle(client, group), number)
        if handle is not None:
            registers.set(step.numbers[1], handle.number)
            self.exact = not reaches_memory(PLAYED[number][0])

    @staticmethod
    def _is_full(registers: Registers) -> bool:
        return len(registers.client.process.fds) > 40

    def _close(self, step: Step) -> None:
        registers = self._of(step.numbers[0])
        client, number = registers.client, registers.fd(step.numbers[1], None)
        if number is None:
            return
        if self.exact:
            self.world.close(self._handle(client, number))
        else:
            client.process.close(number)

    def _dup(self, step: Step) -> None:
        giver, taker = self._of(step.numbers[0]), self._of(step.numbers[2])
        number = giver.fd(step.numbers[1], None)
        if number is None or self._is_full(taker):
            return
        if self.exact:
            new = self.world.dup(self._handle(giver.client, number), taker.client).number
        else:
            new = giver.client.process.send(number, taker.client.process)
        taker.set(step.numbers[3], new)

    def _exit(self, step: Step) -> None:
        at = step.numbers[0] % len(self.registers)
        old = self.registers[at].client
        if self.exact:
            self.world.exit(old)
        else:
            self.world.replace(old)
        client = self.world.clients[at]
        self.registers[at] = Registers(client)
        self.add_foreign(client)
        old.process.exit()  # others may run meanwhile, and find the new one

    def _eventfd(self, step: Step) -> None:
        registers = self._of(step.numbers[0])
        if not self._is_full(registers):
            registers.set(step.numbers[1], self.add_eventfd(registers.client))

    def _null(self, step: Step) -> None:
        registers = self._of(step.numbers[0])
        if not self._is_full(registers):
            number = registers.client.process.null()
            self.know_foreign(registers.client, number)
            registers.set(step.numbers[1], number)

    def _alloc(self, step: Step) -> None:
        self._of(step.numbers[0]).allocate(step.numbers[1], step.numbers[3], step.numbers[2])

    def _protect(self, step: Step) -> None:
        registers = self._of(step.numbers[0])
        _, buffer, protection, first, npages = step.numbers
        address, size = registers.buffer(buffer)
        first = first % (size // PAGE)
        npages = min(1 + npages % 64, size // PAGE - first)
        name = PROTECTIONS[protection % len(PROTECTIONS)]
        registers.client.process.memory.protect(address + first * PAGE, npages * PAGE, name)

    def _poke(self, step: Step) -> None:
        self._put(
            step, step.numbers[1], step.numbers[2], self._of(step.numbers[0]).resolve(step.data, step.links)
        )

    def _fill(self, step: Step) -> None:
        _, buffer, offset, size, byte = step.numbers
        self._put(step, buffer, offset, bytes([byte]) * min(size, 1 << 20))

    def _put(self, step: Step, buffer: int, offset: int, data: bytes) -> None:
        """The process writes to its own memory."""
        client = self._of(step.numbers[0]).client
        address, size = self._of(step.numbers[0]).buffer(buffer)
        offset %= size
        data = data[: size - offset]
        client.process.memory.poke(address + offset, data)
        if address == client.data:
            client.contents[offset : offset + len(data)] = data

    def _inject(self, step: Step) -> None:
        process = self._of(step.numbers[0]).client.process
        process.heal()
        process.inject(1 + step.numbers[1] % 6, FAULTS[step.numbers[2] % len(FAULTS)])

    def _work(self, step: Step) -> None:
        device = self._devices[step.numbers[0] % len(self._devices)]
        try:
            self.scheduler.call(device.work(self._tick(step)), self._kernel, "work")
        except IoctlError as error:
            self.count(f"work of {device.symbol}", Result(-1, error.name))

    def _tick(self, step: Step) -> float:
        self._clock += step.numbers[1] / 1000
        return self._clock

    def _parameter(self, step: Step) -> None:
        value = max(1, step.numbers[0])
        self.world.machine.set_parameter("dma_entry_limit", value)
        self.world.limit = value

    _others: ClassVar[Mapping[Op, Callable[["Play", Step], None]]] = {
        Op.CONTAINER: _container,
        Op.GROUP: _group,
        Op.DEVICE: _device,
        Op.CLOSE: _close,
        Op.DUP: _dup,
        Op.EXIT: _exit,
        Op.EVENTFD: _eventfd,
        Op.NULL: _null,
        Op.ALLOC: _alloc,
        Op.PROTECT: _protect,
        Op.POKE: _poke,
        Op.FILL: _fill,
        Op.FAULT: _inject,
        Op.WORK: _work,
        Op.PARAMETER: _parameter,
    }
