# SPDX-License-Identifier: MIT
"""The two codecs of a payload, and what must survive them."""

import dataclasses

import construct
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.uapi import structs
from vfioemu.uapi.flags import DmaMapFlag
from vfioemu.uapi.payload import Payload
from vfioemu.uapi.structs import Bitmap, IommuType1DirtyBitmapGet, IommuType1DmaMap, IrqSet

ALL: list[type[Payload]] = [getattr(structs, name) for name in structs.__all__]


def flatten(value):
    """What construct parsed, as nested dictionaries."""
    if isinstance(value, construct.Container):
        return {name: flatten(inner) for name, inner in value.items() if name != "_io" and name is not None}
    return value


@given(st.sampled_from(ALL), st.data())
def test_struct_and_construct_parse_alike(payload, data):
    raw = data.draw(st.binary(min_size=payload.SIZE, max_size=payload.SIZE + 8))

    parsed = payload.parse(raw)

    assert dataclasses.asdict(parsed) == flatten(payload.LAYOUT.parse(raw))


@given(st.sampled_from(ALL), st.data())
def test_struct_and_construct_build_alike(payload, data):
    raw = data.draw(st.binary(min_size=payload.SIZE, max_size=payload.SIZE))
    parsed = payload.parse(raw)

    built = parsed.build()

    assert built == payload.LAYOUT.build(dataclasses.asdict(parsed))
    assert payload.parse(built) == parsed


@given(st.sampled_from(ALL), st.data())
def test_parse_takes_any_buffer(payload, data):
    raw = data.draw(st.binary(min_size=payload.SIZE, max_size=payload.SIZE))

    assert payload.parse(raw) == payload.parse(bytearray(raw)) == payload.parse(memoryview(raw))


@pytest.mark.parametrize("payload", ALL)
def test_parse_of_short_data_is_a_value_error(payload):
    with pytest.raises(ValueError, match=payload.CNAME):
        payload.parse(bytes(payload.SIZE - 1))


@given(st.integers(0, 2**32 - 1))
def test_unknown_flag_bits_survive(flags):
    request = IommuType1DmaMap.parse(IommuType1DmaMap(flags=flags).build())

    assert request.flags == flags
    assert int(DmaMapFlag(request.flags)) == flags


def test_argsz_defaults_to_sizeof():
    assert IommuType1DmaMap().argsz == 32
    assert IrqSet().argsz == 20


def test_payloads_are_immutable_and_have_no_room_for_typos():
    request = IommuType1DmaMap()

    field, typo = "flags", {"flag": 1}
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(request, field, 1)
    with pytest.raises(TypeError):
        IommuType1DmaMap(**typo)
    assert not hasattr(request, "__dict__")


def test_nested_struct_is_parsed_into_its_class():
    request = IommuType1DirtyBitmapGet.parse(bytes(range(40)))

    assert isinstance(request.bitmap, Bitmap)
    assert request.bitmap.pgsize == int.from_bytes(bytes(range(16, 24)), "little")
