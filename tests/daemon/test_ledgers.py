# SPDX-License-Identifier: MIT
"""Ledgers of devices' writes on the control socket: what they tell, whose they are, and what they refuse."""

import base64
import time
from contextlib import asynccontextmanager

import pytest
import trio

from tests.daemon.helpers import MACHINE, dma_write, set_up
from vfioemu import client, daemon
from vfioemu.daemon import control as dc
from vfioemu.daemon import ledgers as dl
from vfioemu.native.bitmap import buffer_runs
from vfioemu.wire.control import ControlError

PAGE = 4096
HIGH = 1 << 32
NPAGES = 3 * dl.PART + 100
RANGES = [[HIGH, NPAGES * PAGE], [0, 16 * PAGE]]


@pytest.fixture
async def server():
    async with daemon.running(MACHINE) as running:
        yield running


@pytest.fixture
async def ctl(server):
    async with client.control(server.control_path) as connection:
        yield connection


@asynccontextmanager
async def devices(server, *symbols):
    """Devices with 16 pages at 0 and NPAGES at HIGH."""
    async with client.connect(server.socket_path) as session:
        await session.set_limits(ipc_lock=True, memlock=None)  # an ordinary user may lock less than that
        with client.Memory(NPAGES * PAGE) as memory:
            await session.share_memory(memory)
            files = []
            for symbol in symbols:
                container, group, device = await set_up(session, symbol)
                await container.map_dma(memory.address, 0, 16 * PAGE)
                await container.map_dma(memory.address, HIGH, NPAGES * PAGE)
                files += [device, group, container]
            yield files[::3]
            for file in files:
                file.close()


def pages(taken, symbol="mb0"):
    """(range, page) of all pages that a device wrote."""
    found = []
    for part in taken["pages"]:
        if part["device"] == symbol:
            bits = base64.b64decode(part["bits"])
            assert len(bits) % 8 == 0
            for first, count in buffer_runs(bits, len(bits) * 8):
                found += [(part["range"], part["first"] + page) for page in range(first, first + count)]
    return found


async def refused(ctl, command, **arguments):
    with pytest.raises(ControlError) as error:
        await ctl.call(command, **arguments)
    return error.value.kind


@pytest.mark.parametrize("symbol", ["mb0", "pp0"])
async def test_writes_are_told_with_their_pages_and_one_by_one(server, ctl, symbol):
    async with devices(server, symbol) as [device]:
        begun = await ctl.call("ledger-begin", devices=[symbol], ranges=RANGES)
        assert begun == {"daemon": server.server.tokens.daemon_id.hex(), "devices": [symbol]}
        before = time.monotonic()
        writes = [(0, 5), (HIGH + 2 * PAGE - 1, 2), (HIGH + (NPAGES - 1) * PAGE, 8)]
        for iova, size in writes:
            await dma_write(device, iova, size, 0xAB)
        taken = await ctl.call("ledger-take")
        assert taken["devices"] == [{"device": symbol, "writes": 3, "stopped": 0}]
        assert pages(taken, symbol) == [(1, 0), (0, 1), (0, 2), (0, NPAGES - 1)]
        assert not taken["more"]
        assert (await ctl.call("ledger-take"))["pages"] == []
        told = await ctl.call("ledger-writes", device=symbol)
        assert [(one["seq"], one["iova"], one["size"], one["stopped"]) for one in told] == [
            (seq, iova, size, False) for seq, (iova, size) in enumerate(writes, 1)
        ]
        assert before <= told[0]["when"] <= told[2]["when"] <= time.monotonic()
        [last] = await ctl.call("ledger-writes", device=symbol, since=1, limit=1)
        assert last["seq"] == 2
        assert await ctl.call("ledger-writes", device=symbol, stopped=True) == []


async def test_each_device_has_its_own_and_others_are_not_noted(server, ctl):
    async with devices(server, "mb0", "mb1") as [one, other]:
        await ctl.call("ledger-begin", devices=["mb0"], ranges=RANGES)
        await dma_write(one, 0, 8, 1)
        await dma_write(other, PAGE, 8, 1)
        taken = await ctl.call("ledger-take")
        assert pages(taken) == [(1, 0)]
        assert [count["device"] for count in taken["devices"]] == ["mb0"]


async def test_long_answer_comes_in_pieces_and_loses_no_page(server, ctl, monkeypatch):
    monkeypatch.setattr(dl, "MAX_PARTS", 2)
    async with devices(server, "mb0") as [device]:
        await ctl.call("ledger-begin", devices=["mb0"], ranges=RANGES)
        wanted = [(0, page) for page in (0, dl.PART - 1, dl.PART, 2 * dl.PART, NPAGES - 1)] + [(1, 15)]
        for number, page in wanted:
            await dma_write(device, RANGES[number][0] + page * PAGE, 8, 1)
        found, answers = [], 0
        while True:
            taken = await ctl.call("ledger-take")
            found += pages(taken)
            answers += 1
            if not taken["more"]:
                break
        assert sorted(found) == wanted
        assert answers == 3


async def test_ledger_ends_with_its_command_and_with_its_connection(server, ctl):
    async with devices(server, "mb0") as [device]:
        await ctl.call("ledger-begin", devices=["mb0"], ranges=RANGES)
        assert (await ctl.call("stats"))["ledgers"] == 1
        assert "vfioemu_ledgers 1.0" in await ctl.call("metrics")
        assert await ctl.call("ledger-end") == {"ended": True}
        assert await ctl.call("ledger-end") == {"ended": False}
        assert (await ctl.call("stats"))["ledgers"] == 0
        await dma_write(device, 0, 8, 1)
        assert await refused(ctl, "ledger-take") == "NoLedger"
        async with client.control(server.control_path) as other:
            await other.call("ledger-begin", devices=["mb0"], ranges=RANGES)
            assert await refused(ctl, "ledger-begin", devices=["mb0"], ranges=RANGES) == "LedgerInUse"
            assert await refused(ctl, "ledger-take") == "NoLedger"
            assert await refused(ctl, "ledger-writes", device="mb0") == "NoLedger"
        with trio.fail_after(10):
            while (await ctl.call("stats"))["ledgers"]:
                await trio.lowlevel.checkpoint()
        await ctl.call("ledger-begin", devices=["mb0"], ranges=RANGES)
        assert (await ctl.call("ledger-take"))["devices"][0]["writes"] == 0


async def test_connection_with_a_ledger_is_not_ended_for_another_one(server, ctl, monkeypatch):
    monkeypatch.setattr(dc, "MAX_CONNECTIONS", 2)
    await ctl.call("ledger-begin", devices=["mb0"], ranges=RANGES)
    async with client.control(server.control_path) as idle:
        async with client.control(server.control_path) as third:
            await third.call("ledger-begin", devices=["mb1"], ranges=RANGES)
            with pytest.raises(OSError, match="closed"):
                await idle.call("list")
            with pytest.raises(ControlError, match="limit of 2 connections"):
                async with client.control(server.control_path):
                    pass
            await ctl.call("ledger-end")
            async with client.control(server.control_path) as fourth:
                await fourth.call("list")


async def test_everything_is_noted_from_a_device_that_is_not_open_yet(server, ctl):
    await ctl.call("ledger-begin", devices=["mb0"], ranges=RANGES)
    async with devices(server, "mb0") as [device]:
        await dma_write(device, 0, 8, 1)
        assert pages(await ctl.call("ledger-take")) == [(1, 0)]


BAD = [
    ({"devices": [], "ranges": RANGES}, "BadArguments"),
    ({"devices": ["mb0"], "ranges": []}, "BadArguments"),
    ({"devices": ["mb0"] * 257, "ranges": RANGES}, "BadArguments"),
    ({"devices": ["mb0"], "ranges": [[page * PAGE, PAGE] for page in range(65)]}, "BadArguments"),
    ({"devices": ["mb0", "mb0"], "ranges": RANGES}, "BadArguments"),
    ({"devices": ["mb0", "none"], "ranges": RANGES}, "DeviceNotFound"),
    ({"devices": ["mb0"], "ranges": [[0, 0]]}, "BadArguments"),
    ({"devices": ["mb0"], "ranges": [[-PAGE, PAGE]]}, "BadArguments"),
    ({"devices": ["mb0"], "ranges": [[0, 2 * PAGE], [PAGE, PAGE]]}, "BadArguments"),
    ({"devices": ["mb0"], "ranges": [[0, 100]]}, "BadArguments"),
    ({"devices": ["mb0"], "ranges": [[100, PAGE]]}, "BadArguments"),
    ({"devices": ["mb0"], "ranges": [[(1 << 64) - PAGE, 2 * PAGE]]}, "BadArguments"),
    ({"devices": ["mb0"], "ranges": [[1 << 70, PAGE]]}, "BadArguments"),
    ({"devices": ["mb0"], "ranges": [[0, (dl.MAX_PAGES + 1) * PAGE]]}, "BadArguments"),
    ({"devices": ["mb0"], "ranges": [[0]]}, "BadArguments"),
    ({"devices": ["mb0"], "ranges": "all"}, "BadArguments"),
    ({"devices": ["mb0"]}, "BadArguments"),
]


@pytest.mark.parametrize(("arguments", "kind"), BAD)
async def test_bad_request_is_refused_and_leaves_nothing(server, ctl, arguments, kind):
    assert await refused(ctl, "ledger-begin", **arguments) == kind
    assert (await ctl.call("stats"))["ledgers"] == 0
    await ctl.call("ledger-begin", devices=["mb0"], ranges=[[0, dl.MAX_PAGES * PAGE]])


@pytest.mark.parametrize(
    "arguments",
    [{"device": "mb0", "limit": 0}, {"device": "mb0", "limit": 4097}, {"device": "mb0", "since": -1}, {}],
)
async def test_bad_question_is_refused(ctl, arguments):
    await ctl.call("ledger-begin", devices=["mb0"], ranges=RANGES)
    assert await refused(ctl, "ledger-writes", **arguments) == "BadArguments"
    assert await refused(ctl, "ledger-writes", device="mb1") == "NoLedger"
    assert await ctl.call("ledger-writes", device="mb0", since=1 << 62) == []


@pytest.mark.parametrize(("limit", "value"), [("MAX_LEDGERS", 1), ("MAX_BITMAPS", 3), ("MAX_BYTES", 400_000)])
async def test_room_of_all_ledgers_is_bounded_and_comes_back(server, ctl, monkeypatch, limit, value):
    monkeypatch.setattr(dl, limit, value)
    for _ in range(3):
        await ctl.call("ledger-begin", devices=["mb0"], ranges=RANGES)
        async with client.control(server.control_path) as other:
            with pytest.raises(ControlError, match=f"limit of {value}") as error:
                await other.call("ledger-begin", devices=["mb1", "pp0"], ranges=RANGES)
            assert error.value.kind == "NoRoom"
        await ctl.call("ledger-end")
    async with client.control(server.control_path) as other:
        await other.call("ledger-begin", devices=["pp0"], ranges=RANGES[:1])


async def test_ledger_for_which_there_is_no_memory_is_refused(ctl, monkeypatch):
    def none(ranges):
        raise MemoryError("no memory, planted")

    with monkeypatch.context() as patch:
        patch.setattr(dl, "WriteLedger", none)
        assert await refused(ctl, "ledger-begin", devices=["mb0"], ranges=RANGES) == "NoRoom"
    await ctl.call("ledger-begin", devices=["mb0"], ranges=RANGES)
