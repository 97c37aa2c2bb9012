# SPDX-License-Identifier: MIT
"""What is wrong with a guest although every value of it has the right type."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from vfioemu.migration.guestspec import (
    CpuSpec,
    GuestSpec,
    MemorySpec,
    ProgramSpec,
    Size,
)
from vfioemu.migration.messages import MAX_PAGES
from vfioemu.migration.plan import PAGE
from vfioemu.printable import printable
from vfioemu.sizes import SizeError, parse_size
from vfioemu.tomlfile import KeyPath, guess

_END: Final = 1 << 48
"""Guest physical addresses, and IOVAs, end here."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong: with which key, and what."""

    key: KeyPath
    why: str


def mistakes(spec: GuestSpec) -> Iterator[Mistake]:
    """Everything that is wrong, in the order in which it should be told; what comes later may follow from what came first."""
    yield from _names(spec)
    sizes = list(_sizes(spec))
    yield from sizes
    if sizes:
        return  # nothing can be said of areas
    yield from _overlaps(spec)
    for key, of in _users(spec):
        yield from _area(spec, key, of)
    yield from _devices(spec)


def _names(spec: GuestSpec) -> Iterator[Mistake]:
    containers = [device for container in spec.container for device in container.device]
    places: list[tuple[KeyPath, str]] = [
        *((("memory", i, "name"), block.name) for i, block in enumerate(spec.memory)),
        *((("container", i, "name"), container.name) for i, container in enumerate(spec.container)),
        *(
            (("container", i, "device", j, "name"), device.name)
            for i, container in enumerate(spec.container)
            for j, device in enumerate(container.device)
        ),
        *(
            (("container", i, "device", j, "device"), device.device)
            for i, container in enumerate(spec.container)
            for j, device in enumerate(container.device)
        ),
    ]
    for key, name in [(("name",), spec.name), *places]:
        if not name.isprintable() or name != name.strip():
            yield Mistake(
                key, f'"{printable(name, 60)}" has characters that cannot be printed, or blanks at its ends'
            )
    yield from _twice([(key, name) for key, name in places if key[0] == "memory"], "a memory")
    yield from _twice(
        [(key, name) for key, name in places if key[0] == "container" and len(key) == 3], "a container"
    )
    named = [(key, name) for key, name in places if key[-1] == "name" and len(key) == 5]
    assert len(named) == len(containers)
    yield from _twice(named, "a device")


def _twice(places: Sequence[tuple[KeyPath, str]], what: str) -> Iterator[Mistake]:
    seen = set()
    for key, name in places:
        if name in seen:
            yield Mistake(key, f'there is {what} "{printable(name, 60)}" already')
        seen.add(name)


def _sizes(spec: GuestSpec) -> Iterator[Mistake]:
    for i, block in enumerate(spec.memory):
        yield from _whole_pages(("memory", i, "size"), block.size, least=PAGE, most=MAX_PAGES * PAGE)
        yield from _whole_pages(("memory", i, "base"), block.base, least=0, most=_END - PAGE)
        if block.zero + block.text + block.random > 100:
            yield Mistake(
                ("memory", i),
                f"zero, text and random are {block.zero + block.text + block.random} of 100 pages",
            )
    for key, of in _users(spec):
        yield from _whole_pages((*key, "offset"), of.offset, least=0, most=_END)
        if of.size is not None:
            yield from _whole_pages((*key, "size"), of.size, least=PAGE, most=_END)


def _whole_pages(key: KeyPath, value: Size, *, least: int, most: int) -> Iterator[Mistake]:
    try:
        size = parse_size(value)
    except SizeError as error:
        yield Mistake(key, str(error))
        return
    if size % PAGE:
        yield Mistake(key, f"{value} is not a multiple of the page size, {PAGE}")
    elif not least <= size <= most:
        yield Mistake(key, f"{value} is out of range, expected {least} to {most:#x}")


def _overlaps(spec: GuestSpec) -> Iterator[Mistake]:
    blocks = sorted(enumerate(spec.memory), key=lambda pair: pair[1].base)
    end, before = 0, ""
    for i, block in blocks:
        if block.base < end:
            yield Mistake(
                ("memory", i, "base"), f"{block.base:#x} is in memory {before}, which ends at {end:#x}"
            )
        end, before = block.base + parse_size(block.size), block.name
        if end > _END:
            yield Mistake(("memory", i, "size"), f"memory {block.name} ends at {end:#x}, above 2^48")


def _users(spec: GuestSpec) -> Iterator[tuple[KeyPath, CpuSpec | ProgramSpec]]:
    """Who writes to memory."""
    for i, cpu in enumerate(spec.cpu):
        yield ("cpu", i), cpu
    for i, container in enumerate(spec.container):
        for j, device in enumerate(container.device):
            if device.program is not None:
                yield ("container", i, "device", j, "program"), device.program


def _area(spec: GuestSpec, key: KeyPath, of: CpuSpec | ProgramSpec) -> Iterator[Mistake]:
    blocks: dict[str, MemorySpec] = {block.name: block for block in spec.memory}
    block = blocks.get(of.memory)
    if block is None:
        yield Mistake(
            (*key, "memory"), f'there is no memory "{printable(of.memory, 60)}"{guess(of.memory, blocks)}'
        )
        return
    first, npages = spec.area(of)
    if npages < 1 or first + npages > block.npages:
        end = "" if of.size is None else f" to {(first + npages) * PAGE:#x}"
        yield Mistake(
            (*key, "offset" if of.size is None else "size"),
            f"{first * PAGE:#x}{end} is not within memory {block.name}, which has {block.npages * PAGE:#x} bytes",
        )


def _devices(spec: GuestSpec) -> Iterator[Mistake]:
    devices: dict[tuple[int, str], str] = {}
    groups: dict[int, str] = {}
    for i, container in enumerate(spec.container):
        for j, device in enumerate(container.device):
            key = ("container", i, "device", j)
            where = device.group, device.device
            if where in devices:
                yield Mistake(
                    (*key, "device"),
                    f"{printable(device.device, 60)} of group {device.group} is device {devices[where]} already",
                )
            owner = groups.setdefault(device.group, container.name)
            if owner != container.name:
                yield Mistake(
                    (*key, "group"),
                    f"group {device.group} is in container {owner} already, and a group is in one container",
                )
            devices[where] = device.name
