# SPDX-License-Identifier: MIT
"""Tracing a daemon: nothing runs while it is off, nothing waits while it is on, and nothing else changes."""

import errno
import json
import os
import socket
from pathlib import Path

import pytest
import trio

from tests.daemon.helpers import MACHINE, command, dma_write, pin, set_up
from vfioemu import client, daemon
from vfioemu.daemon.runtime_dir import StartError
from vfioemu.daemon.tracing import encoder, tracing
from vfioemu.io.observe import tracer
from vfioemu.io.observe.sink import Sink
from vfioemu.syscalls import procmem
from vfioemu.trace import calls, text
from vfioemu.trace import events as e
from vfioemu.trace.filter import Filter
from vfioemu.trace.options import TraceOptions
from vfioemu.uapi import constants as c
from vfioemu.uapi import structs as s


async def work(session):
    """Some calls of each kind; returns the answers."""
    container, group, device = await set_up(session, "mspc0")
    memory = bytearray(4096 * 4)
    address, keep = procmem.address_of(memory)
    address = (address + 4095) & ~4095
    answers = []

    async def ioctl(file, cmd, raw):
        buffer = bytearray(raw)
        try:
            answers.append(await file.ioctl_buffer(cmd, buffer))
        except OSError as error:
            answers.append(error.errno)
        answers.append(bytes(buffer))

    await ioctl(
        container, c.VFIO_IOMMU_MAP_DMA, s.IommuType1DmaMap(flags=3, vaddr=address, size=8192).build()
    )
    await ioctl(container, c.VFIO_IOMMU_MAP_DMA, s.IommuType1DmaMap(flags=3, vaddr=address, size=3).build())
    await ioctl(container, c.VFIO_IOMMU_DIRTY_PAGES, s.IommuType1DirtyBitmap(flags=1).build())
    await pin(device, 0x1000, 1)
    await dma_write(device, 0, 32, 7)
    await command(device, 9, 0, 0)
    await ioctl(
        device,
        c.VFIO_DEVICE_FEATURE,
        s.DeviceFeature(argsz=16, flags=c.VFIO_DEVICE_FEATURE_SET | 2).build()
        + s.DeviceFeatureMigState(device_state=6).build(),
    )
    os.close(int.from_bytes(answers[-1][12:], "little"))
    answers[-1] = answers[-1][:12]  # the number of the fd may be another
    answers.append(await device.pread(4, 7 << 40))
    with pytest.raises(OSError, match="No such") as refused:
        await session.open("/dev/vfio/99")
    answers.append(refused.value.errno)
    device.close()
    group.close()
    container.close()
    await session.check()
    del keep
    return answers


@pytest.fixture
def check_session(monkeypatch):
    """session.check(): a call that waits until everything before it has happened."""

    async def check(session):
        (await session.open_container()).close()

    monkeypatch.setattr(client.session.Session, "check", check, raising=False)


TRAPS = [
    (tracer.Tracer, "begin"),
    (tracer.Tracer, "end"),
    (tracer.Tracer, "opened"),
    (tracer.Tracer, "closed"),
    (tracer.Tracer, "mappings_with"),
    (tracer.Tracer, "state"),
    (tracer.Tracer, "dirtied"),
    (tracer.Tracer, "interrupt"),
    (tracer.Record, "__init__"),
    (Sink, "put"),
    (tracer, "tapped"),
    (calls, "ioctl"),
    (calls, "transfer"),
    (text.Printer, "line"),
    (e, "encode"),
]
"""All ways into the code that captures, decodes, formats and queues."""


@pytest.fixture
def passed(monkeypatch):
    """Which of the traps the work comes by."""
    seen = set()

    def watch(owner, name):
        original = getattr(owner, name)

        def note(*args, **kwargs):
            seen.add((owner, name))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, note)

    for owner, name in TRAPS:
        watch(owner, name)
    return seen


@pytest.mark.usefixtures("check_session")
async def test_nothing_is_captured_or_formatted_while_nobody_listens(passed):
    async with daemon.running(MACHINE) as running, client.connect(running.socket_path) as session:
        answers = await work(session)
        assert running.dispatcher.tracer is None
    assert answers[0] == 0
    assert passed == set()


@pytest.mark.usefixtures("check_session")
async def test_all_of_it_runs_while_somebody_does(passed, tmp_path):
    for form in ("text", "json"):
        options = TraceOptions(path=tmp_path / form, format=form)
        async with daemon.running(MACHINE, trace=options) as running:
            async with client.connect(running.socket_path) as session:
                await work(session)
    assert passed == set(TRAPS)


@pytest.mark.parametrize("memory", ["ask", "process_vm"])
@pytest.mark.usefixtures("check_session")
async def test_answers_are_the_same_under_a_trace(memory, tmp_path):
    answers = []
    for options in (None, TraceOptions(path=tmp_path / "trace", format="json")):
        async with daemon.running(MACHINE, memory=memory, trace=options) as running:
            async with client.connect(running.socket_path) as session:
                answers.append(await work(session))
            assert running.dispatcher.counters.bugs == 0
    first, second = ([a for a in answer if isinstance(a, int)] for answer in answers)

    assert first == second
    lines = (tmp_path / "trace").read_bytes().splitlines()
    events = [e.decode(line) for line in lines]
    refused = [event for event in events if isinstance(event, e.CALLS) and event.errno]
    assert (refused[0].errno, refused[0].why) == (
        "EINVAL",
        f"size 0x3, iova 0x0, vaddr {refused[0].arg['vaddr']:#x}: not whole pages of 0x1000",
    )
    assert {type(event).__name__ for event in events} == {
        "Close", "Dirtied", "Disconnected", "Interrupt", "Ioctl", "Open", "State", "Transfer",
    }  # fmt: skip


@pytest.mark.usefixtures("check_session")
async def test_the_order_of_a_text_trace(tmp_path):
    options = TraceOptions(path=tmp_path / "trace")
    async with daemon.running(MACHINE, trace=options) as running:
        async with client.connect(running.socket_path) as session:
            await work(session)
    lines = (tmp_path / "trace").read_text().splitlines()
    numbers = {}
    for n, line in enumerate(lines):
        numbers.setdefault(line, n)

    def at(beginning, end=""):
        return next(n for n, line in enumerate(lines) if line.startswith(beginning) and line.endswith(end))

    assert lines[0] == 'open("/dev/vfio/vfio") = ?<container>'
    pinned = at("--- mspc0 dirtied 0x1000+0x1000 (pinned) ---")
    assert lines[pinned - 1].startswith("pwrite64(")
    assert at("--- mspc0 dirtied 0+0x20 (dma_rw) ---") > pinned
    arc = at("--- mspc0 state RUNNING -> PRE_COPY ---")
    assert "device_state=PRE_COPY, data_fd=-1}} => {data_fd=" in lines[arc - 1]
    assert "<mspc0 data>}) = 0" in lines[arc - 1]
    refused = at('open("/dev/vfio/99") = -1 ENOENT')
    assert lines[refused].endswith("/* there is no /dev/vfio/99 */")
    assert at("close(", "<container>) = 0") > refused
    assert any("1 mapping dropped */" in line for line in lines)


async def test_what_a_sink_cannot_take_is_counted():
    sink = Sink(encoder("text", 8), Filter(), room=200)
    for _ in range(100):
        sink.put(e.Lost(count=1))
    first = sink.take_nowait()
    sink.put(e.Dirtied(device="d", count=1, ranges=[]))
    rest = sink.take_nowait()

    kept = first.count(b"1 events lost")
    assert 3 <= kept < 20
    assert f"--- {100 - kept} events lost".encode() in first
    assert rest.startswith(b"--- d dirtied")


@pytest.mark.usefixtures("check_session")
async def test_who_does_not_read_loses_events_and_holds_up_nobody(monkeypatch):
    monkeypatch.setattr(Sink.__init__, "__defaults__", (8, 4096))
    async with daemon.running(MACHINE) as running:
        slow = socket.socket(socket.AF_UNIX)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(60)
        await trio.to_thread.run_sync(slow.connect, str(running.control_path))
        lines = slow.makefile("rb")
        await trio.to_thread.run_sync(lines.readline)
        slow.sendall(b'{"execute": "trace"}\n')
        assert b'"return"' in await trio.to_thread.run_sync(lines.readline)

        async with client.connect(running.socket_path) as session:
            container = await session.open_container()
            for _ in range(6000):
                await container.get_api_version()
        seen = lost = 0
        while seen + lost < 6000:
            event = e.decode(await trio.to_thread.run_sync(lines.readline))
            seen += isinstance(event, e.Ioctl)
            lost += event.count if isinstance(event, e.Lost) else 0
        assert lost > 0
        assert seen > 0
        assert running.dispatcher.tracer is not None
        lines.close()
        slow.close()
        with trio.fail_after(60):
            while running.dispatcher.tracer is not None:  # noqa: ASYNC110 - nothing tells
                await trio.sleep(0.01)


async def test_a_subscription_says_what_it_does_not_understand():
    async with daemon.running(MACHINE) as running, client.control(running.control_path) as control:
        with pytest.raises(client.ControlError, match="'dmaa' is neither a call"):
            await control.call("trace", filters=["dmaa"])
        with pytest.raises(client.ControlError, match="limit"):
            await control.call("trace", limit=0)
        assert running.dispatcher.tracer is None
        assert "trace" in control.greeting["vfioemu"]["commands"]
        assert await control.call("trace", filters=["dma"]) == {"filters": ["dma"]}
        assert running.dispatcher.tracer is not None


async def test_a_file_that_cannot_be_written_is_said_before_anything_starts(tmp_path):
    options = TraceOptions(path=tmp_path / "no" / "such")
    with pytest.raises(StartError, match=r"cannot write a trace to .*: No such file"):
        async with daemon.running(MACHINE, trace=options):
            raise AssertionError


@pytest.mark.usefixtures("check_session")
async def test_a_full_disk_ends_the_trace_and_not_the_daemon(caplog):
    async with daemon.running(MACHINE, trace=TraceOptions(path=Path("/dev/full"))) as running:
        async with client.connect(running.socket_path) as session:
            for _ in range(3):
                await work(session)
        with trio.fail_after(60):
            while "the trace ends: No space left on device" not in caplog.text:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_a_vaddr_that_cannot_be_read_is_shown_as_an_address(tmp_path):
    async with daemon.running(MACHINE, trace=TraceOptions(path=tmp_path / "t")) as running:
        async with client.connect(running.socket_path) as session:
            container, _, _ = await set_up(session)
            with pytest.raises(OSError, match="Bad") as refused:
                await container.ioctl(c.VFIO_IOMMU_MAP_DMA, 0x1000)
            assert refused.value.errno == errno.EFAULT
    text = (tmp_path / "t").read_text()

    assert (
        "VFIO_IOMMU_MAP_DMA, 0x1000) = -1 EFAULT (Bad address) /* 32 bytes at 0x1000 cannot be read */"
        in text
    )


def test_json_is_what_the_schema_says():
    event = json.loads(e.encode(e.Ioctl(ioctl="VFIO_X", cmd=1)))

    assert list(event) == [
        "event", "t", "pid", "fd", "kind", "file", "ret", "errno", "why", "dur_us", "ioctl", "cmd", "arg", "out",
    ]  # fmt: skip


async def test_a_fifo_without_a_reader_is_refused_and_with_one_it_is_written(tmp_path):
    """To open one waits for a reader, and signals would wait for that."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(StartError, match="nobody has this FIFO open for reading"):
        async with tracing(TraceOptions(path=fifo)):
            pass
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with tracing(TraceOptions(path=fifo)) as sink:
            assert sink is not None
    finally:
        os.close(reader)
