# SPDX-License-Identifier: MIT
"""The client of a daemon's ledger, against control sockets that say what no daemon would: it is not compared, and nobody hangs."""

import base64
import json
from contextlib import asynccontextmanager

import pytest
import trio

from vfioemu.migration.daemon_ledger import CONTROL, DaemonLedger
from vfioemu.migration.device_writes import DeviceCount, LedgerError, TakenPages
from vfioemu.migration.plan import PAGE

ID = bytes(range(16))
RANGES = [(0, 128 * PAGE), (1 << 32, 64 * PAGE)]
NAMES = {"dma0": "uuid-0", "dma1": "uuid-1"}
BEGUN = {"daemon": ID.hex(), "devices": ["s0", "s1"]}
COUNTS = [{"device": "s0", "writes": 3, "stopped": 1}, {"device": "s1", "writes": 0, "stopped": 0}]
WORD = base64.b64encode((0b101).to_bytes(8, "little")).decode()
PART = {"device": "s0", "range": 0, "first": 64, "bits": WORD}
TAKEN = {"devices": COUNTS, "pages": [PART], "more": False}
HANG = object()


class Server:
    """Answers each command with the next of its answers: a value, an error (class, text), bytes as they are, or HANG."""

    def __init__(self, answers):
        self.answers = {command: list(given) for command, given in answers.items()}
        self.asked = []

    async def serve(self, stream):
        async with stream:
            await stream.send_all(b'{"vfioemu": {"version": "0", "protocol": 1, "commands": [], "pid": 1}}\n')
            data = b""
            while part := await stream.receive_some():
                data += part
                while b"\n" in data:
                    line, data = data.split(b"\n", 1)
                    await self.answer(stream, json.loads(line))

    async def answer(self, stream, request):
        self.asked.append(request["execute"])
        given = self.answers.get(request["execute"], [{}])
        answer = given.pop(0) if len(given) > 1 else given[0]
        if answer is HANG:
            await trio.sleep_forever()
        if isinstance(answer, bytes):
            await stream.send_all(answer)
            return
        if isinstance(answer, tuple):
            line = {"error": {"class": answer[0], "desc": answer[1]}, "id": request["id"]}
        else:
            line = {"return": answer, "id": request["id"]}
        await stream.send_all(json.dumps(line).encode() + b"\n")


@asynccontextmanager
async def serving(folder, limit=10.0, **answers):
    answers = {name.replace("_", "-"): given for name, given in answers.items()}
    server = Server({"ledger-begin": [BEGUN], "ledger-take": [TAKEN], "ledger-writes": [[]], **answers})
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(str(folder / CONTROL))
    sock.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, [trio.SocketListener(sock)])
        ledger = DaemonLedger(str(folder / "vfio.sock"), ID, NAMES, limit)
        yield ledger, server
        await ledger.end()
        nursery.cancel_scope.cancel()


async def test_pages_and_writes_are_those_of_the_guests_devices(tmp_path):
    write = {"seq": 3, "iova": PAGE, "size": 8, "when": 1.5, "stopped": True}
    async with serving(tmp_path, ledger_writes=[[write]]) as (ledger, server):
        await ledger.begin(RANGES)
        counts, pages = await ledger.take()
        assert counts == {"dma0": DeviceCount(3, 1), "dma1": DeviceCount(0, 0)}
        assert pages == [TakenPages("dma0", 0, 64, (0b101).to_bytes(8, "little"))]
        [one] = await ledger.writes("dma0", 0, stopped=True)
        assert (one.device, one.seq, one.iova, one.size, one.when) == ("dma0", 3, PAGE, 8, 1.5)
        await ledger.end()
        assert server.asked == ["ledger-begin", "ledger-take", "ledger-writes", "ledger-end"]
        with pytest.raises(LedgerError, match="ended"):
            await ledger.take()


async def test_answer_in_pieces_is_put_together(tmp_path):
    first = {**TAKEN, "more": True}
    async with serving(tmp_path, ledger_take=[first, first, TAKEN]) as (ledger, _):
        await ledger.begin(RANGES)
        assert len((await ledger.take())[1]) == 3


async def test_pieces_that_never_end_are_an_end(tmp_path):
    for endless in ({**TAKEN, "more": True}, {**TAKEN, "pages": [], "more": True}):
        async with serving(tmp_path, ledger_take=[endless]) as (ledger, _):
            await ledger.begin(RANGES)
            with pytest.raises(LedgerError, match="and there are more"):
                await ledger.take()
        (tmp_path / CONTROL).unlink()


@pytest.mark.parametrize(
    ("begun", "why"),
    [
        ({**BEGUN, "daemon": "00" * 16}, "another daemon"),
        ({**BEGUN, "devices": ["s0"]}, "1 devices instead of 2"),
        ({"devices": ["s0", "s1"]}, "an answer that is none"),
        ([], "an answer that is none"),
        (("CommandNotFound", "no command"), "keeps no ledger"),
        (("LedgerInUse", "another connection"), "another connection"),
        (b"garbage\n", "EOF|control socket|closed|Input/output"),
        (b'{"return": 1, "id": 77}\n', "no answer of the daemon within 0.2 s"),
        (HANG, "no answer of the daemon within 0.2 s"),
    ],
)
async def test_begin_that_fails_says_why(tmp_path, begun, why):
    limit = 0.2 if "0.2 s" in why else 10.0
    async with serving(tmp_path, limit, ledger_begin=[begun]) as (ledger, _):
        with pytest.raises(LedgerError, match=why):
            await ledger.begin(RANGES)


@pytest.mark.parametrize(
    "taken",
    [
        {**TAKEN, "devices": COUNTS[:1]},
        {**TAKEN, "devices": [*COUNTS, {"device": "s2", "writes": 0, "stopped": 0}]},
        *(
            {**TAKEN, "pages": [{**PART, **wrong}]}
            for wrong in (
                {"device": "s9"},
                {"range": 2},
                {"range": -1},
                {"first": 128},
                {"first": -64},
                {"bits": "?"},
                {"bits": base64.b64encode(b"1234567").decode()},
                {"bits": 5},
            )
        ),
    ],
)
async def test_pages_that_cannot_be_are_refused(tmp_path, taken):
    async with serving(tmp_path, ledger_take=[taken]) as (ledger, _):
        await ledger.begin(RANGES)
        with pytest.raises(LedgerError, match=r"ledger-take|devices instead of"):
            await ledger.take()


async def test_daemon_that_accepts_nobody_is_given_up(tmp_path):
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(str(tmp_path / CONTROL))
    sock.listen()
    ledger = DaemonLedger(str(tmp_path / "vfio.sock"), ID, NAMES, 0.2)
    with pytest.raises(LedgerError, match=r"does not answer within 0\.2 s"):
        await ledger.begin(RANGES)
    await ledger.end()
    sock.close()


async def test_nobody_there_is_said_with_the_path(tmp_path):
    ledger = DaemonLedger(str(tmp_path / "vfio.sock"), ID, NAMES)
    with pytest.raises(LedgerError, match=f"{CONTROL}: No such file"):
        await ledger.begin(RANGES)
    await ledger.end()


async def test_end_of_a_daemon_that_hangs_does_not_wait_for_it(tmp_path):
    async with serving(tmp_path, ledger_end=[HANG]) as (ledger, _):
        await ledger.begin(RANGES)
        with trio.fail_after(3):
            await ledger.end()
