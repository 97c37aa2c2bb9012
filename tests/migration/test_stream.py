# SPDX-License-Identifier: MIT
"""The stream's codec: what was packed comes back, and anything else is a StreamError."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.migration import messages, stream
from vfioemu.migration.plan import Reason
from vfioemu.migration.stream import FrameType, Stage, StreamError
from vfioemu.native.sums import SUM_SIZE

SIZES = [1000, 1 << 36]
MESSAGES = [
    value
    for value in vars(messages).values()
    if isinstance(value, type) and issubclass(value, messages.Message)
]


def read_frame(data, seq=0):
    header = stream.parse_header(data[: stream.HEADER_SIZE], seq)
    body = data[stream.HEADER_SIZE : stream.HEADER_SIZE + header.body]
    stream.check_body(data[: stream.HEADER_SIZE], body)
    return header, body


@given(st.sampled_from(FrameType), st.binary(max_size=12), st.integers(0, 2**64 - 1))
def test_frame_round_trip(type, body, seq):
    body = b"" if type is FrameType.ALIVE else body
    header, got = read_frame(stream.frame(type, seq, body), seq)
    assert (header.type, header.seq, got) == (type, seq, body)


@given(st.sets(st.integers(0, 999), max_size=80))
def test_runs_round_trip(edges):
    ascending = sorted(edges)
    runs = [(first, end - first) for first, end in zip(ascending[::2], ascending[1::2], strict=False)]
    block, got = stream.unpack_runs(stream.pack_runs(0, runs), SIZES)
    assert (block, list(got)) == (0, runs)


@given(st.integers(0, 400), st.integers(1, 600), st.randoms(use_true_random=False))
def test_sums_round_trip(first, count, random):
    sums = random.randbytes(count * SUM_SIZE)
    assert stream.unpack_sums(stream.pack_sums(0, first, sums), SIZES) == (0, first, sums)


@given(st.data())
def test_any_flipped_bit_of_header_or_body_is_an_error(data):
    body = data.draw(st.binary(min_size=1, max_size=12))
    whole = bytearray(stream.frame(FrameType.DEVICE, 7, body))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises((StreamError, struct.error)):
        read_frame(bytes(whole), 7)


@given(st.binary(min_size=1, max_size=100), st.data())
def test_any_flipped_bit_of_device_state_is_an_error(state, data):
    chunk = stream.unpack_state(stream.pack_state(3, 9, stream.LAST, state))
    assert (chunk.device, chunk.index, chunk.last) == (3, 9, True)
    chunk.check(state, "dma0")
    torn = bytearray(state)
    bit = data.draw(st.integers(0, 8 * len(torn) - 1))
    torn[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StreamError, match="chunk 9 of the state of dma0 is wrong"):
        chunk.check(torn, "dma0")


@given(st.binary(min_size=stream.HEADER_SIZE, max_size=stream.HEADER_SIZE))
def test_random_header_is_an_error_or_within_limits(data):
    try:
        header = stream.parse_header(data, struct.unpack_from("<Q", data, 12)[0])
    except StreamError:
        return
    assert header.body <= stream.MAX_JSON
    assert header.bulk <= stream.MAX_RAM


@given(st.binary(max_size=200))
def test_random_tables_are_errors_or_inside_their_block(data):
    for unpack in (
        lambda: stream.unpack_runs(data, SIZES),
        lambda: stream.unpack_sums(data, SIZES),
        lambda: stream.unpack_state(data),
    ):
        try:
            unpack()
        except StreamError:
            continue


@given(st.sampled_from(MESSAGES), st.one_of(st.binary(max_size=100), st.text().map(str.encode)))
def test_random_json_is_an_error_or_a_message(type, data):
    try:
        message = stream.decode(data, type)
    except StreamError:
        return
    assert isinstance(message, type)


def test_deep_json_is_an_error():
    with pytest.raises(StreamError):
        stream.decode(b"[" * 100_000, messages.Hello)


@pytest.mark.parametrize(
    ("runs", "block"),
    [
        ([(0, 0)], 0),
        ([(1000, 1)], 0),
        ([(999, 2)], 0),
        ([(1, 2**64 - 1)], 0),
        ([(0, 1)], 2),
        ([(5, 2), (6, 1)], 0),
        ([(5, 1), (0, 1)], 0),
    ],
)
def test_runs_outside_a_block_are_refused(runs, block):
    with pytest.raises(StreamError, match="block"):
        stream.unpack_runs(stream.pack_runs(block, runs), SIZES)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1", Reason.STREAM_CORRUPT),
        (stream.PREAMBLE.pack(b"VFEM", 1, 0, 0), Reason.VERSION),
        (stream.PREAMBLE.pack(b"VFEM", 2, 0, 1 << 31), Reason.VERSION),
    ],
)
def test_foreign_preamble_is_refused(data, reason):
    with pytest.raises(StreamError) as refused:
        stream.check_preamble(data)
    assert refused.value.reason is reason


def test_newer_minor_version_with_unknown_keys_is_understood():
    assert stream.check_preamble(stream.PREAMBLE.pack(b"VFEM", 2, 7, 0)) == 7
    body = b'{"token":"%s","guest":"g","verify":true,"colour":"red"}' % (b"0" * 32)
    assert stream.decode(body, messages.Hello).guest == "g"


def test_stages_never_take_pages_after_the_checksums_began():
    for stage in (Stage.VERIFYING, Stage.READY, Stage.OVER):
        for kind in (FrameType.RAM, FrameType.ZERO, FrameType.DEVICE):
            with pytest.raises(StreamError):
                stream.follow(stage, kind)


def test_every_stage_but_the_last_leads_on():
    for stage in Stage:
        assert stage in stream.NEXT
        if stage is not Stage.OVER:
            assert any(after > stage for after in stream.NEXT[stage].values())
