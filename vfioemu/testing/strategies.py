# SPDX-License-Identifier: MIT
"""Hypothesis strategies for VFIO: arguments of ioctls, whole requests, sequences of calls, and kernels to run on.

How good what is drawn is, is a `Validity`: ``"valid"`` arguments have all sizes, flags and reserved fields right (the
kernel may still refuse them: a mapping can be there already), ``"nearly"`` valid ones have one thing wrong, and
``"arbitrary"`` ones are any bytes. ``"any"`` is a mixture. Examples are in docs/testing.md.
"""

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Final, Literal, TypeAlias

from hypothesis import strategies as st

from vfioemu.core.base.profile import PROFILES
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.testing.inmemory import DeviceWish, MemoryMachine, machine
from vfioemu.uapi import constants as c
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.payload import Payload
from vfioemu.uapi.registry import FEATURES, IOCTLS, Ioctl

Validity: TypeAlias = Literal["valid", "nearly", "arbitrary", "any"]

PAGE: Final = 4096
_EDGES: Final = (
    0,
    1,
    2,
    7,
    8,
    64,
    PAGE - 1,
    PAGE,
    PAGE + 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 48,
    (1 << 64) - PAGE,
)
_BY_NAME: Final = {row.name: row for row in IOCTLS}


@dataclass(frozen=True, slots=True)
class IoctlRequest:
    """An ioctl that somebody may make.

    Attributes:
        kind: of the fd.
        name: of the ioctl; "" for a number that means nothing.
        number: the `cmd` argument.
        payload: what the argument points to; for ioctls that take a number, its 8 bytes.
    """

    kind: FdKind
    name: str
    number: int
    payload: bytes

    @property
    def value(self) -> int:
        """The payload as a number."""
        return int.from_bytes(self.payload[:8], "little")


@dataclass(frozen=True, slots=True)
class Call:
    """One step of a sequence; what the fds are is up to whoever makes the calls.

    Attributes:
        fd: which of the client's fds of the request's kind, modulo how many there are.
        request: what is asked.
    """

    fd: int
    request: IoctlRequest


def numbers(size: int) -> st.SearchStrategy[int]:
    """Unsigned numbers of `size` bytes, often those at which something may go wrong."""
    limit = (1 << 8 * size) - 1
    edges = st.sampled_from([edge for edge in _EDGES if edge <= limit] + [limit])
    return edges | st.integers(0, limit) | st.integers(0, 64).map(lambda page: page * PAGE & limit)


def iovas() -> st.SearchStrategy[int]:
    """Page-aligned IOVAs: low ones, those around the MSI window, and those at the end of 48 bits."""
    near = st.sampled_from([0xFEDFF000, 0xFEE00000, 0xFEF00000, (1 << 48) - PAGE, 1 << 32])
    return st.integers(0, 255).map(lambda page: page * PAGE) | near


def sizes() -> st.SearchStrategy[int]:
    """Whole pages, mostly few."""
    return st.integers(1, 64).map(lambda pages: pages * PAGE)


def payloads(kind: FdKind | str, ioctl: str, validity: Validity = "any") -> st.SearchStrategy[bytes]:
    """Arguments of one ioctl.

    Args:
        kind: of the fd: "container", "group", "device" or "data".
        ioctl: its name in <linux/vfio.h>.
        validity: see the module.

    Raises:
        KeyError: no such ioctl on such an fd.
    """
    row = _BY_NAME[ioctl]
    if row.kind != FdKind(kind):
        raise KeyError(f"{ioctl} is of a {row.kind} fd")
    valid = _valid(row)
    if validity == "valid":
        return valid
    nearly = valid.flatmap(_spoilt)
    arbitrary = st.binary(max_size=200)
    return {"nearly": nearly, "arbitrary": arbitrary, "any": valid | nearly | arbitrary}[validity]


def ioctl_requests(
    kinds: Collection[FdKind | str] = tuple(FdKind), validity: Validity = "any"
) -> st.SearchStrategy[IoctlRequest]:
    """Generate requests of all kinds: known ioctls with their arguments, and, unless `validity` forbids, unknown numbers."""
    wanted = {FdKind(kind) for kind in kinds}
    rows = [row for row in IOCTLS if row.kind in wanted]
    if not rows:
        raise ValueError(f"no ioctl on {', '.join(sorted(wanted))}")
    known = st.sampled_from(rows).flatmap(lambda row: _request(row, validity))
    if validity == "valid":
        return known
    unknown = st.builds(
        IoctlRequest,
        kind=st.sampled_from(sorted(wanted)),
        name=st.just(""),
        number=st.integers(0, 0xFFFFFFFF) | st.integers(0x3B64, 0x3BFF),
        payload=st.binary(max_size=64),
    )
    return known | known | known | unknown


def sequences(
    kinds: Collection[FdKind | str] = (FdKind.CONTAINER, FdKind.GROUP, FdKind.DEVICE),
    validity: Validity = "any",
    max_size: int = 20,
) -> st.SearchStrategy[list[Call]]:
    """Generate calls one after the other, by several fds of each kind."""
    calls = st.builds(Call, fd=st.integers(0, 3), request=ioctl_requests(kinds, validity))
    return st.lists(calls, max_size=max_size)


def mappings(max_size: int = 8) -> st.SearchStrategy[list[tuple[int, int]]]:
    """IOVA ranges (iova, size) that do not overlap, in any order; some of them reach into what is reserved."""

    def apart(pieces: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        kept: list[tuple[int, int]] = []
        for iova, size in pieces:
            if all(iova + size <= other or other + length <= iova for other, length in kept):
                kept.append((iova, size))
        return kept

    return st.lists(st.tuples(iovas(), sizes()), max_size=max_size).map(apart)


def iommus() -> st.SearchStrategy[IommuSpec]:
    """IOMMUs of 39 to 57 bits, with other page sizes and reserved ranges."""
    reserved = st.sampled_from(
        [
            ((0xFEE0_0000, 0xFEEF_FFFF),),
            (),
            ((0x800_0000, 0x80F_FFFF),),
            ((0, 0xF_FFFF), (0xFEE0_0000, 0xFEEF_FFFF)),
            ((0x10_0000, 0x10_0FFF), (0xFEE0_0000, 0xFEEF_FFFF)),
        ]
    )
    return st.builds(
        IommuSpec,
        address_bits=st.sampled_from([39, 48, 57]),
        pgsizes=st.sampled_from([0x1000, 0x201000, 0x40201000]),
        reserved=reserved,
        coherent=st.booleans(),
    )


def machines(*devices: str | DeviceWish) -> st.SearchStrategy[MemoryMachine]:
    """Emulated kernels with these devices, on different hardware, of different releases, with different limits.

    A device that brings an `IommuSpec` of its own keeps it.
    """

    def on(iommu: IommuSpec, profile: str, limit: int) -> MemoryMachine:
        return machine(*devices, profile=profile, dma_entry_limit=limit, iommu=iommu)

    profiles = st.sampled_from([*PROFILES])
    return st.builds(on, iommus(), profiles, st.sampled_from([65535, 64, 3, 1]))


# --- inside ---


def _request(row: Ioctl, validity: Validity) -> st.SearchStrategy[IoctlRequest]:
    def made(payload: bytes) -> IoctlRequest:
        return IoctlRequest(row.kind, row.name, row.number, payload)

    return payloads(row.kind, row.name, validity).map(made)


def _valid(row: Ioctl) -> st.SearchStrategy[bytes]:
    """Generate an argument with nothing wrong in itself."""
    if row.name == "VFIO_DEVICE_FEATURE":
        return _features()
    if row.name == "VFIO_DEVICE_SET_IRQS":
        return _irqs()
    if row.name == "VFIO_IOMMU_DIRTY_PAGES":
        return _dirty_pages()
    if row.name == "VFIO_GROUP_GET_DEVICE_FD":
        return st.sampled_from(["0000:00:01.0", "00000000-0000-4000-8000-000000000001"]).map(
            lambda name: name.encode() + b"\0"
        )
    if row.argument == "value":
        values = st.sampled_from(
            [c.VFIO_TYPE1_IOMMU, c.VFIO_TYPE1v2_IOMMU, c.VFIO_UNMAP_ALL, c.VFIO_UPDATE_VADDR]
        )
        return values.map(lambda value: struct.pack("<Q", value))
    if row.payload is None:
        return (
            st.just(b"")
            if row.argument == "none"
            else st.integers(3, 20).map(lambda fd: struct.pack("<i", fd))
        )
    return _struct(row.payload, row.flags)


def _struct(payload: type[Payload], flags: type[IntFlag] | None) -> st.SearchStrategy[bytes]:
    """Generate a struct: argsz is its size, flags are known ones, addresses and sizes are whole pages."""
    names = [leaf.rpartition(".")[2] for leaf in payload.LEAVES]
    return st.tuples(*(_field(name, payload.SIZE, flags) for name in names)).map(
        lambda values: payload.CODEC.pack(*values)
    )


def _field(name: str, size: int, flags: type[IntFlag] | None) -> st.SearchStrategy[int]:
    if name == "argsz":
        return st.just(size)
    if name == "flags":
        known = [int(flag) for flag in flags] if flags is not None else [0]
        return st.sampled_from([*known, 0, *([3] if flags is not None else [])])
    if name in ("iova", "vaddr"):
        return iovas()
    if name in ("size", "length"):
        return sizes()
    if name in ("index", "count", "start"):
        return st.integers(0, 9)
    return st.just(0)


def _features() -> st.SearchStrategy[bytes]:
    def of(number: int) -> st.SearchStrategy[bytes]:
        feature = FEATURES[number]
        operations = [op for op in (c.VFIO_DEVICE_FEATURE_GET, c.VFIO_DEVICE_FEATURE_SET) if feature.ops & op]
        flags = st.sampled_from([*operations, feature.ops | c.VFIO_DEVICE_FEATURE_PROBE])
        body: st.SearchStrategy[bytes] = st.just(bytes(feature.payload.SIZE if feature.payload else 0))
        if feature.name == "MIG_DEVICE_STATE":
            body = st.integers(1, 7).map(lambda state: struct.pack("<Ii", state, -1))
        elif feature.name == "DMA_LOGGING_REPORT":
            body = st.tuples(iovas(), sizes()).map(
                lambda span: struct.pack("<QQQQ", *span, PAGE, 0x7F0000000000)
            )
        elif feature.name == "DMA_LOGGING_START":
            body = st.just(struct.pack("<QIIQ", PAGE, 1, 0, 0x7F0000000000))
        return st.tuples(flags, body).map(
            lambda both: struct.pack("<II", 8 + len(both[1]), number | both[0]) + both[1]
        )

    return st.sampled_from(sorted(FEATURES)).flatmap(of)


def _irqs() -> st.SearchStrategy[bytes]:
    def of(kind: tuple[int, int], action: int, index: int, count: int) -> bytes:
        flag, width = kind
        head = struct.pack("<5I", 20 + width * count, flag | action, index, 0, count)
        return head + (b"\xff\xff\xff\xff" * count if width == 4 else bytes([1]) * (width * count))

    kinds = st.sampled_from(
        [(c.VFIO_IRQ_SET_DATA_NONE, 0), (c.VFIO_IRQ_SET_DATA_BOOL, 1), (c.VFIO_IRQ_SET_DATA_EVENTFD, 4)]
    )
    actions = st.sampled_from(
        [c.VFIO_IRQ_SET_ACTION_MASK, c.VFIO_IRQ_SET_ACTION_UNMASK, c.VFIO_IRQ_SET_ACTION_TRIGGER]
    )
    return st.builds(of, kinds, actions, st.integers(0, 4), st.integers(0, 4))


def _dirty_pages() -> st.SearchStrategy[bytes]:
    switch = st.sampled_from([c.VFIO_IOMMU_DIRTY_PAGES_FLAG_START, c.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP])

    def get(iova: int, size: int) -> bytes:
        nbytes = -(-size // PAGE // 64) * 8
        head = struct.pack("<II", 48, c.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP)
        return head + struct.pack("<5Q", iova, size, PAGE, nbytes, 0x7F0000000000)

    return switch.map(lambda flag: struct.pack("<II", 8, flag)) | st.builds(get, iovas(), sizes())


def _spoilt(payload: bytes) -> st.SearchStrategy[bytes]:
    """Generate the payload with one thing wrong: cut off, too long, another argsz, one field at an edge, one bit."""
    kinds = [st.integers(0, max(0, len(payload) - 1)).map(lambda size: payload[:size])]
    kinds.append(st.binary(min_size=1, max_size=24).map(lambda more: payload + more))
    if len(payload) >= 4:
        kinds.append(numbers(4).map(lambda argsz: struct.pack("<I", argsz) + payload[4:]))
        kinds += [_other_field(payload, width) for width in (4, 8) if len(payload) >= width]
    if payload:
        bits = st.integers(0, 8 * len(payload) - 1)
        kinds.append(bits.map(lambda bit: _put(payload, bit // 8, payload[bit // 8] ^ 1 << bit % 8, 1)))
    return st.one_of(kinds)


def _other_field(payload: bytes, width: int) -> st.SearchStrategy[bytes]:
    places = st.integers(0, (len(payload) - width) // 4).map(lambda word: 4 * word)
    return st.builds(lambda at, value: _put(payload, at, value, width), places, numbers(width))


def _put(payload: bytes, at: int, value: int, width: int) -> bytes:
    return payload[:at] + value.to_bytes(width, "little") + payload[at + width :]
