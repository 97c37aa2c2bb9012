# SPDX-License-Identifier: MIT
"""The writable registers of a dma-engine: their defaults, and which values make sense.

What is read-only is computed by the device; it is not kept here.
"""

import errno
from collections.abc import Callable, Mapping
from typing import Final

from vfioemu.abi.dma_engine import (
    AREA_END,
    CONTROL_RUN,
    MAX_BATCH,
    MSIX_VECTORS,
    RING_ENTRIES,
    STAMP_SIZE,
    Pattern,
    PinMode,
    Register,
)
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import PAGE_SIZE

DEFAULTS: Final[Mapping[Register, int]] = {
    Register.CONTROL: 0,
    Register.BASE: 0,
    Register.SIZE: 0,
    Register.PATTERN: Pattern.SEQUENTIAL,
    Register.RATE: 1000,
    Register.WRITE_SIZE: 64,
    Register.OFFSET: 0,
    Register.SEED: 1,
    Register.HOT_PAGES: 16,
    Register.LIMIT: 0,
    Register.PIN_MODE: PinMode.NONE,
    Register.PIN_PAGES: 64,
    Register.IRQ_EVERY: 0,
    Register.BATCH: 64,
    Register.ARG0: 0,
    Register.ARG1: 0,
    Register.ARG2: 0,
    Register.COMMAND: 0,
    Register.IRQ_VECTOR: 0,
}
STATE: Final = tuple(register for register in DEFAULTS if register != Register.COMMAND)
"""The registers that migrate, in this order."""

_CHECKS: Final[Mapping[Register, Callable[[int], bool]]] = {
    Register.CONTROL: lambda value: value in (0, CONTROL_RUN),
    Register.BASE: lambda value: value % PAGE_SIZE == 0 and value <= AREA_END,
    Register.SIZE: lambda value: value % PAGE_SIZE == 0 and value <= AREA_END,
    Register.PATTERN: lambda value: value <= Pattern.RING,
    Register.WRITE_SIZE: lambda value: STAMP_SIZE <= value <= PAGE_SIZE,
    Register.OFFSET: lambda value: value <= PAGE_SIZE - STAMP_SIZE,
    Register.HOT_PAGES: lambda value: value >= 1,
    Register.PIN_PAGES: lambda value: value >= 1,
    Register.BATCH: lambda value: 1 <= value <= MAX_BATCH,
    Register.IRQ_VECTOR: lambda value: value < MSIX_VECTORS,
}


class Registers:
    """The register file.

    Args:
        pin_mode: the default of PIN_MODE.
        pin_modes: what PIN_MODE may be.
    """

    def __init__(self, pin_mode: PinMode, pin_modes: frozenset[PinMode]) -> None:
        self._defaults = {**DEFAULTS, Register.PIN_MODE: int(pin_mode)}
        self._pin_modes = pin_modes
        self._values = dict(self._defaults)
        self.generation = 0

    def __getitem__(self, register: Register) -> int:
        return self._values[register]

    def __contains__(self, register: object) -> bool:
        return register in self._values

    @property
    def running(self) -> bool:
        """CONTROL says RUN."""
        return bool(self._values[Register.CONTROL] & CONTROL_RUN)

    def reset(self) -> None:
        """Reset to the values after power on."""
        self._values = dict(self._defaults)
        self.generation += 1

    def stop(self) -> None:
        """Clear RUN."""
        self._values[Register.CONTROL] = 0
        self.generation += 1

    def set(self, register: Register, value: int) -> None:
        """Write a register.

        Raises:
            IoctlError: EINVAL for a value that makes no sense, alone or with the others of a running device.
        """
        check = _CHECKS.get(register)
        if check is not None and not check(value):
            raise IoctlError(errno.EINVAL, f"{register.name} cannot be {value:#x}")
        if register == Register.PIN_MODE and value not in self._pin_modes:
            raise IoctlError(errno.EINVAL, f"PIN_MODE {value} is not for this type of device")
        values = {**self._values, register: value}
        if values[Register.CONTROL] & CONTROL_RUN:
            refuse_idle(values)
        self._values = values
        self.generation += 1

    def refuse_idle(self) -> None:
        """Refuse registers with which the device could not write: EINVAL."""
        refuse_idle(self._values)

    def dump(self) -> tuple[int, ...]:
        """Return the values that migrate, in the order of `STATE`."""
        return tuple(self._values[register] for register in STATE)

    def load(self, values: tuple[int, ...]) -> None:
        """Take over migrated values, which are checked as a guest's are; EINVAL leaves all as it was."""
        before = self._values
        self._values = {**before, Register.CONTROL: 0}
        try:
            order = sorted(zip(STATE, values, strict=True), key=lambda item: item[0] == Register.CONTROL)
            for register, value in order:
                self.set(register, value)
        except IoctlError:
            self._values = before
            raise

    def merged(self, register: Register, at: int, data: bytes) -> int:
        """Return the value after a write of `data` at byte `at` of a register; a register that is not kept reads as 0."""
        value = bytearray(self._values.get(register, 0).to_bytes(8, "little"))
        value[at : at + len(data)] = data
        return int.from_bytes(value, "little")


def refuse_idle(values: Mapping[Register, int]) -> None:
    """Refuse registers with which a device cannot write anything: EINVAL."""
    if values[Register.PATTERN] == Pattern.RING and values[Register.SIZE] > RING_ENTRIES * PAGE_SIZE:
        raise IoctlError(
            errno.EINVAL, f"a ring of {values[Register.SIZE] // PAGE_SIZE} pages, at most {RING_ENTRIES}"
        )
    if not values[Register.SIZE] or values[Register.BASE] + values[Register.SIZE] > AREA_END:
        raise IoctlError(errno.EINVAL, f"an area of {values[Register.SIZE]:#x} at {values[Register.BASE]:#x}")
    if values[Register.OFFSET] + values[Register.WRITE_SIZE] > PAGE_SIZE:
        raise IoctlError(
            errno.EINVAL, f"{values[Register.WRITE_SIZE]} bytes at {values[Register.OFFSET]} of a page"
        )
