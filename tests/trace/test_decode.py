# SPDX-License-Identifier: MIT
"""Any bytes whatever are decoded, printed, sent as JSON and printed again, the same."""

import dataclasses
import json
from typing import Annotated

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vfioemu.trace import calls
from vfioemu.trace import events as e
from vfioemu.trace.decode import Capture, Decoder
from vfioemu.trace.filter import classes, names
from vfioemu.trace.names import Style, ioctl_name
from vfioemu.trace.text import Look, Printer
from vfioemu.uapi import registry
from vfioemu.uapi.constants import VFIO_DEVICE_FEATURE
from vfioemu.uapi.features import FEATURES
from vfioemu.uapi.flags import DmaMapFlag
from vfioemu.uapi.hints import Follow, Hex64
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.payload import SIZEOF_SELF, U32, U64, Payload, payload
from vfioemu.uapi.registry import IOCTLS
from vfioemu.uapi.structs import IommuType1DmaMap

U64_MAX = (1 << 64) - 1
ADDRESS = 0x7F0000001000
SMALL = st.sampled_from(
    [0, 1, 2, 3, 4, 8, 16, 32, 40, 48, 4096, 0x10000, 0x20001, U64_MAX, ADDRESS, ADDRESS + 64]
)
WORDS = st.lists(
    st.one_of(
        SMALL.map(lambda n: n.to_bytes(8, "little")),
        SMALL.map(lambda n: (n & 0xFFFFFFFF).to_bytes(4, "little")),
        st.integers(0, 12).flatmap(
            lambda n: st.sampled_from([1 << 16, 2 << 16, 4 << 16]).map(
                lambda op: (op | n).to_bytes(4, "little")
            )
        ),
        st.binary(max_size=12),
    ),
    max_size=20,
).map(b"".join)
CHUNKS = st.lists(
    st.tuples(st.one_of(SMALL, st.integers(ADDRESS - 8, ADDRESS + 160), st.just(ADDRESS)), WORDS), max_size=5
)


def captured(read, written, fds=()):
    capture = Capture()
    for address, data in read:
        capture.read.put(address, data)
    for address, data in written:
        capture.written.put(address, data)
    capture.fds.update(fds)
    return capture


def lines(event):
    looks = [Look(), Look(Style.VERBOSE, 3, True, True), Look(Style.RAW, 100, pids=2)]
    return [Printer(look).line(event) for look in looks]


@given(
    st.one_of(
        st.sampled_from(IOCTLS).map(lambda row: (row.kind, row.number)),
        st.tuples(st.sampled_from(FdKind), st.integers(0, 0xFFFFFFFF)),
    ),
    st.one_of(st.just(ADDRESS), SMALL),
    CHUNKS,
    CHUNKS,
    st.dictionaries(st.integers(-1, 40), st.sampled_from(["eventfd", "group 1", "*/ evil\n"]), max_size=3),
    st.integers(-40, 40),
    st.text(max_size=20),
    st.integers(1, 70),
)
def test_any_bytes_are_printed_and_the_same_after_json(
    call, argument, read, written, fds, result, why, limit
):
    kind, cmd = call
    event = calls.ioctl(kind, cmd, argument, captured(read, written, fds), result, why, limit=limit, fd=3)
    again = e.decode(e.encode(event))

    assert lines(again) == lines(event)
    assert json.loads(e.encode(again)) == json.loads(e.encode(event))
    assert all("\n" not in line for line in lines(event))
    assert lines(event)[0].startswith("ioctl(3<")
    assert classes(event) >= {"ioctl"}
    assert names(event)[0] == event.ioctl


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, U64_MAX)
    | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "argsz",
                    "flags",
                    "data",
                    "bitmap",
                    "ranges",
                    "dirty",
                    "count",
                    "caps",
                    "id",
                    "fd",
                    "is",
                    "index",
                    "x",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from(IOCTLS), JSON, JSON, st.integers(-1, 3))
@example(IOCTLS[6], {"data": {"bitmap": {"data": {"dirty": 1, "count": 1, "ranges": [[1]]}}}}, {"data": 1}, 0)
@example(IOCTLS[3], {}, {"caps": [{"id": 99}, 3, {"id": 1, "version": []}]}, 0)
@example(IOCTLS[6], [], {"fd": 3, "is": "x"}, 3)
def test_any_json_is_printed(row, arg, out, ret):
    event = e.Ioctl(kind=row.kind, cmd=row.number, ioctl=row.name, arg=arg, out=out, ret=ret)

    assert lines(e.decode(e.encode(event))) == lines(event)


@given(st.binary(max_size=200), st.text(max_size=200))
def test_what_is_no_event_is_a_value_error(raw, text):
    for line in (raw, text):
        try:
            e.decode(line)
        except ValueError:
            continue


def test_every_feature_is_named_and_its_payload_shown():
    for row in FEATURES.values():
        header = (8 + (row.payload.SIZE if row.payload else 0)).to_bytes(4, "little")
        header += (row.ops & -row.ops | row.number).to_bytes(4, "little")
        body = row.payload().build() if row.payload else b""
        capture = captured([(ADDRESS, header + body)], [])
        event = calls.ioctl(FdKind.DEVICE, VFIO_DEVICE_FEATURE, ADDRESS, capture, 0)

        assert row.name in Printer().line(event)
        assert names(event)[1] == f"VFIO_DEVICE_FEATURE_{row.name}"
        assert (row.payload is not None) == ("data" in event.arg)


@payload("vfio_future_range")
class FutureRange(Payload):
    start: Hex64 = 0
    length: U64 = 0


@payload("vfio_future", tail="ranges", follows=(Follow(FutureRange, "nr"),))
class Future(Payload):
    argsz: U32 = SIZEOF_SELF
    flags: U32 = 0
    nr: U32 = 0
    color: Annotated[U32, DmaMapFlag] = 0


def test_an_ioctl_that_nobody_has_thought_of_is_traced_from_its_row_alone(monkeypatch):
    row = dataclasses.replace(
        IOCTLS[4], name="VFIO_IOMMU_FUTURE", number=0x3BEE, payload=Future, classes=frozenset({"dma"})
    )
    monkeypatch.setitem(registry._BY_NUMBER[FdKind.CONTAINER], row.number, row)
    asked = (
        Future(argsz=48, flags=0x21, nr=2, color=1).build() + FutureRange(start=4096, length=7).build() * 2
    )
    capture = captured([(ADDRESS, asked)], [(ADDRESS + 8, b"\x01\0\0\0\x02\0\0\0")])
    event = calls.ioctl(FdKind.CONTAINER, row.number, ADDRESS, capture, -22, "nr 2 is too much", fd=4)

    assert Printer().line(event) == (
        "ioctl(4<container>, VFIO_IOMMU_FUTURE, {argsz=48, flags=READ|0x20 /* VFIO_DMA_MAP_FLAG_??? */, nr=2, "
        "color=READ, ranges=[{start=0x1000, length=7}, {start=0x1000, length=7}]} => {nr=1, color=WRITE}) "
        "= -1 EINVAL (Invalid argument) /* nr 2 is too much */"
    )
    assert classes(event) == {"ioctl", "dma"}


@pytest.mark.parametrize("size", [0, 3, 4, 12, 31])
def test_of_an_argument_that_ends_early_what_is_there_is_shown(size):
    row = next(row for row in IOCTLS if row.name == "VFIO_IOMMU_MAP_DMA")
    whole = IommuType1DmaMap(argsz=32, flags=3, vaddr=1 << 40).build()
    tree = Decoder(captured([(ADDRESS, whole[:size])], [])).argument(row, ADDRESS)

    if size < 4:
        assert tree == ADDRESS  # as strace prints what it cannot read
    else:
        assert list(tree) == [
            member.name for member in row.payload.MEMBERS if member.offset + member.size <= size
        ]


def test_numbers_of_one_kind_mean_nothing_on_another():
    assert ioctl_name(FdKind.DEVICE, 0x3B75) == "VFIO_DEVICE_FEATURE"
    assert ioctl_name(FdKind.CONTAINER, 0x3B75) == "VFIO_IOMMU_DIRTY_PAGES"
    assert ioctl_name(FdKind.GROUP, 0x3B75) == "_IOC(_IOC_NONE, 0x3b, 0x75, 0)"
