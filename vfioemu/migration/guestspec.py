# SPDX-License-Identifier: MIT
"""What a guest is made of, as its file says it (guestfile.py): values that have been typed, and nothing checked yet."""

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from vfioemu.migration.cpus import Pattern
from vfioemu.migration.messages import MAX_BLOCKS, MAX_CPUS
from vfioemu.migration.plan import PAGE
from vfioemu.migration.workload.stamps import MAX_CPUS as MAX_STAMPED
from vfioemu.sizes import parse_size

MAX_RATE: Final = 1_000_000
"""Pages a second that one CPU may be asked to write: more would leave no time for anything else."""
_U32: Final = (1 << 32) - 1

Size: TypeAlias = int | str
Percent: TypeAlias = Annotated[int, Meta(ge=0, le=100)]
Rate: TypeAlias = Annotated[float, Meta(ge=0, le=MAX_RATE)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=100)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """A table of the file: keys with dashes, and none that we do not know."""


class MemorySpec(_Table, frozen=True):
    """A RAM block."""

    name: Name
    size: Size
    base: Annotated[int, Meta(ge=0, lt=1 << 48)] = 0
    zero: Percent = 30
    text: Percent = 30
    random: Percent = 30

    @property
    def npages(self) -> int:
        """Its size."""
        return parse_size(self.size) // PAGE


class CpuSpec(_Table, frozen=True):
    """A CPU."""

    memory: Name
    offset: Size = 0
    size: Size | None = None
    pattern: Pattern = Pattern.UNIFORM
    rate: Rate = 1000.0


class ProgramSpec(_Table, frozen=True):
    """What a dma-engine is told to do."""

    memory: Name
    offset: Size = 0
    size: Size | None = None
    pattern: Literal["sequential", "random", "hot"] = "random"
    rate: Annotated[int, Meta(ge=0, le=_U32)] = 1000
    write_size: Annotated[int, Meta(ge=32, le=PAGE)] = 64
    pin: Literal["none", "keep", "window"] | None = None
    pin_pages: Annotated[int, Meta(ge=1, le=_U32)] = 64
    hot_pages: Annotated[int, Meta(ge=1, le=_U32)] = 16


class DeviceSpec(_Table, frozen=True):
    """A device."""

    name: Name
    group: Annotated[int, Meta(ge=0, lt=1 << 31)]
    device: Name
    program: ProgramSpec | None = None


class ContainerSpec(_Table, frozen=True):
    """A container, and the devices in it."""

    name: Name
    device: list[DeviceSpec] = []


class GuestSpec(_Table, frozen=True):
    """A guest."""

    memory: Annotated[list[MemorySpec], Meta(min_length=1, max_length=MAX_BLOCKS)]
    name: Name = "guest"
    seed: Annotated[int, Meta(ge=0, le=_U32)] = 1
    cpu: Annotated[list[CpuSpec], Meta(max_length=min(MAX_CPUS, MAX_STAMPED))] = []
    container: list[ContainerSpec] = []

    def area(self, of: CpuSpec | ProgramSpec) -> tuple[int, int]:
        """First page and number of pages that a CPU or a device works on, within its block."""
        block = next(block for block in self.memory if block.name == of.memory)
        first = parse_size(of.offset) // PAGE
        npages = block.npages - first if of.size is None else parse_size(of.size) // PAGE
        return first, npages
