# SPDX-License-Identifier: MIT
"""Replay traces in this process, with the core and an in-memory process.

One machine serves all scenarios one after the other, as the recorded kernel did. A scenario that leaves something behind (an
open group, a pin, a mapping, locked memory) fails.
"""

from collections.abc import Coroutine
from typing import Any, TypeVar

from vfioemu.conformance.replay import Difference, Replay
from vfioemu.conformance.trace import Environment, Scenario
from vfioemu.core.machine import Machine
from vfioemu.core.objects.spec import MachineSpec
from vfioemu.devices.registry import load_models
from vfioemu.testing.holdings import holdings
from vfioemu.testing.process import FIRST_FD, NullDevice, OpenFile, Process, Result

T = TypeVar("T")


class InProcessSystem:
    """A `System` made of a Machine and an in-memory Process."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._parameters = dict(machine.parameters)
        self.process = Process(machine)
        for number in range(FIRST_FD):  # the recording program had its standard streams there
            self.process.fds[number] = OpenFile(NullDevice(), references=1)
        memory = self.process.memory
        self.protect = memory.protect
        self.unmap = memory.unmap
        self.peek = memory.peek
        self.poke = memory.poke
        self.eventfd = self.process.eventfd
        self.null = self.process.null

    def allocate(self, size: int, protection: str, fill: int, align: int) -> int:
        """Allocate memory with guards around it; return its address."""
        return self.process.memory.allocate(size, protection, fill=fill, align=align)

    async def open(self, path: str) -> Result:
        """Open a device node."""
        return self.process.open(path)

    async def ioctl(self, fd: int, cmd: int, arg: int) -> Result:
        """Make an ioctl."""
        return self.process.ioctl(fd, cmd, arg)

    async def read(self, fd: int, address: int, size: int) -> Result:
        """Read from an fd into memory."""
        return self.process.read(fd, address, size)

    async def write(self, fd: int, address: int, size: int) -> Result:
        """Write to an fd from memory."""
        return self.process.write(fd, address, size)

    async def pread(self, fd: int, address: int, size: int, offset: int) -> Result:
        """Read at an offset."""
        return self.process.pread(fd, address, size, offset)

    async def pwrite(self, fd: int, address: int, size: int, offset: int) -> Result:
        """Write at an offset."""
        return self.process.pwrite(fd, address, size, offset)

    async def mmap(self, fd: int, size: int, protection: str, offset: int) -> tuple[Result, int]:
        """Map an fd, shared; the address is 0, as the in-memory process cannot read what was mapped."""
        return self.process.mmap(fd, size, protection, offset), 0

    async def poll(self, fd: int) -> int:
        """Return revents without waiting."""
        return self.process.poll(fd)

    async def close(self, fd: int) -> Result:
        """Close an fd."""
        return self.process.close(fd)

    async def set_parameter(self, name: str, value: str) -> Result:
        """Set a parameter of the machine."""
        self._machine.set_parameter(name, int(value))
        return Result(0)

    async def limit_memlock(self, size: int) -> None:
        """Give up CAP_IPC_LOCK and set RLIMIT_MEMLOCK."""
        self.process.limit_memlock(size)

    async def locked_kib(self) -> int:
        """Return VmLck as the core accounts it, in KiB."""
        return self.process.locked_pages * 4

    async def leave(self) -> tuple[str, ...]:
        """End the process; return the gauges that are not back to zero."""
        self.process.exit()
        self._machine.parameters.update(self._parameters)
        left = {name: value for name, value in holdings(self._machine).items() if value}
        if self.process.locked_pages:
            left["locked_pages"] = self.process.locked_pages
        return tuple(f"{name}={value}" for name, value in sorted(left.items()))


class InProcessRunner:
    """Run scenarios on one machine, one after the other.

    Args:
        spec: the machine.
    """

    def __init__(self, spec: MachineSpec) -> None:
        self._spec = spec
        self._machine = Machine(spec, load_models())

    def run(self, scenario: Scenario, environment: Environment) -> list[Difference]:
        """Replay a scenario in a new process; return every difference."""
        clean = False
        try:
            system = InProcessSystem(self._machine)
            differences = run_sync(Replay(system, environment).run(scenario))
            clean = not differences
        finally:
            if not clean:  # state left by a failed scenario must not affect the next one
                self._machine = Machine(self._spec, load_models())
        return differences


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits; return its value."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    coroutine.close()
    raise RuntimeError("a coroutine waited where nothing can")
