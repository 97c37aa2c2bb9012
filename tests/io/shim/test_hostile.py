# SPDX-License-Identifier: MIT
"""Clients that break the protocol, lie, park, flood or die: the log names them, and nobody else notices."""

import os
import socket

import pytest
import trio

from tests.io.fake import FakeFile, FakeMachine, Raw, serving
from vfioemu.core.base.effects import DmaRead, GiveFd, PinUser, TakeFd, read_user, write_user
from vfioemu.core.base.effects import locked as take
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.locks import Lock
from vfioemu.uapi.kinds import FdKind
from vfioemu.wire import messages as m

ADDRESS = 0x7000_0000_0000
EFAULT = -14


class World:
    """A served machine with one file that can do everything, and a lock to hold meanwhile."""

    def __init__(self, served, file, lock):
        self.served = served
        self.file = file
        self.lock = lock
        self.ended = []

    def client(self, **more):
        return Raw(self.served.path, **more)

    async def others_are_well(self):
        """Another client is served, and no lock is left behind."""
        async with self.client() as other:
            token = await other.open("/f")
            reply, _ = await other.call(m.IOCTL, token, 9)
            assert reply.arg0 == 99
            os.close(other.fds.pop())
        assert self.served.dispatcher.counters.bugs == 0


@pytest.fixture
async def world():
    machine = FakeMachine()
    lock = Lock("test")
    file = FakeFile()
    async with serving(machine, ask_timeout=0.3, hello_timeout=0.2, max_closing=4) as served:
        state = World(served, file, lock)

        def ending(work):
            def call(caller, arg):
                yield from take(lock)
                try:
                    result = yield from work(caller, arg)
                    state.ended.append("well")
                    return result
                except IoctlError as error:
                    state.ended.append(error.name)
                    raise
                finally:
                    lock.release()

            return call

        def read(caller, arg):
            return len((yield from read_user(arg, 100_000)))

        def write(caller, arg):
            yield from write_user(arg, bytes(4_000_000))
            return 0

        def pin(caller, arg):
            return (yield PinUser(caller.space, arg, 10, True))

        def take_fd(caller, arg):
            yield TakeFd(arg)
            return 0

        def give(caller, arg):
            return (yield GiveFd(FakeFile(FdKind.DATA)))

        def dma(caller, arg):
            return len((yield DmaRead(caller.space, arg, 4096)))

        def well(caller, arg):
            yield from ()
            return 99

        file.calls |= {
            1: ending(read),
            2: ending(write),
            3: ending(pin),
            4: ending(take_fd),
            5: ending(give),
            6: ending(dma),
            9: well,
        }
        machine.nodes["/f"] = lambda: FakeFile.share(file)
        yield state
        assert not lock.held
        assert served.dispatcher.counters.bugs == 0


ASKING = {1: m.READ_USER, 2: m.WRITE_USER, 3: m.PIN, 4: m.TAKE_FD, 5: m.GIVE_FD, 6: m.READ_USER}


async def begin(client, number):
    """Make a call that asks, and take the (first part of the) ask."""
    token = await client.open("/f")
    await client.start(m.IOCTL, token, number, ADDRESS)
    ask, _ = await client.receive()
    assert ask.type == ASKING[number]
    return token


# --- what is no message ---


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (bytes(1), "1 bytes"),
        (bytes(47), "47 bytes"),
        (bytes(48), "type 0"),
        (m.encode(m.REPLY, 1), "type 32"),
        (m.encode(m.ANSWER, 1), "type 96"),
        (m.encode(m.DATA, 1), "type 97"),
        (m.encode(m.HELLO, 1, args=(m.MAGIC, 1, 0, 0)), "type 1"),
        (m.encode(m.READ_USER, 1), "type 64"),
        (m.encode(999, 1), "type 999"),
        (bytes(m.MAX_MESSAGE + 1), "more than"),
    ],
)
async def test_wrong_packet_ends_the_connection(world, caplog, packet, why):
    async with world.client() as client:
        await client.send(packet)
        await client.ended()
    await world.others_are_well()
    assert why in caplog.text
    assert f"pid={os.getpid()} uid={os.getuid()}" in caplog.text


@pytest.mark.parametrize(
    ("hello", "errno"),
    [
        ({"versions": (2, 9)}, -93),
        ({"versions": (0, 0)}, -93),
        ({"session": 12345}, -1),
        ({"flags": m.F_SERVICE}, -1),
    ],
)
async def test_refused_greeting(world, hello, errno):
    async with world.client(greet=False) as client:
        reply = await client.hello(**hello)
        assert m.signed(reply.arg0) == errno
        assert reply.arg1 == m.VERSION
        await client.ended()
    await world.others_are_well()


@pytest.mark.parametrize(
    "packet", [b"x", bytes(48), m.encode(m.HELLO, 1), m.encode(m.HELLO, 1, args=(m.MAGIC, 0, 0, 0)) + b"x"]
)
async def test_wrong_greeting_ends_the_connection(world, packet):
    async with world.client(greet=False) as client:
        await client.send(packet)
        await client.ended()
    await world.others_are_well()


async def test_silence_instead_of_a_greeting_ends_the_connection(world, caplog):
    async with world.client(greet=False) as client:
        await client.ended()
    assert "no HELLO within" in caplog.text


async def test_fd_where_none_belongs_ends_the_connection(world):
    for kind, flags in ((m.OPEN, m.F_FD), (m.FORGET, 0), (m.IOCTL, 0)):
        async with world.client() as client:
            client.seq += 1
            await client.send(m.encode(kind, 1, flags=flags) + b"/f" * (kind == m.OPEN), fd=0)
            if kind == m.OPEN:
                await client.ended()
            else:
                await client.packet()
    await world.others_are_well()


# --- in a call ---


@pytest.mark.parametrize("number", ASKING)
async def test_client_that_dies_in_a_call(world, number):
    async with world.client() as client:
        await begin(client, number)
    await world.others_are_well()
    with trio.fail_after(5):
        while not world.ended:
            await trio.lowlevel.checkpoint()
    assert world.ended == [{3: "well", 5: "EMFILE"}.get(number, "EFAULT")]


@pytest.mark.parametrize("number", ASKING)
async def test_client_that_never_answers(world, number, caplog):
    """It is waited for; meanwhile others are served; then its session ends and the lock is free."""
    async with world.client() as client:
        await begin(client, number)
        assert world.lock.held
        await world.others_are_well()
        assert world.lock.held
        await client.ended()
    assert "for 0.3 s" in caplog.text
    assert not world.lock.held


@pytest.mark.parametrize("number", ASKING)
@pytest.mark.parametrize("what", ["call", "seq", "kind", "short", "long", "fd"])
async def test_wrong_answer_ends_the_connection(world, number, what):
    async with world.client() as client:
        await begin(client, number)
        if what == "call":
            await client.start(m.FORGET, 1)
        elif what == "seq":
            await client.answer(0, 100_000, seq=77)
        elif what == "kind":
            await client.answer(kind=m.DATA)
        elif what == "short":
            await client.send(b"xx")
        elif what == "long":
            await client.send(bytes(m.MAX_MESSAGE + 1))
        else:
            await client.send(m.encode(m.ANSWER, client.seq), fd=0)
        await client.ended()
    await world.others_are_well()


@pytest.mark.parametrize("size", [0, 1, 65535])
async def test_fragment_of_a_wrong_size_ends_the_connection(world, size):
    async with world.client() as client:
        await begin(client, 1)
        await client.answer(0, 100_000, data=bytes(size))
        await client.ended()
    async with world.client() as client:
        await begin(client, 1)
        await client.answer(0, 100_000, data=bytes(65536))
        await client.answer(kind=m.DATA, data=bytes(size))
        await client.ended()
    await world.others_are_well()


async def test_fault_half_way_is_efault(world):
    async with world.client() as client:
        await begin(client, 1)
        await client.answer(0, 100_000, data=bytes(65536))
        await client.answer(EFAULT, kind=m.DATA, data=bytes(100_000 - 65536))
        reply, _ = await client.receive()
        assert m.signed(reply.arg0) == EFAULT


async def test_pin_cannot_count_more_than_asked(world):
    async with world.client() as client:
        await begin(client, 3)
        await client.answer(1 << 40)
        reply, _ = await client.receive()
        assert reply.arg0 == 10
        client.close()
    async with world.client() as client:
        await begin(client, 3)
        await client.answer(-5)
        reply, _ = await client.receive()
        assert reply.arg0 == 0


async def test_client_that_does_not_read(world):
    """It sends calls and takes no reply: its own connection fills up, and ends."""
    async with world.client() as client:
        token = await client.open("/f")
        packet = m.encode(m.IOCTL, 1, token, (9, 0, 0, 0))
        with trio.fail_after(20):
            while True:
                try:
                    client.sock.send(packet, socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    await world.others_are_well()
                    break
                await trio.lowlevel.checkpoint()
            while True:
                try:
                    await client.send(packet)
                except OSError:
                    break
    await world.others_are_well()


async def test_fragments_that_nobody_reads(world):
    """A WRITE_USER of megabytes to a client that has stopped reading."""
    async with world.client() as client:
        await begin(client, 2)
        with trio.fail_after(5):
            while world.lock.held:
                await world.others_are_well()
        assert world.ended == ["EFAULT"]


# --- tokens ---


async def test_token_needs_a_proof(world):
    async with world.client() as owner, world.client() as thief:
        token = await owner.open("/f")
        reply, _ = await thief.call(m.IOCTL, token, 9)
        assert (m.signed(reply.arg0), reply.flags) == (-9, m.F_UNPROVED)
        for fd in (0, thief.sock.fileno()):
            reply, _ = await thief.call(m.IOCTL, token, 9, fd=fd)
            assert (m.signed(reply.arg0), reply.flags) == (-9, 0)
        reply, _ = await thief.call(m.IOCTL, token, 9, fd=owner.fds[0])
        assert reply.arg0 == 99
        reply, _ = await thief.call(m.IOCTL, token, 9)
        assert reply.arg0 == 99


async def test_name_alone_is_no_token(world):
    """Anybody can bind a name; what counts is the socket itself."""
    async with world.client() as client:
        token = await client.open("/f")
        ours, theirs = socket.socketpair()
        name = b"\0vfioemu/" + world.served.server.daemon_id.hex().encode() + b"/container/77777"
        ours.bind(name)
        reply, _ = await client.call(m.IOCTL, 77777, 9, fd=theirs.fileno())
        assert m.signed(reply.arg0) == -9
        reply, _ = await client.call(m.IOCTL, token, 9, fd=theirs.fileno())
        assert m.signed(reply.arg0) == -9
        ours.close()
        theirs.close()


async def test_proof_of_another_token_is_refused(world):
    async with world.client() as client:
        first = await client.open("/f")
        await client.open("/f")
        reply, _ = await client.call(m.IOCTL, first, 9, fd=client.fds[1])
        assert m.signed(reply.arg0) == -9


async def test_bytes_and_shutdown_on_a_token(world):
    async with world.client() as client:
        token = await client.open("/f")
        with socket.socket(fileno=os.dup(client.fds[0])) as sock:
            with pytest.raises(BrokenPipeError):
                sock.send(b"what is this")
            reply, _ = await client.call(m.IOCTL, token, 9)
            assert reply.arg0 == 99
            sock.shutdown(socket.SHUT_RDWR)
        reply, _ = await client.call(m.IOCTL, token, 9)
        assert m.signed(reply.arg0) == -9  # as good as closed
    await world.others_are_well()


# --- floods ---


def open_fds():
    return len(os.listdir("/proc/self/fd"))


async def test_flood_of_fds(world):
    before = open_fds()
    async with world.client() as client:
        token = await client.open("/f")
        null = os.open("/dev/null", os.O_RDONLY)
        for _ in range(300):
            reply, _ = await client.call(m.IOCTL, token, 9, fd=null)
            assert m.signed(reply.arg0) == -9
        os.close(null)
    await world.others_are_well()
    with trio.fail_after(5):
        while open_fds() > before:
            await trio.lowlevel.checkpoint()


async def test_flood_of_connections():
    async with serving(max_connections=10) as served:
        clients = []
        for _ in range(10):
            client = Raw(served.path)
            await client.__aenter__()
            clients.append(client)
        async with Raw(served.path, greet=False) as late:
            await late.ended()
        clients.pop().close()
        with trio.fail_after(5):
            while served.server.sessions and len(served.server.sessions) > 9:
                await trio.lowlevel.checkpoint()
        async with Raw(served.path):
            pass
        for client in clients:
            client.close()


async def test_flood_of_channels():
    async with serving(max_channels=3) as served, Raw(served.path) as first:
        more = [Raw(served.path, greet=False) for _ in range(3)]
        results = []
        for client in more:
            await client.__aenter__()
            results.append(m.signed((await client.hello(session=first.session)).arg0))
        assert results == [0, 0, -24]
        for client in more:
            client.close()


async def test_flood_of_files():
    machine = FakeMachine()
    files = []

    def node():
        files.append(FakeFile())
        return files[-1]

    machine.nodes["/f"] = node
    async with serving(machine, max_tokens=5) as served:
        async with Raw(served.path) as client, Raw(served.path) as second:
            for _ in range(5):
                await client.open("/f")
            for other in (client, second):  # of the same process
                reply, _ = await other.call(m.OPEN, data=b"/f")
                assert m.signed(reply.arg0) == -24
            os.close(client.fds.pop())
            await client.open("/f")
            held, client.fds = client.fds, []
        async with Raw(served.path) as client:  # what it holds is not forgotten because it has hung up
            reply, _ = await client.call(m.OPEN, data=b"/f")
            assert m.signed(reply.arg0) == -24
        for fd in held:
            os.close(fd)
        with trio.fail_after(5):
            while len(served.server.tokens):
                await trio.lowlevel.checkpoint()
    assert [file.released for file in files] == [1] * len(files)


async def test_flood_of_log_lines(world, caplog):
    caplog.set_level("DEBUG")
    async with world.client() as client:
        token = await client.open("/f")
        for _ in range(200):
            await client.call(m.IOCTL, token, 12345)
    assert not [
        record for record in caplog.records if "ENOTTY" in record.message and record.levelname != "DEBUG"
    ]
    assert 10 <= caplog.text.count("ENOTTY") <= 25


# --- processes ---


async def test_forked_child_cannot_use_the_parents_connection(world, caplog):
    async with world.client() as client:
        token = await client.open("/f")
        pid = os.fork()
        if not pid:
            client.sock.send(m.encode(m.IOCTL, 1, token, (9, 0, 0, 0)))
            os._exit(0)
        os.waitpid(pid, 0)
        await client.ended()
    assert f"a message from pid {pid}" in caplog.text
    await world.others_are_well()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
async def test_foreign_uid_is_refused():
    async with serving() as served:
        os.chmod(served.path.parent, 0o711)
        os.chmod(served.path, 0o666)
        read_end, write_end = os.pipe()
        pid = os.fork()
        if not pid:
            os.setuid(65534)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.connect(os.fspath(served.path))
            os.write(write_end, b"c" + bytes([len(sock.recv(100))]))
            os._exit(0)
        await trio.lowlevel.wait_readable(read_end)
        assert os.read(read_end, 2) == b"c\0"
        os.waitpid(pid, 0)
        os.close(read_end)
        os.close(write_end)
