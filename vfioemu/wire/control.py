# SPDX-License-Identifier: MIT
"""The protocol of the control socket (protocol/control.md), without I/O: bytes to messages, and messages to bytes.

Theory of operation. Each line is one JSON object. The daemon greets; from then on each request gets one line, in order:

    {"vfioemu": {"version": "0.1.0", "protocol": 1, "commands": ["list", ...]}}         greeting
    {"execute": "stats", "arguments": {...}, "id": 1}                                   request
    {"return": {...}, "id": 1}   or   {"error": {"class": "...", "desc": "..."}, "id": 1}

Both ends cut what they receive into lines with a `LineBuffer`, which bounds what an endless line costs. The daemon
(daemon/control.py) reads lines with `decode_request` and writes them with `greeting`, `answer` and `refusal`. A client has a
`ClientSide`: bytes that were received go in by `feed`, and `greeting`, `answer` and `line` take out what they are, or return
None until more bytes have been fed. Two clients drive one, client/control.py under trio and control_client.py with a blocking socket;
they add a socket, time-outs and the check of who listens, and nothing of the protocol.

What commands take and answer is the daemon's business: daemon/messages.py.
"""

import json
from typing import Any, Final

import msgspec

MAX_REQUEST: Final = 1 << 20
"""Limit of a request, in bytes, without its newline."""
MAX_ANSWER: Final = 64 << 20
"""Limit of a line that a client accepts from a daemon, in bytes, without its newline."""

Id = int | str | None


class ControlError(Exception):
    """A command was refused and has changed nothing; the text is for people.

    Raised by the daemon's commands, and by clients when they receive a refusal.

    Attributes:
        kind: the class of the error, for programs: one of protocol/control.md, e.g. ``DeviceNotFound``.
    """

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class ProtocolError(Exception):
    """The peer sent something that is not of this protocol; the connection cannot be used any more."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command with its arguments."""

    execute: str
    arguments: dict[str, Any] = {}
    id: Id = None


class About(msgspec.Struct, frozen=True):
    """The daemon's greeting: version of the package and of protocol/wire.md, the commands in order, the pid."""

    version: str
    protocol: int
    commands: list[str]
    pid: int


class Answer(msgspec.Struct, frozen=True, rename={"value": "return"}):
    """The result of a command."""

    value: Any
    id: Id = None


class _Greeting(msgspec.Struct, frozen=True):
    vfioemu: About


class _Why(msgspec.Struct, frozen=True, rename={"kind": "class"}):
    kind: str
    desc: str


class _Refusal(msgspec.Struct, frozen=True):
    error: _Why
    id: Id = None


class _Received(msgspec.Struct, frozen=True, rename={"value": "return"}):
    """Any line from a daemon; newer daemons may send more keys, which are ignored."""

    value: Any = msgspec.UNSET
    error: _Why | msgspec.UnsetType = msgspec.UNSET
    vfioemu: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    id: Id = None


class LineBuffer:
    """Cut a stream of bytes into lines.

    Args:
        limit: bytes that a line may have, without its newline.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = bytearray()
        self._searched = 0
        """Number of leading bytes without a newline. Searching them again would cost O(n^2) for a line that comes byte by byte."""

    @property
    def full(self) -> bool:
        """True if more bytes wait than one line may have; a reader that reads ahead stops then."""
        return len(self._bytes) > self._limit

    def feed(self, data: bytes | bytearray) -> None:
        """Append received bytes."""
        self._bytes += data

    def line(self) -> bytes | None:
        """Take the next line, without its newline; None if it is not complete yet.

        Raises:
            ProtocolError: the line exceeds the limit.
        """
        end = self._bytes.find(b"\n", self._searched)
        if end > self._limit or (end < 0 and self.full):
            raise ProtocolError(f"line longer than the limit of {self._limit} bytes")
        if end < 0:
            self._searched = len(self._bytes)
            return None
        line = bytes(self._bytes[:end])
        del self._bytes[: end + 1]
        self._searched = 0
        return line


# The daemon's half.


def greeting(about: About) -> bytes:
    """Encode the first line of a connection."""
    return _line(_Greeting(vfioemu=about))


def decode_request(line: bytes) -> Request:
    """Decode a request.

    Raises:
        ControlError: BadRequest, the line is not a request.
    """
    try:
        return msgspec.json.decode(line, type=Request)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ControlError("BadRequest", str(error)) from None


def answer(value: object, id: Id) -> bytes:
    """Encode the result of a request, with the id of the request."""
    return _line(Answer(value, id))


def refusal(error: ControlError, id: Id = None) -> bytes:
    """Encode the refusal of a request or, in place of the greeting, of a connection."""
    return _line(_Refusal(_Why(kind=error.kind, desc=str(error)), id))


def _line(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message) + b"\n"


# A client's half.


class ClientSide:
    """The client's state of a connection, without the socket: bytes that wait, and the ids of requests."""

    def __init__(self) -> None:
        self._lines = LineBuffer(MAX_ANSWER)
        self._id = 0

    def feed(self, data: bytes | bytearray) -> None:
        """Append received bytes."""
        self._lines.feed(data)

    def request(self, command: str, arguments: dict[str, object]) -> bytes:
        """Encode a request; `answer` then takes its answer."""
        self._id += 1
        # Not msgspec: it cannot encode integers of more than 64 bits, and judging them is the daemon's business.
        request = {"execute": command, "arguments": arguments, "id": self._id}
        return json.dumps(request).encode() + b"\n"

    def greeting(self) -> dict[str, Any] | None:
        """Take the value of `vfioemu` in the daemon's greeting; None if it is not complete yet.

        Raises:
            ControlError: TooManyConnections, the daemon takes no connection.
            ProtocolError: the line is not a greeting.
        """
        received = self._take()
        if received is None:
            return None
        if isinstance(received.vfioemu, msgspec.UnsetType):
            raise ProtocolError("not the greeting of a vfioemu daemon")
        return received.vfioemu

    def answer(self) -> Answer | None:
        """Take the answer to the last request; None if it is not complete yet.

        Answers to earlier requests are dropped: their caller was cancelled or timed out, and nobody waits for them.

        Raises:
            ControlError: the daemon refuses the command.
            ProtocolError: the line is not an answer.
        """
        while (received := self._take()) is not None:
            if received.id == self._id:
                if received.value is msgspec.UNSET:
                    raise ProtocolError("answer without `return` or `error`")
                return Answer(received.value, received.id)
        return None

    def line(self) -> bytes | None:
        """Take the next line unparsed, without its newline: an event after `trace`; None if it is not complete yet.

        Raises:
            ProtocolError: the line exceeds the limit.
        """
        return self._lines.line()

    def _take(self) -> _Received | None:
        line = self._lines.line()
        if line is None:
            return None
        try:
            received = msgspec.json.decode(line, type=_Received)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ProtocolError(f"not a line of a vfioemu daemon: {error}") from None
        if not isinstance(received.error, msgspec.UnsetType) and received.id in (None, self._id):
            raise ControlError(received.error.kind, received.error.desc)
        return received
