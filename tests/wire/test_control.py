# SPDX-License-Identifier: MIT
"""The control protocol without a socket: both ends talk to each other, in pieces of any size, and survive garbage."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.wire import control as c
from vfioemu.wire.control import Answer, ClientSide, ControlError, LineBuffer, ProtocolError

ABOUT = c.About(version="1", protocol=1, commands=["list"], pid=4711)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def client(*lines):
    """A client's side that has received that."""
    side = ClientSide()
    side.feed(b"".join(lines))
    return side


@given(st.lists(st.binary().map(lambda data: data.replace(b"\n", b""))), st.data())
def test_lines_are_the_same_however_they_come(lines, data):
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    buffer = LineBuffer(1 << 20)
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        buffer.feed(stream[start:end])
        while (line := buffer.line()) is not None:
            found.append(line)

    assert found == lines


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_that_is_too_long_is_refused_whether_it_has_ended_or_not(end):
    buffer = LineBuffer(10)
    buffer.feed(b"x" * 10 + b"\n")
    assert buffer.line() == b"x" * 10
    buffer.feed(b"x" * 11 + end)
    assert buffer.full
    with pytest.raises(ProtocolError, match="limit of 10 bytes"):
        buffer.line()


def test_a_line_that_comes_byte_by_byte_is_looked_at_once():
    buffer = LineBuffer(1 << 20)
    for _ in range(1000):
        buffer.feed(b"x")
        assert buffer.line() is None
        assert buffer._searched == len(buffer._bytes)


@given(JSON)
def test_an_answer_arrives_as_it_was(value):
    side = ClientSide()
    request = c.decode_request(side.request("list", {}).rstrip(b"\n"))
    side.feed(c.answer(value, request.id))

    assert side.answer() == Answer(value, request.id)


@given(st.text(), st.dictionaries(st.text(), JSON))
def test_a_request_arrives_as_it_was(command, arguments):
    request = c.decode_request(ClientSide().request(command, arguments).rstrip(b"\n"))

    assert (request.execute, request.arguments, request.id) == (command, arguments, 1)


def test_integers_of_more_than_64_bits_can_be_asked_about():
    request = json.loads(ClientSide().request("mdev-start", {"options": {"addresses": [1 << 70]}}))

    assert request["arguments"] == {"options": {"addresses": [1 << 70]}}


def test_refusals_arrive_with_class_and_text():
    side = ClientSide()
    request = c.decode_request(side.request("list", {"x": 1}).rstrip(b"\n"))
    side.feed(c.refusal(ControlError("BadArguments", "list: no 'x'"), request.id))
    with pytest.raises(ControlError, match="list: no 'x'") as refused:
        side.answer()
    assert refused.value.kind == "BadArguments"


def test_a_refusal_without_an_id_is_of_the_last_request():
    """So is BadRequest: the daemon could not read it."""
    side = ClientSide()
    side.request("list", {"x": float("nan")})
    side.feed(c.refusal(ControlError("BadRequest", "JSON is malformed")))
    with pytest.raises(ControlError, match="malformed"):
        side.answer()


def test_answers_that_nobody_waits_for_any_more_are_thrown_away():
    side = ClientSide()
    side.request("list", {})
    side.request("inspect", {})
    side.request("stats", {})
    side.feed(c.answer("late", 1) + c.refusal(ControlError("DeviceNotFound", "late"), 2) + c.answer("it", 3))

    assert side.answer() == Answer("it", 3)
    assert side.answer() is None


def test_a_greeting_arrives():
    greeting = client(c.greeting(ABOUT)).greeting()

    assert greeting == {"version": "1", "protocol": 1, "commands": ["list"], "pid": 4711}


def test_a_greeting_may_get_more_keys_and_an_answer_too():
    side = client(
        b'{"vfioemu": {"version": "2", "mood": "good"}, "more": 1}\n', b'{"return": 1, "id": 1, "more": 2}\n'
    )
    side.request("list", {})

    assert side.greeting() == {"version": "2", "mood": "good"}
    assert side.answer() == Answer(1, 1)


def test_who_is_turned_away_is_told_in_the_place_of_the_greeting():
    with pytest.raises(ControlError, match="64 connections") as refused:
        client(c.refusal(ControlError("TooManyConnections", "64 connections"))).greeting()
    assert refused.value.kind == "TooManyConnections"


@pytest.mark.parametrize("take", [ClientSide.greeting, ClientSide.answer])
@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"[]",
        b"{}",
        b'{"id": 1}',
        b'{"error": 5, "id": 1}',
        b'{"error": {}, "id": 1}',
        b"\xff",
        b"[" * 9999,
    ],
)
def test_garbage_of_a_daemon_is_a_protocol_error(take, line):
    side = client(line + b"\n")
    side._id = 1
    if take is ClientSide.answer and line == b"{}":
        assert take(side) is None  # an answer to somebody else's request
        return
    with pytest.raises(ProtocolError):
        take(side)


@given(st.binary())
def test_any_bytes_are_a_line_or_a_protocol_error_to_a_client(data):
    side = client(data)
    side.request("list", {})
    with contextlib.suppress(ControlError, ProtocolError):
        while side.answer() is not None:
            pass


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_request_or_refused(data):
    with contextlib.suppress(ControlError):
        assert isinstance(c.decode_request(data), c.Request)


@pytest.mark.parametrize("line", [b"\xff", b'{"execute": "\xff"}', b'{"execute": "\\ud800"}', b"[" * 100_000])
def test_what_is_no_json_is_a_bad_request(line):
    with pytest.raises(ControlError) as refused:
        c.decode_request(line)
    assert refused.value.kind == "BadRequest"
