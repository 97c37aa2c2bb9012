# SPDX-License-Identifier: MIT
"""The token beside a UNIX socket: who has not read it brings no guest and gets none."""

import os
import socket
import stat
from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.migration.fake import fake_guest
from tests.migration.test_drivers import QUICK, destination, progresses
from vfioemu.migration import events, greeting, stream, tokenfile
from vfioemu.migration.address import Address, AddressError
from vfioemu.migration.destination import Destination
from vfioemu.migration.greeting import Greeting
from vfioemu.migration.messages import Problem
from vfioemu.migration.peers import Peers
from vfioemu.migration.plan import Limits, Reason
from vfioemu.migration.source import Source
from vfioemu.migration.stream import FrameType, StreamError
from vfioemu.migration.transport import Channel
from vfioemu.migration.wire import PlainWire

OURS = Peers(frozenset({os.getuid(), 0}))
OTHERS_TOO = Peers(frozenset({os.getuid(), 0, 4294967294}))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_token_is_private_new_each_time_and_gone_in_the_end(place):
    seen = set()
    for _ in range(2):
        with Address.parse("unix:m").listen() as listener:
            status = (place / "m.token").lstat()
            assert stat.S_IMODE(status.st_mode) == 0o600
            assert listener.secret == tokenfile.read("m", OURS)
            seen.add(listener.secret)
        assert os.listdir(place) == []
    assert len(seen) == 2


def test_token_of_a_process_that_was_killed_is_replaced_and_a_strangers_file_is_not_followed(place):
    (place / "m.token").write_text("stale")
    with Address.parse("unix:m").listen() as listener:
        assert listener.secret == tokenfile.read("m", OURS)
    (place / "elsewhere").write_text("mine")
    (place / "m.token").symlink_to("elsewhere")
    with Address.parse("unix:m").listen():
        assert not (place / "m.token").is_symlink()
    assert (place / "elsewhere").read_text() == "mine"


def test_token_that_cannot_be_written_is_told(place):
    (place / "m.token").mkdir()
    with pytest.raises(AddressError, match="cannot listen on unix:m"), Address.parse("unix:m").listen():
        pass
    assert os.listdir(place) == ["m.token"]


def link(path):
    path.rename("t")
    path.symlink_to("t")


def pipe(path):
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.chmod(0o640), "mode 0640: others can read or write it"),
        (lambda path: path.write_text("00" * 31), "not 32 bytes"),
        (lambda path: path.write_text("zz" * 32), "not 32 bytes"),
        (lambda path: path.write_bytes(b"\xff" * 64), "not 32 bytes"),
        (link, "symbolic links"),
        (pipe, "not a file"),
    ],
)
async def test_source_uses_no_token_that_others_could_have_made(spoil, says, place):
    async with (
        fake_guest(running=True, npages=64) as guest,
        destination("unix:m", npages=64) as (address, _, _),
    ):
        spoil(place / "m.token")
        result = await Source(guest, address, Limits(), patience=QUICK).migrate()
        assert (result.code, result.finish.reason) == (3, Reason.PEER_UNTRUSTED), result.finish
        assert says in result.finish.detail
        await progresses(guest)


def test_token_of_another_user_is_not_taken(place):
    with Address.parse("unix:m").listen():
        with pytest.raises(StreamError, match="it is of uid"):
            tokenfile.read("m", Peers(frozenset({os.getuid() + 1})))


async def said_to(channel):
    """The reason that a source is given, or finds."""
    try:
        await channel.greet()
        await channel.greeted()
        await channel.send(FrameType.HELLO, b"{}")
        header, body = await channel.receive()
        assert header.type is FrameType.PROBLEM
        return Reason(stream.decode(body, Problem).reason)
    except StreamError as error:
        return error.reason
    finally:
        channel.close()


async def test_who_does_not_know_the_token_brings_no_guest_and_learns_nothing(place):
    """Right uid, right protocol, and no sight of the directory: a container that was given the socket alone."""
    told = []
    with Address.parse("unix:m").listen() as listener:
        receiver = Destination(lambda: fake_guest(running=False, npages=64), listener, tell=told.append)

        async def receive():
            async with receiver.arrival():
                await trio.sleep_forever()

        async with fake_guest(running=True, npages=64) as guest, trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            for secret in (None, bytes(32)):
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect("m")
                    assert await said_to(Channel(PlainWire(sock, Greeting(secret)))) is Reason.PEER_UNTRUSTED
            assert receiver.failures == 0
            assert (await Source(guest, listener.bound, Limits()).migrate()).code == 0
            nursery.cancel_scope.cancel()
    warned = [event.detail for event in told if isinstance(event, events.Warned)]
    assert len(warned) == 1
    assert "does not know the token in m.token" in warned[0]


@pytest.mark.parametrize("secret", [None, bytes(32)])
async def test_who_listens_without_the_token_gets_no_frame(secret, place):
    """Somebody who got the socket, and not the file, in the place of `incoming`."""
    got = []
    with Address.parse("unix:m").listen() as listener:
        thief = replace(listener, secret=secret)

        async def listen():
            channel = Channel((await thief.accept())[0])
            try:
                await channel.greeted()
                await channel.greet()
                got.append(await channel.receive())
            except StreamError:
                pass
            finally:
                channel.close()

        async with fake_guest(running=True, npages=64) as guest, trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            result = await Source(guest, listener.bound, Limits(), patience=QUICK).migrate()
            assert (result.code, result.finish.reason) == (3, Reason.PEER_UNTRUSTED), result.finish
            await progresses(guest)
    assert got == []


async def test_token_is_wanted_from_own_user_and_root_alone(place):
    """Others cannot read it: who lets them in has to do without, on both sides."""
    with Address.parse("unix:m", peers=OTHERS_TOO).listen() as listener:
        assert listener.secret is None
        assert os.listdir(place) == ["m"]
        receiver = Destination(lambda: fake_guest(running=False, npages=64), listener, linger=0.5)

        async def receive():
            async with receiver.arrival():
                await trio.sleep_forever()

        async with fake_guest(running=True, npages=64) as guest, trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            strict = await Source(guest, Address.parse("unix:m"), Limits(), patience=QUICK).migrate()
            assert strict.finish.reason is Reason.PEER_UNTRUSTED
            assert (await Source(guest, listener.bound, Limits()).migrate()).code == 0
            nursery.cancel_scope.cancel()


def test_proof_is_good_for_one_side_of_one_connection():
    """Neither sent back, nor on another connection, nor by who has another secret."""
    source, there = (Greeting(b"s" * 32, side) for side in ("source", "destination"))
    source.check(there.nonce, there.proof(source.nonce))
    there.check(source.nonce, source.proof(there.nonce))
    assert source.proven
    assert there.proven
    other = Greeting(b"s" * 32, "destination")
    for theirs, proof in (
        (source.nonce, source.proof(source.nonce)),  # reflected
        (there.nonce, source.proof(there.nonce)),
        (there.nonce, there.proof(other.nonce)),  # of another connection
        (there.nonce, Greeting(b"t" * 32, "destination").proof(source.nonce)),
        (there.nonce, bytes(greeting.PROOF)),
    ):
        with pytest.raises(StreamError) as refused:
            source.check(theirs, proof)
        assert refused.value.reason is Reason.PEER_UNTRUSTED


@given(st.binary(min_size=greeting.PROOF, max_size=greeting.PROOF), st.binary(min_size=16, max_size=16))
def test_no_other_bytes_are_a_proof(proof, nonce):
    with pytest.raises(StreamError):
        Greeting(b"s" * 32, "source").check(nonce, proof)
