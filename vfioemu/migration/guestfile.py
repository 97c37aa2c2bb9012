# SPDX-License-Identifier: MIT
"""The guest file: TOML, the same for both sides of a migration.

name = "demo"
seed = 1                        # of the contents, the CPUs and the devices

[[memory]]                      # a RAM block
name = "low"
base = 0                        # guest physical address, and IOVA
size = "192 MiB"
zero = 30                       # out of 100 pages: zero, text, random; the rest counts
text = 30
random = 30

[[cpu]]                         # a CPU that writes stamped pages
memory = "low"
offset = 0
size = "16 MiB"                 # absent: to the end of the block
pattern = "uniform"             # or sweep, hot
rate = 2000                     # pages a second

[[container]]
name = "c0"
[[container.device]]
name = "dma0"
group = 12                      # on the daemon that this side uses
device = "00000000-0000-4000-8000-000000000001"
[container.device.program]      # absent: the device is left alone
memory = "low"
offset = "32 MiB"
size = "64 MiB"
pattern = "random"              # or sequential, hot
rate = 2000                     # writes a second
write-size = 64
pin = "none"                    # or keep, window; absent: as the machine file says
pin-pages = 64
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from vfioemu.migration.cpus import Pattern
from vfioemu.migration.messages import MAX_BLOCKS, MAX_CPUS, MAX_PAGES
from vfioemu.migration.plan import PAGE
from vfioemu.migration.stamps import MAX_CPUS as MAX_STAMPED

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)

Size: TypeAlias = int | str
Percent: TypeAlias = Annotated[int, Meta(ge=0, le=100)]
Rate: TypeAlias = Annotated[float, Meta(ge=0)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=100)]
_T = TypeVar("_T")


class GuestFileError(Exception):
    """A guest that cannot be built: where in its file, and why."""


def parse_size(text: Size) -> int:
    """Bytes: a number, or text as ``"64 MiB"``, ``"64M"``, ``"1.5g"`` (powers of 1024)."""
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size; try 64MiB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


class _Table(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """A table of the file: keys with dashes, and none that we do not know."""


class MemorySpec(_Table, frozen=True):
    """A RAM block."""

    name: Name
    size: Size
    base: Annotated[int, Meta(ge=0)] = 0
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
    rate: Annotated[int, Meta(ge=0)] = 1000
    write_size: Annotated[int, Meta(ge=32, le=PAGE)] = 64
    pin: Literal["none", "keep", "window"] | None = None
    pin_pages: Annotated[int, Meta(ge=1)] = 64
    hot_pages: Annotated[int, Meta(ge=1)] = 16


class DeviceSpec(_Table, frozen=True):
    """A device."""

    name: Name
    group: Annotated[int, Meta(ge=0)]
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
    seed: int = 1
    cpu: Annotated[list[CpuSpec], Meta(max_length=min(MAX_CPUS, MAX_STAMPED))] = []
    container: list[ContainerSpec] = []

    def area(self, of: CpuSpec | ProgramSpec) -> tuple[int, int]:
        """First page and number of pages that a CPU or a device works on, within its block."""
        block = next(block for block in self.memory if block.name == of.memory)
        first = parse_size(of.offset) // PAGE
        npages = block.npages - first if of.size is None else parse_size(of.size) // PAGE
        return first, npages


def load_guest(path: str | os.PathLike[str]) -> GuestSpec:
    """Read a guest file.

    Raises:
        GuestFileError: it cannot be read, or describes no guest.
    """
    try:
        return parse_guest(Path(path).read_text(encoding="utf-8"), os.fspath(path))
    except (OSError, UnicodeDecodeError) as error:
        raise GuestFileError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def parse_guest(text: str, path: str = "guest") -> GuestSpec:
    """`load_guest` for a text; `path` is for messages."""
    try:
        spec = msgspec.convert(tomllib.loads(text), GuestSpec)
        check(spec)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, ValueError) as error:
        raise GuestFileError(f"{path}: {error}") from None
    return spec


def check(spec: GuestSpec) -> None:
    """Refuse with ValueError what the types alone do not."""
    blocks: dict[str, MemorySpec] = {}
    for block in spec.memory:
        size = parse_size(block.size)
        if size % PAGE or not 0 < size <= MAX_PAGES * PAGE or block.base % PAGE:
            raise ValueError(
                f"memory {block.name}: base and size are whole pages of {PAGE} bytes, and not none"
            )
        if block.zero + block.text + block.random > 100:
            raise ValueError(f"memory {block.name}: zero, text and random are more than 100 of 100 pages")
        _once(blocks, block.name, block, "memory")
    end = 0
    for block in sorted(spec.memory, key=lambda block: block.base):
        if block.base < end:
            raise ValueError(f"memory {block.name} overlaps another one")
        end = block.base + parse_size(block.size)
    if end > 1 << 48:
        raise ValueError("memory ends above 2^48")
    containers: dict[str, ContainerSpec] = {}
    devices: dict[str, DeviceSpec] = {}
    for container in spec.container:
        _once(containers, container.name, container, "container")
        for device in container.device:
            _once(devices, device.name, device, "device")
    users: list[tuple[str, CpuSpec | ProgramSpec]] = [(f"cpu {i}", cpu) for i, cpu in enumerate(spec.cpu)]
    users += [(name, device.program) for name, device in devices.items() if device.program is not None]
    for what, of in users:
        if of.memory not in blocks:
            raise ValueError(f"{what}: there is no memory {of.memory!r}")
        first, npages = spec.area(of)
        if npages < 1 or first + npages > blocks[of.memory].npages:
            raise ValueError(f"{what}: pages {first}+{npages} are not in memory {of.memory!r}")


def _once(seen: dict[str, _T], name: str, value: _T, what: str) -> None:
    if name in seen:
        raise ValueError(f"two times {what} {name!r}")
    seen[name] = value
