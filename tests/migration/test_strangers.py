# SPDX-License-Identifier: MIT
"""Who is at the other end: other users, silent ones, and what strangers get to know, or to write on a terminal."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
import trio

from tests.migration.fake import fake_guest
from tests.migration.test_drills import HELLO, exchange
from tests.migration.test_drivers import QUICK, destination, progresses
from vfioemu.migration import events, greeting, stream
from vfioemu.migration.address import Address, AddressError
from vfioemu.migration.destination import MAX_CONNECTIONS, Destination
from vfioemu.migration.greeting import opening
from vfioemu.migration.messages import Problem
from vfioemu.migration.peers import Peers, find_owner, peer_uid
from vfioemu.migration.plan import Limits, OnMismatch, Reason
from vfioemu.migration.source import Source
from vfioemu.migration.stream import FrameType, StreamError
from vfioemu.migration.transport import Channel

SOMEBODY = 65534
NOT_US = Peers(frozenset({os.getuid() + 1}))
NASTY = "\x1b]0;OWNED\x07\x1b[31mred\nvfioemu: INFO: forged \u202e\x9b2J"
FAMILIES = [
    ("127.0.0.1", "127.0.0.1"),
    ("::1", "::1"),
    ("127.0.0.1", "::ffff:127.0.0.1"),
    ("::", "127.0.0.1"),
]

TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:DBC7 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 570580 1 0 100
   2: 0100007F:D0EE 0100007F:DBC7 01 00000000:00000000 00:00000000 00000000  1234        0 570581 2 0 20
   3: 0100007F:DBC7 0100007F:D0EE 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 0 0 1
"""
TCP6 = (
    TCP.splitlines()[0]
    + """
   0: 0000000000000000FFFF00000100007F:D0F4 0000000000000000FFFF00000100007F:DBC7 01 0:0 0:0 0  77        0 5 2 0
   1: 00000000000000000000000001000000:D0F5 00000000000000000000000001000000:DBC7 01 0:0 0:0 0  78        0 6 2 0
"""
)


@pytest.mark.skipif(sys.byteorder != "little", reason="the table was recorded on a little-endian machine")
@pytest.mark.parametrize(
    ("ours", "theirs", "uid"),
    [
        (("127.0.0.1", 0xDBC7), ("127.0.0.1", 0xD0EE), 1234),
        (("127.0.0.1", 0xD0EE), ("127.0.0.1", 0xDBC7), None),  # nobody has accepted it: inode 0
        (("127.0.0.1", 0xDBC7), ("127.0.0.1", 0xD0F4), 77),  # an IPv6 socket that speaks to an IPv4 one
        (("::ffff:127.0.0.1", 0xDBC7, 0, 0), ("::ffff:127.0.0.1", 0xD0EE, 0, 0), 1234),
        (("::1", 0xDBC7, 0, 0), ("::1", 0xD0F5, 0, 0), 78),
        (("127.0.0.1", 0xDBC7), ("127.0.0.1", 0x1), None),
        (("127.0.0.1", 0xDBC7), ("0.0.0.0", 0x0), None),
    ],
)
def test_owner_of_the_other_end_is_found_in_the_kernels_table(ours, theirs, uid, tmp_path):
    (tmp_path / "tcp").write_text(TCP)
    (tmp_path / "tcp6").write_text(TCP6)
    assert find_owner(ours[:2], theirs[:2], tmp_path) == uid
    assert find_owner(ours[:2], theirs[:2], tmp_path / "none") is None


@pytest.mark.parametrize(("listening", "connecting"), FAMILIES)
def test_owner_of_a_real_connection_is_found_from_both_ends(listening, connecting):
    family = socket.AF_INET6 if ":" in listening else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((listening, 0))
        listener.listen()
        with socket.socket(socket.AF_INET6 if ":" in connecting else socket.AF_INET) as client:
            client.connect((connecting, listener.getsockname()[1]))
            assert peer_uid(client) is None, "nobody has accepted it yet"
            accepted, _ = listener.accept()
            with accepted:
                assert (peer_uid(client), peer_uid(accepted)) == (os.getuid(), os.getuid())


def test_owner_of_a_connection_that_was_closed_is_nobody():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        client.close()
        with accepted:
            assert peer_uid(accepted) is None


def test_tcp_is_for_who_says_that_he_means_it():
    with pytest.raises(AddressError, match="TCP needs --insecure, on both sides"):
        Address.parse("tcp:127.0.0.1:1")
    assert Address.parse("tcp:127.0.0.1:1", insecure=True).port == 1


@pytest.mark.parametrize("uri", ["unix:m", "tcp:127.0.0.1:0", "tcp:[::1]:0"])
async def test_listener_of_another_user_gets_nothing(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got = []
    with Address.parse(uri, insecure=True, peers=Peers(None)).listen() as listener:

        async def listen():
            while True:
                channel = Channel((await listener.accept())[0])
                try:
                    await channel.greeted()
                    await channel.greet()
                    got.append(await channel.receive())
                except stream.StreamError:
                    pass
                channel.close()

        async with fake_guest(running=True, npages=64) as guest, trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            address = replace(listener.bound, peers=NOT_US)
            result = await Source(guest, address, Limits(), patience=QUICK).migrate()
            assert (result.code, result.finish.reason) == (3, Reason.PEER_UNTRUSTED), result.finish
            assert f"is uid {os.getuid()}; only uid {os.getuid() + 1} is trusted" in result.finish.detail
            assert not got
            await progresses(guest)
            result = await Source(
                guest, replace(address, peers=Peers(None)), Limits(), patience=QUICK
            ).migrate()
            assert got, "the negative control has shown its HELLO"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("uri", ["unix:m", "tcp:127.0.0.1:0"])
async def test_source_of_another_user_is_turned_away_and_uses_up_no_attempt(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = []
    with Address.parse(uri, insecure=True, peers=NOT_US).listen() as listener:
        receiver = Destination(lambda: fake_guest(running=False, npages=64), listener, tell=told.append)

        async def receive():
            async with receiver.arrival(1):
                pytest.fail("somebody was let in")

        async with fake_guest(running=True, npages=64) as guest, trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            for _ in range(3):
                address = replace(listener.bound, peers=Peers(None))
                result = await Source(guest, address, Limits(), patience=QUICK).migrate()
                assert result.code == 3, result.finish
                assert result.finish.reason in (Reason.PEER_UNTRUSTED, Reason.PEER_LOST)
            assert receiver.failures == 0
            nursery.cancel_scope.cancel()
    assert [event.detail for event in told if isinstance(event, events.Warned)] == [
        f"uid {os.getuid()} was turned away; only uid {os.getuid() + 1} may bring a guest"
    ]


ATTACK = """
import encodings.idna, os, socket, sys
os.setuid(int(sys.argv[3]))
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sock.sendall(bytes.fromhex(sys.argv[2]))
sock.settimeout(20)
try:
    while data := sock.recv(4096):
        sys.stdout.buffer.write(data)
except ConnectionError:
    pass
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
async def test_another_user_of_the_machine_can_neither_bring_nor_learn_anything():
    async with fake_guest(running=True, npages=64) as guest, destination(npages=64) as (address, receiver, _):
        hello = HELLO % (b"%032x" % 1)
        data = opening() + stream.frame(FrameType.HELLO, 0, hello)
        command = [sys.executable, "-I", "-c", ATTACK, str(address.port), data.hex(), str(SOMEBODY)]
        done = await trio.run_process(command, capture_stdout=True)
        assert b"WELCOME" not in done.stdout
        assert b"version" not in done.stdout
        assert receiver.failures == 0
        assert (await Source(guest, address, Limits()).migrate()).code == 0


LISTEN = """
import encodings.idna, os, socket, sys
os.setuid(int(sys.argv[2]))
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    sock, _ = listener.accept()
    sock.sendall(bytes.fromhex(sys.argv[1]))
    got = b""
    try:
        while data := sock.recv(4096):
            got += data
    except ConnectionError:
        pass
    print(got.hex())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
async def test_another_user_who_listened_first_gets_no_byte_of_the_guest():
    command = [sys.executable, "-I", "-c", LISTEN, opening().hex(), str(SOMEBODY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as thief:
        port = int(thief.stdout.readline())
        address = Address.parse(f"tcp:127.0.0.1:{port}", insecure=True)
        async with fake_guest(running=True, npages=64) as guest:
            result = await Source(guest, address, Limits()).migrate()
            assert (result.code, result.finish.reason) == (3, Reason.PEER_UNTRUSTED), result.finish
            assert f"is uid {SOMEBODY}" in result.finish.detail
            await progresses(guest)
        got = bytes.fromhex(thief.stdout.read())
        assert (got[: stream.PREAMBLE.size], len(got)) == (stream.preamble(), greeting.SIZE)


async def test_silent_connections_make_room():
    """Three times as many as there may be, silent from the start, after the preamble, and after HELLO."""
    async with fake_guest(running=True, npages=64) as guest, destination(npages=64) as (address, receiver, _):
        silent = []
        for number in range(3 * MAX_CONNECTIONS):
            sock = await trio.open_tcp_stream(address.host, address.port)
            silent.append(sock)
            hello = stream.frame(FrameType.HELLO, 0, HELLO % (b"%032x" % number))
            await sock.send_all((b"", opening(), opening() + hello)[number % 3])
        with trio.fail_after(8):  # less than the time that each of them may be silent
            result = await Source(guest, address, Limits(), patience=QUICK).migrate()
        assert result.code == 0, result.finish
        assert receiver.failures == 0
        for sock in silent:
            await sock.aclose()


async def test_who_makes_room_in_the_moment_in_which_he_speaks_is_told_so_and_ends_nothing():
    """His frame has come, and his task is about to go on, when the connection that needs his place is accepted."""
    destination = Destination(lambda: None, None)

    class Peer:
        async def greeted(self):
            pass

        greet = greeted

        async def receive(self):
            destination._mute.pop(self).cancel()
            return SimpleNamespace(type=FrameType.QUERY), b""

    peer = Peer()
    destination._mute[peer] = trio.CancelScope()
    with pytest.raises(StreamError, match="there are others") as told:
        await destination._sort(peer, known=True)
    assert told.value.reason is Reason.PEER_LOST


async def answer(address, *sent):
    """What the destination says to those bytes, decoded: its last PROBLEM."""
    sock = await trio.open_tcp_stream(address.host, address.port)
    async with sock:
        await sock.send_all(b"".join(sent))
        got = b""
        while data := await sock.receive_some():
            got += data
    at = greeting.SIZE
    while at < len(got):
        kind, _, body, _, _ = stream.HEADER.unpack_from(got, at)
        at += stream.HEADER_SIZE + body
        last = kind, got[at - body : at]
    assert last[0] == FrameType.PROBLEM
    return stream.decode(last[1], Problem)


@pytest.mark.parametrize("peers", [None, Peers(None)])
async def test_shape_of_the_guest_is_told_to_our_own_user_only(peers, monkeypatch):
    if peers is not None:  # everybody may come, and nobody can be told from another
        monkeypatch.setattr("vfioemu.migration.address.peer_uid", lambda sock: None)
    with Address.parse("tcp:127.0.0.1:0", insecure=True, peers=peers).listen() as listener:
        receiver = Destination(lambda: fake_guest(running=False, npages=64), listener)

        async def receive():
            async with receiver.arrival():
                pytest.fail("a guest of another shape was taken")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            hello = stream.frame(FrameType.HELLO, 0, HELLO % (b"%032x" % 7))
            setup = b'{"blocks":[{"name":"mine","base":0,"npages":5}],"devices":[],"cpus":0}'
            with trio.fail_after(20):
                problem = await answer(
                    listener.bound, opening(), hello, stream.frame(FrameType.SETUP, 1, setup)
                )
            nursery.cancel_scope.cancel()
    assert ("low 0 64" in problem.detail) == (peers is None)
    assert ("are others than those of yours" in problem.detail) == (peers is not None)


async def test_destination_that_requires_the_comparison_refuses_who_does_not_want_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Address.parse("unix:m").listen() as listener:
        receiver = Destination(
            lambda: fake_guest(running=False, npages=64), listener, require_verify=True, linger=0.5
        )
        arrived = trio.Event()

        async def receive():
            async with receiver.arrival() as arrival:
                assert arrival.checked is not None
                arrived.set()

        async with fake_guest(running=True, npages=64) as guest, trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            result = await Source(guest, listener.bound, Limits(), verify=False).migrate()
            assert (result.code, result.finish.reason) == (3, Reason.VERIFY_REQUIRED), result.finish
            assert "--verify=required" in result.finish.detail
            assert (await Source(guest, listener.bound, Limits()).migrate()).code == 0
            await arrived.wait()


async def test_garbage_uses_up_no_attempt():
    async with (
        fake_guest(running=True, npages=64) as guest,
        destination(attempts=1, npages=64) as (address, _, here),
    ):
        hello = opening() + stream.frame(FrameType.HELLO, 0, HELLO % (b"%032x" % 3))
        for data in (b"GET / HTTP/1.1\r\n\r\n" * 3, opening(), hello, hello + bytes(100)):
            with trio.fail_after(20):
                await exchange(address, data)
        assert (await Source(guest, address, Limits()).migrate()).code == 0
        assert here[0] is not None


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.items():
            yield from strings(list(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)
    elif hasattr(value, "__struct_fields__"):
        for name in value.__struct_fields__:
            yield from strings(getattr(value, name))


async def test_what_a_source_says_reaches_nobody_as_it_is(tmp_path, monkeypatch):
    """Names of the guest, of blocks and devices, reasons, registers, and the text of decoding errors."""
    monkeypatch.chdir(tmp_path)
    told = []
    with Address.parse("unix:m").listen() as listener:
        receiver = Destination(
            lambda: fake_guest(running=False, npages=16, cpus=0), listener, tell=told.append
        )

        async def receive():
            async with receiver.arrival():
                pytest.fail("it was taken")

        async def send(number, blocks, *frames):
            channel = Channel(await listener.bound.connect())
            await channel.greet()
            await channel.greeted()
            text = {"token": f"{number:032x}", "guest": NASTY, "verify": True}
            setup = {"blocks": blocks, "devices": [{"name": "dma0", "migration": 7}], "cpus": 0}
            await channel.send(FrameType.HELLO, msgspec.json.encode(text))
            await channel.send(FrameType.SETUP, msgspec.json.encode(setup))
            for kind, body in frames:
                await channel.send(kind, msgspec.json.encode(body))
            with trio.fail_after(10):
                while (await channel.receive())[0].type is not FrameType.PROBLEM:
                    pass
            channel.close()

        good = [{"name": "low", "base": 0, "npages": 16}, {"name": "high", "base": 1 << 32, "npages": 16}]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await send(1, [{"name": NASTY, "base": 0, "npages": 16}])
            await send(2, good, (FrameType.ABORT, {"reason": NASTY, "detail": NASTY}))
            await send(3, good, (FrameType.CPUS, {"cpus": [{NASTY: NASTY}]}))
            await send(4, good, (FrameType.CPUS, {"cpus": []}), (FrameType.LEDGER, {"devices": NASTY}))
            nursery.cancel_scope.cancel()
    warnings = [event.detail for event in told if isinstance(event, events.Warned)]
    assert len(warnings) == 4
    assert all("\\x1b]0;OWNED\\x07\\x1b[31mred\\nvfioemu" in text for text in warnings)
    assert all(text.isprintable() for text in strings(told))
    assert all(len(text) < 1100 for text in strings(told))


@pytest.mark.parametrize("what", ["problem", "checked"])
async def test_what_a_destination_says_reaches_nobody_as_it_is(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told, channels = [], []
    with Address.parse("unix:m").listen() as listener:

        async def lie():
            channel = Channel((await listener.accept())[0])
            channels.append(channel)
            await channel.greet()
            await channel.greeted()
            await channel.receive()
            await channel.send(FrameType.WELCOME, b'{"version":"1"}')
            await channel.receive()
            if what == "problem":
                await channel.send(FrameType.PROBLEM, Problem(reason=NASTY, detail=NASTY))
            else:
                await channel.send(FrameType.ACCEPTED, b'{"token":"%s"}' % (b"0" * 32))
                while True:
                    header, _ = await channel.receive()
                    if header.bulk:
                        await channel.receive_bulk([memoryview(bytearray(header.bulk))])
                    if header.type is FrameType.LEDGER:
                        break
                body = {
                    "pages": 32,
                    "mismatched_pages": 0,
                    "mismatches": [],
                    "verdicts": [
                        {
                            "name": "dma0",
                            "parts": [
                                {"what": "state", "result": "differs", "detail": NASTY},
                                {"what": "face", "result": "same"},
                                {"what": "registers", "result": "not_compared", "detail": NASTY},
                                {"what": NASTY, "result": "same"},
                            ],
                        }
                    ],
                    "seconds": 0,
                }
                await channel.send(FrameType.CHECKED, msgspec.json.encode(body))
                await channel.receive()
                await channel.send(FrameType.PROBLEM, Problem(reason="peer_refused", detail=NASTY * 50))
            await trio.sleep_forever()

        async with fake_guest(running=True, npages=16, cpus=0) as guest, trio.open_nursery() as nursery:
            nursery.start_soon(lie)
            limits = Limits(on_mismatch=OnMismatch.MOVE)  # else it is over when a device differs
            result = await Source(guest, listener.bound, limits, tell=told.append).migrate()
            channels[0].close()
            nursery.cancel_scope.cancel()
    assert (result.code, result.finish.reason) == (3, Reason.PEER_REFUSED), result.finish
    assert result.finish.detail.startswith("the destination: \\x1b]0;OWNED\\x07")
    assert result.finish.detail.isprintable()
    assert len(result.finish.detail) < 1100
    assert all(text.isprintable() for text in strings(told))
