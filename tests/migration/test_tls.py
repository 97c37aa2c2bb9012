# SPDX-License-Identifier: MIT
"""Migrations over TLS: what goes through, who is turned away by whom, and what strangers cost."""

import os
import socket
import ssl
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.migration.certificates import Authority
from tests.migration.fake import fake_guest
from tests.migration.test_drivers import QUICK, progresses
from tests.migration.test_transport import Block, receive_pages
from vfioemu.migration import events
from vfioemu.migration.address import Address, AddressError
from vfioemu.migration.destination import MAX_CONNECTIONS, Destination
from vfioemu.migration.plan import PAGE, Limits, Reason
from vfioemu.migration.source import Source
from vfioemu.migration.stream import PREAMBLE, StreamError, preamble
from vfioemu.migration.tls import RECORD, TlsFiles
from vfioemu.migration.transport import THREADED, Channel
from vfioemu.native.runs import Runs
from vfioemu.printable import printable

HERE = ("localhost", "127.0.0.1", "::1")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def ours(authority):
    """A certificate for this machine, which both sides may show."""
    return authority.files(*HERE)


@asynccontextmanager
async def secure_destination(tls, uri="tls:127.0.0.1:0", told=None, npages=64):
    """A destination that waits; yields where it listens, and itself."""
    with Address.parse(uri, tls=tls).listen() as listener:
        tell = {} if told is None else {"tell": told.append}
        receiver = Destination(lambda: fake_guest(running=False, npages=npages), listener, linger=0.5, **tell)

        async def receive():
            async with receiver.arrival():
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            yield listener.bound, receiver
            nursery.cancel_scope.cancel()


def seen_by(address, tls, host=None):
    """The address as a source with those certificates has it."""
    parsed = Address.parse(f"tls:[{host or address.host}]:{address.port}", tls=tls)
    return replace(parsed, host=host or address.host)


async def migrate(guest, address, **options):
    return await Source(guest, address, Limits(), patience=QUICK, **options).migrate()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_guest_moves_over_tls_and_is_compared(host, ours):
    async with (
        fake_guest(running=True) as guest,
        secure_destination(ours, f"tls:{host}:0", npages=1024) as (address, _),
    ):
        result = await Source(guest, seen_by(address, ours), Limits()).migrate()
        assert result.code == 0, result.finish
        assert result.checked.pages == 2048


async def greet(*channels):
    """Both sides begin."""

    async def begin(channel):
        await channel.greet()
        await channel.greeted()

    async with trio.open_nursery() as nursery:
        for channel in channels:
            nursery.start_soon(begin, channel)


async def test_guest_moves_on_several_streams_over_tls(ours):
    async with (
        fake_guest(running=True) as guest,
        secure_destination(ours, npages=1024) as (address, _),
    ):
        result = await migrate(guest, seen_by(address, ours), streams=3)
        assert result.code == 0, result.finish


@pytest.mark.parametrize("step", [1, 7, 40])
async def test_pages_arrive_where_they_belong_in_worker_threads(step, ours):
    """Both directions at once: one thread encrypts what is sent while another looks for what has come."""
    source, destination = Block(2000), Block(2000)
    source.view[:] = os.urandom(PAGE) * 2000
    runs = [(first, min(step, 2000 - first)) for first in range(0, 2000, step + 1)]
    assert sum(length for _, length in runs) * PAGE > THREADED > RECORD
    with Address.parse("tls:127.0.0.1:0", tls=ours).listen() as listener:
        a = Channel(await seen_by(listener.bound, ours).connect())
        b = Channel((await listener.accept())[0])

    async def echo():
        await b.greeted()
        await b.greet()
        for _ in range(2):
            await receive_pages(b, destination)
        await b.send_pages(0, destination, Runs.of([(0, 2000)]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        await a.greet()
        await a.greeted()
        nursery.start_soon(receive_pages, a, back := Block(2000))
        for _ in range(2):
            await a.send_pages(0, source, Runs.of(runs))
    sent = {page for first, length in runs for page in range(first, first + length)}
    for page in range(2000):
        here = slice(page * PAGE, (page + 1) * PAGE)
        expected = bytes(source.view[here]) if page in sent else bytes(PAGE)
        assert bytes(destination.view[here]) == bytes(back.view[here]) == expected
    for channel in (a, b):
        channel.close()


async def test_pages_that_change_while_they_are_sent_do_not_end_the_connection(ours):
    """What OpenSSL could not send it wants to see again as it was."""
    block = Block(4096)
    with Address.parse("tls:127.0.0.1:0", tls=ours).listen() as listener:
        a = Channel(await seen_by(listener.bound, ours).connect())
        b = Channel((await listener.accept())[0])
    async with trio.open_nursery() as nursery:
        await greet(a, b)
        nursery.start_soon(a.send_pages, 0, block, Runs.of([(0, 4096)]))
        for value in range(5):
            await trio.sleep(0.01)  # it is stuck by now, or soon: nobody reads
            block.view[:] = bytes([value]) * len(block.view)
        nursery.start_soon(receive_pages, b, Block(4096))
    for channel in (a, b):
        channel.close()


async def test_cancelled_send_is_the_last_one(ours):
    block = Block(4096)
    with Address.parse("tls:127.0.0.1:0", tls=ours).listen() as listener:
        a = Channel(await seen_by(listener.bound, ours).connect())
        b = Channel((await listener.accept())[0])
    await greet(a, b)
    with trio.move_on_after(0.05) as scope:
        await a.send_pages(0, block, Runs.of([(0, 4096)]))
    assert scope.cancelled_caught
    with pytest.raises(StreamError, match="half sent"):
        await a.send_pages(0, block, Runs.of([(0, 1)]))
    for channel in (a, b):
        channel.close()


# Who is turned away.


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("another authority at the source", "does not take our certificate"),
        ("another authority at the destination", "certificate of the other side is not taken"),
        ("another host", "Hostname mismatch|not valid for"),
        ("another name than --tls-name", "not valid for 'elsewhere'"),
        ("a source of another name", "is not for trusted-source"),
    ],
)
async def test_who_cannot_show_the_right_certificate_is_turned_away(case, says, authority, ours, tmp_path):
    there, here = ours, ours
    if case == "another authority at the source":
        stranger = Authority(tmp_path).files(*HERE)
        here = replace(stranger, ca=ours.ca)
    elif case == "another authority at the destination":
        stranger = Authority(tmp_path).files(*HERE)
        there = replace(stranger, ca=ours.ca)
    elif case == "another host":
        there = authority.files("elsewhere.example")
    elif case == "another name than --tls-name":
        here = replace(ours, name="elsewhere")
    else:
        there = replace(ours, name="trusted-source")
    told = []
    async with (
        fake_guest(running=True, npages=64) as guest,
        secure_destination(there, told=told) as (address, receiver),
    ):
        for _ in range(2):
            result = await migrate(guest, seen_by(address, here))
            assert (result.code, result.finish.reason) == (3, Reason.TLS_REFUSED), result.finish
            assert re_search(says, result.finish.detail), result.finish.detail
        assert receiver.failures == 0
        await progresses(guest)
    warned = [event.detail for event in told if isinstance(event, events.Warned)]
    assert len(warned) == 1
    assert warned[0].startswith("somebody was turned away: ")
    assert warned[0] == printable(warned[0])


def re_search(pattern, text):
    return any(part in text for part in pattern.split("|"))


async def test_a_link_can_be_modelled_over_tls(ours):
    async with fake_guest(running=True, npages=64) as guest, secure_destination(ours) as (address, _):
        over = Address.parse(f"sim:bandwidth=64MiB/s,rtt=5ms:{address}", tls=ours)
        assert str(over).startswith("sim:bandwidth=64MiB/s,rtt=5ms:tls:127.0.0.1:")
        assert (await migrate(guest, over)).code == 0


def hail(wire):
    """Send to a side that has hung up: what is sent first is answered with a reset, and after that nothing can be sent."""
    for _ in range(3):
        wire.send([memoryview(b"hello")])


async def test_source_that_was_turned_away_before_it_spoke_is_told_why(ours, tmp_path):
    """In TLS 1.3 its handshake is over by then, and what it finds first is that it cannot send."""
    stranger = replace(Authority(tmp_path).files(*HERE), ca=ours.ca)
    with Address.parse("tls:127.0.0.1:0", tls=ours).listen() as listener:
        wire = await seen_by(listener.bound, stranger).connect()
        b = Channel((await listener.accept())[0])

    async def turn_away():
        with pytest.raises(StreamError, match="not taken"):
            await b.secure()
        b.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turn_away)
        await Channel(wire).secure()
    with pytest.raises(StreamError) as error:
        hail(wire)
    assert (error.value.reason, "unknown ca" in error.value.detail) == (Reason.TLS_REFUSED, True), error.value
    wire.sock.close()


async def test_what_came_before_a_side_could_not_send_is_read_whole(ours):
    """The look at why the other one hung up must not eat the first byte of what it has said."""
    with Address.parse("tls:127.0.0.1:0", tls=ours).listen() as listener:
        wire = await seen_by(listener.bound, ours).connect()
        b = Channel((await listener.accept())[0])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(b.greet)
        await Channel(wire).secure()
    b.close()
    with pytest.raises((StreamError, ConnectionError)):
        hail(wire)
    assert wire.has_buffered()
    said = bytearray(PREAMBLE.size)
    assert wire.receive([memoryview(said)]) == len(said)
    assert said == preamble()
    wire.sock.close()


async def test_source_of_the_right_name_may_come(authority, ours):
    there = replace(ours, name="Trusted-Source")
    async with (
        fake_guest(running=True, npages=64) as guest,
        secure_destination(there) as (address, _),
    ):
        result = await migrate(guest, seen_by(address, authority.files("trusted-source")))
        assert result.code == 0, result.finish


async def test_certificate_can_be_for_an_address(authority, ours):
    there = replace(ours, name="192.0.2.7")
    async with (
        fake_guest(running=True, npages=64) as guest,
        secure_destination(there) as (address, _),
    ):
        result = await migrate(guest, seen_by(address, authority.files("192.0.2.7")))
        assert result.code == 0, result.finish


async def test_source_without_a_certificate_learns_nothing(ours):
    async with (
        fake_guest(running=True, npages=64) as guest,
        secure_destination(ours) as (address, receiver),
    ):
        context = ssl.create_default_context(cafile=ours.ca)
        plain = await trio.open_tcp_stream(address.host, address.port)
        stranger = trio.SSLStream(plain, context, server_hostname="127.0.0.1", https_compatible=True)
        got = b""
        try:
            await stranger.send_all(b"VFEM")
            while data := await stranger.receive_some():
                got += data
        except trio.BrokenResourceError:
            pass  # an alert
        assert got == b""
        await trio.aclose_forcefully(stranger)
        assert receiver.failures == 0
        assert (await migrate(guest, seen_by(address, ours))).code == 0


async def test_tls_1_2_is_not_spoken(ours):
    async with secure_destination(ours) as (address, _):
        context = ssl.create_default_context(cafile=ours.ca)
        context.load_cert_chain(ours.cert, ours.key)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        stream = await trio.open_tcp_stream(address.host, address.port)
        old = trio.SSLStream(stream, context, server_hostname="127.0.0.1")
        with pytest.raises(trio.BrokenResourceError):
            await old.do_handshake()
        await trio.aclose_forcefully(old)


async def test_plain_source_and_a_destination_with_tls_end_soon(ours):
    async with (
        fake_guest(running=True, npages=64) as guest,
        secure_destination(ours) as (address, _),
    ):
        plain = Address.parse(f"tcp:{address.host}:{address.port}", insecure=True)
        result = await migrate(guest, plain)
        assert (result.code, result.finish.reason) == (3, Reason.PEER_LOST), result.finish
        assert (await migrate(guest, seen_by(address, ours))).code == 0


async def test_source_with_tls_and_a_plain_destination_end_soon(ours):
    with Address.parse("tcp:127.0.0.1:0", insecure=True).listen() as listener:
        receiver = Destination(lambda: fake_guest(running=False, npages=64), listener)

        async def receive():
            async with receiver.arrival():
                pytest.fail("it was taken")

        async with fake_guest(running=True, npages=64) as guest, trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            result = await migrate(guest, seen_by(listener.bound, ours))
            assert (result.code, result.finish.reason) == (3, Reason.TLS_REFUSED), result.finish
            nursery.cancel_scope.cancel()


# Strangers.


def garbage(number):
    """What somebody sends who has no certificate."""
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32)
    return (
        b"",
        b"\x16\x03",
        hello,
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + bytes(500),
        os.urandom(300),
    )[number % 6]


def sockets():
    """How many sockets this process has."""
    links = (Path("/proc/self/fd") / fd for fd in os.listdir("/proc/self/fd"))
    return sum(1 for link in links if os.path.islink(link) and "socket:" in os.readlink(link))


async def test_hundreds_of_strangers_keep_nobody_out_and_nothing_in(ours):
    """Silent ones, slow handshakes, garbage; as many as come they hold no more than 16 places, and a guest gets in."""
    async with (
        fake_guest(running=True, npages=64) as guest,
        secure_destination(ours) as (address, receiver),
    ):
        before = sockets()
        most = 0
        strangers = []
        for number in range(300):
            stranger = socket.create_connection((address.host, address.port))
            strangers.append(stranger)
            stranger.send(garbage(number))
            await trio.lowlevel.checkpoint()
            most = max(most, len(receiver._connections))
        assert 0 < most <= MAX_CONNECTIONS
        with trio.fail_after(8):  # less than the time that each of them may be silent
            result = await migrate(guest, seen_by(address, ours))
        assert result.code == 0, result.finish
        assert receiver.failures == 0
        for stranger in strangers:
            stranger.close()
        with trio.fail_after(8):
            while receiver._connections:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert sockets() - before <= 2, "that of the source, until it is released"


@pytest.mark.parametrize("uri", ["tls:127.0.0.1:0", "tcp:127.0.0.1:0", "unix:m"])
async def test_who_accepts_gives_way_to_others(uri, ours, tmp_path, monkeypatch):
    """As many connections as wait at once: between two of them others have their turn."""
    monkeypatch.chdir(tmp_path)
    turns, accepted = 0, []

    async def others():
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    tls = ours if uri.startswith("tls") else None
    with Address.parse(uri, insecure=True, tls=tls).listen() as listener, ExitStack() as stack:
        for _ in range(50):
            one = stack.enter_context(socket.socket(listener.sock.family))
            one.connect(listener.sock.getsockname())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            await trio.lowlevel.checkpoint()
            turns = 0
            for _ in range(50):
                wire, _ = await listener.accept()
                accepted.append(wire)
            assert turns > 40
            nursery.cancel_scope.cancel()
        for wire in accepted:
            wire.sock.close()


async def test_who_has_shown_a_certificate_makes_no_room_for_strangers(ours):
    """A source that has not spoken yet, and then more strangers than there may be."""
    async with secure_destination(ours) as (address, receiver):
        known = Channel(await seen_by(address, ours).connect())
        await known.greet()
        await known.greeted()
        strangers = []
        for number in range(3 * MAX_CONNECTIONS):
            strangers.append(await trio.open_tcp_stream(address.host, address.port))
            await strangers[-1].send_all(garbage(6 * number + 1))
        with trio.fail_after(8):
            while len(receiver._connections) < MAX_CONNECTIONS:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert [channel.proven for channel in receiver._connections].count(True) == 1
        for stranger in strangers:
            await stranger.aclose()
        known.close()


# What one may write.


@pytest.mark.parametrize(
    ("uri", "options", "says"),
    [
        ("tls:localhost:1", {}, "needs --tls-cert, --tls-key and --tls-ca"),
        ("tls::1", {}, "expected tls:HOST:PORT"),
        ("tls:localhost", {}, "expected tls:HOST:PORT"),
        ("tls:localhost:65536", {}, "expected tls:HOST:PORT"),
        ("tcp:127.0.0.1:1", {"insecure": True, "tls": TlsFiles("a", "b", "c")}, "certificates are for tls:"),
        ("unix:x", {"tls": TlsFiles("a", "b", "c")}, "certificates are for tls:"),
        ("tls:localhost:1", {"tls": TlsFiles("/a", "/b", "/none")}, "--tls-ca /none: No such file"),
    ],
)
def test_unusable_uri_or_certificate_is_named(uri, options, says):
    with pytest.raises(AddressError, match=says):
        Address.parse(uri, **options)


def test_unusable_certificates_are_named(authority, ours, tmp_path):
    other = authority.files("other.example")
    for files, says in (
        (replace(ours, cert="/none"), "--tls-cert /none.*No such file"),
        (replace(ours, key=other.key), "key values mismatch"),
        (replace(ours, ca=ours.key), "no certificate|no start line"),
        (replace(ours, key=locked(tmp_path)), "has a passphrase"),
    ):
        with pytest.raises(AddressError, match=says):
            Address.parse("tls:localhost:1", tls=files)


def locked(base):
    """A key with a passphrase: nobody may be asked for it in the middle of a script."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    data = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"x"))
    (base / "locked.key").write_bytes(data)
    return str(base / "locked.key")


def test_names_are_compared_as_dns_has_them_and_no_pattern_counts():
    from vfioemu.migration.tls import _is_for

    certificate = {
        "subjectAltName": (("DNS", "A.example"), ("DNS", "*.b.example"), ("IP Address", "0:0:0:0:0:0:0:1"))
    }
    assert _is_for(certificate, "a.EXAMPLE")
    assert _is_for(certificate, "::1")
    for name in ("x.b.example", "b.example", "127.0.0.1", "*.b.exampl"):
        assert not _is_for(certificate, name)
    assert not _is_for({"subject": ((("commonName", "a.example"),),)}, "a.example")
