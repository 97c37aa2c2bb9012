# SPDX-License-Identifier: MIT
"""Find the names of <linux/vfio.h> that a live machine understands, from the places that the registry gives them.

Every ioctl is made on every device with every flag, feature, state and index. A name is *live* if a call that involves it
succeeds, or fails otherwise than the same call with a meaningless number in its place.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from itertools import combinations
from typing import Any, Final

from vfioemu.conformance.machine import FOLDER
from vfioemu.core.base.limits import PAGE_SIZE
from vfioemu.core.machine import Machine
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.daemon.config import load_machine
from vfioemu.devices.registry import load_models
from vfioemu.testing.process import Process
from vfioemu.trace import calls
from vfioemu.trace import events as e
from vfioemu.trace.decode import CAPS, Capture
from vfioemu.trace.symbols import involved
from vfioemu.uapi import constants as c
from vfioemu.uapi.features import FEATURES
from vfioemu.uapi.flags import DeviceStateV1, Extension, c_name
from vfioemu.uapi.hints import Hint
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.payload import Payload
from vfioemu.uapi.registry import IOCTLS, Ioctl
from vfioemu.uapi.structs import DeviceFeature

_SIZE: Final = 1024
_NO_BIT: Final = 1 << 30
_NO_NUMBER: Final = 4000
_NO_FEATURE: Final = 0xFFF0
_NO_IOCTL: Final = 0x3BFF
_INDICES: Final = 12
_MORE: Final[tuple[tuple[str, dict[str, object]], ...]] = (
    ("dma-engine", {}),
    ("mtty", {"migration": "v1"}),
)
"""Devices to add, which the recording machine does not have."""


def machine_spec(profile: str) -> MachineSpec:
    """Build the recording machine with the devices of `_MORE` added."""
    spec = load_machine(FOLDER / "machine.toml")
    first = max(group.number for group in spec.groups) + 1
    groups = [GroupSpec(number=first + n) for n in range(len(_MORE))]
    devices = [
        DeviceSpec(symbol=f"more{n}", name=f"more{n}", group=first + n, model=model, options=options)
        for n, (model, options) in enumerate(_MORE)
    ]
    return replace(spec, profile=profile, groups=(*spec.groups, *groups), devices=(*spec.devices, *devices))


def live_names(spec: MachineSpec) -> set[str]:
    """Return all names that are live on any device of a machine."""
    found: set[str] = set()
    for device in spec.devices:
        _Prober(spec, found).probe(device)
    return found


@dataclass(frozen=True, slots=True)
class Question:
    """An argument, and the same with a meaningless number in one place; None if there is no such place."""

    raw: bytes
    nonsense: bytes | None = None


class _Prober:
    def __init__(self, spec: MachineSpec, found: set[str]) -> None:
        self._process = Process(Machine(spec, load_models()))
        self._found = found

    def probe(self, device: DeviceSpec) -> None:
        """Probe a container before and after its type is set, the group, and the device."""
        process = self._process
        container = process.open("/dev/vfio/vfio").ret
        group = process.open(f"/dev/vfio/{device.group}").ret
        if group < 0:
            return
        self._everything(FdKind.CONTAINER, container)
        self._ask(FdKind.GROUP, group, c.VFIO_GROUP_SET_CONTAINER, container.to_bytes(4, "little"))
        self._set_iommu(container)
        self._everything(FdKind.CONTAINER, container)
        self._everything(FdKind.GROUP, group)
        name = device.name.encode() + b"\0"
        opened = self._ask(FdKind.GROUP, group, c.VFIO_GROUP_GET_DEVICE_FD, name)
        if opened.errno is None:
            self._everything(FdKind.DEVICE, opened.ret)
            self._saving_stream(opened.ret)
            self._migration_region(opened.ret)
            process.close(opened.ret)
        if process.ioctl(group, c.VFIO_GROUP_UNSET_CONTAINER, 0).err is None:
            self._found.add("VFIO_GROUP_UNSET_CONTAINER")

    def _set_iommu(self, container: int) -> None:
        if self._process.ioctl(container, c.VFIO_SET_IOMMU, c.VFIO_TYPE1v2_IOMMU).err is None:
            self._found.add("VFIO_SET_IOMMU")

    def _everything(self, kind: FdKind, fd: int) -> None:
        """Make every ioctl of a kind of fd."""
        unknown = self._process.ioctl(fd, _NO_IOCTL, 0).err
        for row in IOCTLS:
            if row.kind is not kind or row.number in (c.VFIO_SET_IOMMU, c.VFIO_GROUP_UNSET_CONTAINER):
                continue
            if row.values is Extension:
                self._extensions(row, fd)
            elif row.argument != "pointer":
                if self._process.ioctl(fd, row.number, 0).err != unknown:
                    self._found.add(row.name)
            elif row.payload is not None:
                for question in questions(row):
                    self._put(row, fd, question, unknown)

    def _extensions(self, row: Ioctl, fd: int) -> None:
        for extension in Extension:
            if self._process.ioctl(fd, row.number, extension).ret > 0:
                self._found |= {row.name, c_name(extension)}

    def _put(self, row: Ioctl, fd: int, question: Question, unknown: str | None) -> None:
        if row.kind is FdKind.DEVICE:
            self._process.ioctl(fd, c.VFIO_DEVICE_RESET, 0)  # leave whatever state the last call set
        event = self._ask(row.kind, fd, row.number, question.raw)
        if event.errno is None or event.errno == unknown:
            return
        self._found.add(row.name)
        if question.nonsense is not None:
            other = self._ask(row.kind, fd, row.number, question.nonsense)
            if other.errno != event.errno:
                self._found |= involved(event) - involved(other)

    def _ask(self, kind: FdKind, fd: int, cmd: int, raw: bytes) -> e.Ioctl:
        """Make an ioctl; if it succeeds, all names that it involves are live."""
        memory = self._process.memory
        page = memory.allocate(_SIZE)
        memory.poke(page, raw)
        before = memory.peek(page, _SIZE)
        result = self._process.ioctl(fd, cmd, page)
        after = memory.peek(page, _SIZE)
        memory.unmap(page, _SIZE)
        capture = Capture()
        capture.read.put(page, before)
        if after != before:
            capture.written.put(page, after)
        event = calls.ioctl(kind, cmd, page, capture, result.ret)
        event = replace_errno(event, result.err)
        if event.errno is None:
            self._found |= involved(event)
        return event

    def _saving_stream(self, fd: int) -> None:
        """Call GET_PRECOPY_INFO on a data fd, if the device has one."""
        raw = DeviceFeature(argsz=16, flags=c.VFIO_DEVICE_FEATURE_SET | 2).build()
        self._process.ioctl(fd, c.VFIO_DEVICE_RESET, 0)
        event = self._ask(
            FdKind.DEVICE,
            fd,
            c.VFIO_DEVICE_FEATURE,
            raw + c.VFIO_DEVICE_STATE_PRE_COPY.to_bytes(4, "little") + b"\xff" * 4,
        )
        data = event.out.get("data") if isinstance(event.out, dict) else None
        if event.errno is None and isinstance(data, dict) and isinstance(data.get("data_fd"), int):
            self._everything(FdKind.DATA, data["data_fd"])
            self._process.close(data["data_fd"])

    def _migration_region(self, fd: int) -> None:
        """Write the states of migration v1 to its region."""
        row = next(row for row in IOCTLS if row.name == "VFIO_DEVICE_GET_REGION_INFO")
        for question in questions(row):
            out = self._ask(row.kind, fd, row.number, question.raw).out
            caps = out.get(CAPS) if isinstance(out, dict) else None
            if not any(cap.get("type") == c.VFIO_REGION_TYPE_MIGRATION_DEPRECATED for cap in caps or ()):
                continue
            page = self._process.memory.allocate(_SIZE)
            names = {c_name(member): int(member) for member in DeviceStateV1}
            for name, value in {**names, "VFIO_DEVICE_STATE_V1_STOP": c.VFIO_DEVICE_STATE_V1_STOP}.items():
                self._process.ioctl(fd, c.VFIO_DEVICE_RESET, 0)
                self._process.memory.poke(page, value.to_bytes(4, "little"))
                if self._process.pwrite(fd, page, 4, out["offset"]).err is None:
                    self._found.add(name)
            return


def replace_errno(event: e.Ioctl, name: str | None) -> e.Ioctl:
    """Return the event with another errno: the one that the call failed with."""
    return e.Ioctl(
        kind=event.kind,
        cmd=event.cmd,
        ioctl=event.ioctl,
        arg=event.arg,
        out=event.out,
        ret=event.ret,
        errno=name,
    )


def questions(row: Ioctl) -> Iterator[Question]:
    """Yield all arguments to try for an ioctl, changing one thing at a time."""
    cls = row.payload
    assert cls is not None
    if cls is DeviceFeature:
        yield from _features()
        return
    yield Question(_build(cls, argsz=_SIZE))
    for member in cls.MEMBERS:
        for hint in member.hints:
            if not isinstance(hint, type) or Hint.OUT in member.hints:
                continue
            if issubclass(hint, IntFlag):
                bits = [int(flag) for flag in hint]
                for bit in bits:
                    yield _question(cls, member.name, bit, _NO_BIT)
                for one, other in combinations(bits, 2):
                    for extra in _with(cls, member.name):
                        yield _question(cls, member.name, one | other, one | _NO_BIT, **extra)
                        yield _question(cls, member.name, one | other, other | _NO_BIT, **extra)
            elif issubclass(hint, IntEnum):
                for value in range(_INDICES):
                    yield _question(cls, member.name, value, _NO_NUMBER)


def _with(cls: type[Payload], name: str) -> Iterator[dict[str, int]]:
    """Yield values for the other enums of a struct while its flags are tried."""
    yield {}
    for member in cls.MEMBERS:
        for hint in member.hints:
            if member.name != name and isinstance(hint, type) and issubclass(hint, IntEnum):
                yield from ({member.name: value} for value in range(1, _INDICES))


def _features() -> Iterator[Question]:
    for feature in FEATURES.values():
        cls = feature.payload
        for op in (c.VFIO_DEVICE_FEATURE_PROBE, c.VFIO_DEVICE_FEATURE_GET, c.VFIO_DEVICE_FEATURE_SET):
            nonsense = _header(op | _NO_FEATURE)
            yield Question(_header(op | feature.number), nonsense)
            if cls is None or op == c.VFIO_DEVICE_FEATURE_PROBE:
                continue
            header = _header(op | feature.number)
            for member in cls.MEMBERS:
                for hint in member.hints:
                    if isinstance(hint, type) and issubclass(hint, (IntEnum, IntFlag)):
                        for value in hint:
                            yield Question(
                                header + _build(cls, **{member.name: int(value)}),
                                header + _build(cls, **{member.name: _NO_NUMBER}),
                            )


def _header(flags: int) -> bytes:
    return DeviceFeature(argsz=_SIZE, flags=flags).build()


def _question(cls: type[Payload], name: str, value: int, nonsense: int, **rest: int) -> Question:
    return Question(
        _build(cls, argsz=_SIZE, **{name: value}, **rest),
        _build(cls, argsz=_SIZE, **{name: nonsense}, **rest),
    )


def _build(cls: type[Payload], **values: Any) -> bytes:
    fields: dict[str, Any] = {"size": PAGE_SIZE, "length": PAGE_SIZE, **values}
    names = {member.name for member in cls.MEMBERS if member.nested is None}
    return cls(**{name: value for name, value in fields.items() if name in names}).build()
