# SPDX-License-Identifier: MIT
"""The commands of a dma-engine: what its driver has it do at once."""

import errno
from collections import deque
from contextlib import suppress
from typing import Final, Protocol

from vfioemu.abi.dma_engine import (
    AREA_END,
    COMMAND_INTERRUPT,
    MAX_COPY,
    MAX_PUT_OFF,
    MAX_WRITE,
    MSIX_VECTORS,
    Command,
)
from vfioemu.core.base.bits import int32
from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import U64_MAX
from vfioemu.core.model.host import Host
from vfioemu.core.model.streams import P2P_STATES
from vfioemu.devices.dma_engine.engine import Engine
from vfioemu.devices.dma_engine.registers import Registers
from vfioemu.devices.pci import PciHardware

_DMA: Final = frozenset({Command.WRITE, Command.COPY})


class Commands:
    """Executes commands.

    Args:
        hardware: the card.
        registers: what its driver has set.
        engine: its DMA.

    Attributes:
        put_off: what is to be done when the device may do DMA again: commands with their arguments.
    """

    def __init__(self, hardware: PciHardware, registers: Registers, engine: Engine) -> None:
        self._hardware = hardware
        self._registers = registers
        self._engine = engine
        self.put_off: deque[tuple[int, int, int, int]] = deque()

    @property
    def _host(self) -> Host:
        return self._hardware.host

    def execute(self, command: int, arguments: tuple[int, int, int]) -> Steps[int]:
        """Execute a command and return RESULT: how much was done, or a negative errno.

        In the P2P states DMA is put off, since nobody knows which of it would go to another device: -EINPROGRESS.
        """
        if command & ~COMMAND_INTERRUPT in _DMA and self._host.migration_state in P2P_STATES:
            if len(self.put_off) >= MAX_PUT_OFF:
                return -errno.EBUSY
            self.put_off.append((command, *arguments))
            return -errno.EINPROGRESS
        return (yield from self._run(self._active, command, *arguments))

    def go_on(self) -> Steps[int | None]:
        """Do the first of what was put off, within the device's `work`: as `execute`; None if there is nothing."""
        if not self.put_off:
            return None
        return (yield from self._run(_at_once, *self.put_off.popleft()))

    def _run(self, active: "_Active", command: int, arg0: int, arg1: int, arg2: int) -> Steps[int]:
        try:
            result = yield from self._execute(active, command & ~COMMAND_INTERRUPT, arg0, arg1, arg2)
        except IoctlError as error:
            result = -error.errno
        if command & COMMAND_INTERRUPT:
            with suppress(IoctlError):  # stopped by now
                yield from active(self._tell(), dma=False)
        return result

    def _execute(self, active: "_Active", command: int, arg0: int, arg1: int, arg2: int) -> Steps[int]:
        if command == Command.WRITE:
            return (yield from self._write(active, arg0))
        if command == Command.PIN:
            yield from active(self._engine.begin_to_pin(), dma=False)
            return (yield from self._host.pin(arg0, int32(arg1), arg2 & 0xFFFFFFFF))
        if command == Command.UNPIN:
            return (yield from self._host.unpin(arg0, min(arg1, (1 << 63) - 1)))
        if command == Command.UNPIN_ALL:
            return (yield from active(self._unpin_all(), dma=False))
        if command == Command.COPY:
            return (yield from self._copy(active, arg0, arg1, arg2))
        if command == Command.INTERRUPT and arg0 < MSIX_VECTORS:
            return (yield from active(self._raise(arg0), dma=False))
        raise IoctlError(errno.EINVAL, f"no command {command:#x} with {arg0:#x}")

    def _write(self, active: "_Active", count: int) -> Steps[int]:
        if count > MAX_WRITE:
            raise IoctlError(errno.EINVAL, f"{count} writes at once, at most {MAX_WRITE}")
        self._registers.refuse_idle()
        self._check_master()
        return (yield from active(self._engine.write(count)))

    def _copy(self, active: "_Active", source: int, target: int, size: int) -> Steps[int]:
        if size > MAX_COPY or max(source, target) + size > AREA_END:
            raise IoctlError(errno.EINVAL, f"a copy of {size:#x} bytes from {source:#x} to {target:#x}")
        self._check_master()
        return (yield from active(self._engine.copy(source, target, size)))

    def _raise(self, vector: int) -> Steps[int]:
        yield from self._engine.raise_vector(vector)
        return 1

    def _tell(self) -> Steps[int]:
        yield from self._engine.raise_vector()
        return 1

    def _unpin_all(self) -> Steps[int]:
        before = self._host.npinned
        self._engine.held.clear()
        yield from self._host.unpin_range(0, U64_MAX + 1)
        return before

    def _check_master(self) -> None:
        if not self._hardware.may_dma:
            raise IoctlError(errno.EIO, "the function is no bus master")

    def _active(self, steps: Steps[int], *, dma: bool = True) -> Steps[int]:
        """Do something that excludes `work`; EBUSY while the device is stopped."""
        result = yield from self._host.active(steps, dma=dma)
        if result is None:
            raise IoctlError(errno.EBUSY, "the device is stopped")
        return result


class _Active(Protocol):
    """The way to run a command that only one may run at a time."""

    def __call__(self, steps: Steps[int], *, dma: bool = True) -> Steps[int]:
        """Run `steps` and return their result; `dma` says that they do DMA."""


def _at_once(steps: Steps[int], *, dma: bool = True) -> Steps[int]:
    """Run `steps` within `work`, which excludes all else; a command that a client gives meanwhile is not within it."""
    return (yield from steps)
