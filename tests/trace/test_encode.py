# SPDX-License-Identifier: MIT
"""Names to bytes, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.trace.decode import Capture, Decoder, extent
from vfioemu.trace.encode import EncodeError, encode, key_values
from vfioemu.trace.names import Style
from vfioemu.trace.text import Look, Printer
from vfioemu.uapi import structs as s
from vfioemu.uapi.hints import Chain
from vfioemu.uapi.registry import IOCTLS

ROWS = {row.name: row for row in IOCTLS}
PLAIN = [row for row in IOCTLS if row.payload is not None]


def decoded(row, raw):
    capture = Capture()
    capture.read.put(0x1000, raw)
    return Decoder(capture, 100, everything=True).argument(row, 0x1000)


def flat(tree, prefix=""):
    """A tree as FIELD=VALUE."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", ",".join(map(str, value))
        else:
            yield f"{prefix}{name}", str(value)


@st.composite
def arguments(draw):
    row = draw(st.sampled_from(PLAIN))
    raw = bytearray(draw(st.binary(min_size=row.payload.SIZE, max_size=row.payload.SIZE)))
    for member in row.payload.MEMBERS:
        if member.name in ("count", "pad", "reserved", "cap_offset", "flags", "num_ranges"):
            value = draw(st.integers(0, 3)) if member.name in ("count", "flags") else 0
            raw[member.offset : member.offset + member.size] = value.to_bytes(member.size, "little")
    if row.name == "VFIO_DEVICE_FEATURE":
        raw[4:8] = draw(st.sampled_from([0x10001, 0x20002, 0x20006, 0x10008, 0x10009, 0x2000A])).to_bytes(
            4, "little"
        )
    size = extent(row.payload, bytes(raw))
    raw += draw(st.binary(min_size=size - len(raw), max_size=size - len(raw)))
    return row, bytes(raw)


@given(arguments())
def test_what_was_decoded_is_encoded_to_the_same_bytes(argument):
    row, raw = argument
    tree = decoded(row, raw)
    if any(isinstance(v, list) and v and isinstance(v[0], dict) for v in _values(tree)):
        return  # arrays of structs have no FIELD=VALUE form
    if row.name == "VFIO_DEVICE_FEATURE" and raw[4] == 6:
        raw = raw[:20] + bytes(4) + raw[24:]  # `reserved`, which is shown only if it is not 0
        tree = decoded(row, raw)

    assert encode(row, dict(flat(tree))) == raw


def _values(tree):
    for value in tree.values():
        yield value
        if isinstance(value, dict):
            yield from _values(value)


@given(arguments())
def test_the_names_that_are_printed_are_understood(argument):
    row, raw = argument
    tree = decoded(row, raw)
    flags = tree.get("flags")
    text = Printer(Look(Style.VERBOSE)).payload(row, tree)
    shown = text.partition("flags=")[2].partition(",")[0].rstrip("}")
    if flags is None or "???" in shown:
        return

    assert encode(row, {"flags": shown, "argsz": "0"})[4:8] == raw[4:8]


@pytest.mark.parametrize(
    ("name", "values", "want"),
    [
        (
            "VFIO_IOMMU_MAP_DMA",
            {"flags": "READ|WRITE", "iova": "0x1000", "size": "4096"},
            s.IommuType1DmaMap(flags=3, iova=4096, size=4096).build(),
        ),
        (
            "VFIO_IOMMU_DIRTY_PAGES",
            {"flags": "GET_BITMAP", "iova": "1", "size": "2", "bitmap.size": "3", "pgsize": "4", "data": "5"},
            s.IommuType1DirtyBitmap(argsz=48, flags=4).build()
            + s.IommuType1DirtyBitmapGet(iova=1, size=2, bitmap=s.Bitmap(size=3, pgsize=4, data=5)).build(),
        ),
        (
            "VFIO_DEVICE_FEATURE",
            {"flags": "VFIO_DEVICE_FEATURE_SET|MIG_DEVICE_STATE", "device_state": "RESUMING"},
            s.DeviceFeature(argsz=16, flags=0x20002).build()
            + s.DeviceFeatureMigState(device_state=4).build(),
        ),
        (
            "VFIO_DEVICE_SET_IRQS",
            {"flags": "DATA_EVENTFD|ACTION_TRIGGER", "index": "MSIX", "count": "2", "data": "31,-1"},
            s.IrqSet(argsz=28, flags=0x24, index=2, count=2).build() + b"\x1f\0\0\0\xff\xff\xff\xff",
        ),
        ("VFIO_GROUP_GET_DEVICE_FD", {"arg": "0000:00:01.0"}, b"0000:00:01.0\0"),
        ("VFIO_GROUP_SET_CONTAINER", {"arg": "-1"}, b"\xff\xff\xff\xff"),
        (
            "VFIO_DEVICE_FEATURE",
            {"flags": "SET|PCI_VF_TOKEN", "uuid": "00112233-4455-6677-8899-aabbccddeeff"},
            s.DeviceFeature(argsz=24, flags=0x20000).build()
            + bytes.fromhex("00112233445566778899aabbccddeeff"),
        ),
    ],
)
def test_encoded(name, values, want):
    assert encode(ROWS[name], values) == want


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        (
            "VFIO_IOMMU_MAP_DMA",
            {"iovas": "1"},
            r"no field 'iovas'; known are argsz, flags, vaddr, iova, size",
        ),
        (
            "VFIO_IOMMU_MAP_DMA",
            {"flags": "REED"},
            r"flags: 'REED' is not a number or one of READ, WRITE, VADDR",
        ),
        ("VFIO_IOMMU_MAP_DMA", {"argsz": "5000000000"}, r"argsz: 5000000000 does not fit in 32 bits"),
        ("VFIO_IOMMU_MAP_DMA", {"iova": "-1"}, r"iova: -1 does not fit in 64 bits"),
        ("VFIO_GROUP_SET_CONTAINER", {"fd": "3"}, r"takes arg=VALUE"),
        ("VFIO_GET_API_VERSION", {"arg": "3"}, r"takes no memory"),
        (
            "VFIO_DEVICE_FEATURE",
            {"flags": "SET|PCI_VF_TOKEN", "uuid": "12"},
            r"uuid: '12' is not 16 bytes in hex",
        ),
    ],
)
def test_refused(name, values, why):
    with pytest.raises(EncodeError, match=why):
        encode(ROWS[name], values)


def test_pairs():
    assert key_values(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    for bad in (["a"], ["a=1", "a=2"]):
        with pytest.raises(EncodeError):
            key_values(bad)


def test_every_chain_names_what_it_decodes():
    for row in PLAIN:
        for member in row.payload.MEMBERS:
            for hint in member.hints:
                if isinstance(hint, Chain):
                    assert set(hint.caps) <= {int(cap) for cap in hint.ids}
