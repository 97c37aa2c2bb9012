# SPDX-License-Identifier: MIT
"""The matrix of liars and checks: each device that does not tell the truth is found and named, each honest one is not.

A row is a liar (liars.py), an honest device, or a wire that flips a bit; the columns are the ways to migrate: with the comparison,
with `--on-mismatch=move`, with `--no-verify`. What a cell has to be is written in it: a liar that passes fails the suite, and
so does an honest device that does not.
"""

import os
from dataclasses import dataclass

import pytest
import trio

from tests.migration.gadget import LINE, MEMORY, MSIX, PBA, RAISE, REGISTERS, RUN, TARGET, VECTORS
from tests.migration.lab import HIGH, Dma, lab
from tests.migration.proxies import Proxy, copy_greeting, read_frame
from tests.sample import sampled
from vfioemu.abi import dma_engine as dma
from vfioemu.abi.dma_engine import Register
from vfioemu.migration.actions import Outcome
from vfioemu.migration.guestspec import ProgramSpec
from vfioemu.migration.messages import Likeness
from vfioemu.migration.plan import Limits, OnMismatch, Reason
from vfioemu.migration.source import Source
from vfioemu.migration.stream import FrameType
from vfioemu.uapi import constants as c

CONFIG = c.VFIO_PCI_CONFIG_REGION_INDEX
FAST = Limits(downtime=1.0)
SLOW = Limits(bandwidth=16 << 20, downtime=0.1)
STEADY = ProgramSpec(memory="high", size="1 MiB", rate=4000, pattern="sequential")
HIDDEN = HIGH + 0x10000


# --- honest devices, and what a guest has in them ---


async def write(file, region, offset, data):
    info = await file.region_info(region)
    assert await file.pwrite(data, info.offset + offset) == len(data)


async def give_msix(file, eventfd):
    """Switch MSI-X on, with nobody who hears the second vector."""
    await file.set_irq_eventfds(c.VFIO_PCI_MSIX_IRQ_INDEX, [eventfd, -1])


async def use_engine(file, eventfd):
    await write(file, 0, Register.SEED, (77).to_bytes(8, "little"))
    await write(file, 0, dma.RING_OFFSET, b"RINGRING" * 4)
    await write(file, 4, 0x5000, b"BAR4BAR4")
    await write(file, CONFIG, LINE, b"\x2a")
    await interrupt_engine(file, 3)  # INTx is asserted
    await give_msix(file, eventfd)
    await interrupt_engine(file, 1)  # and this one waits for somebody who hears it


async def interrupt_engine(file, vector):
    await write(file, 0, Register.ARG0, vector.to_bytes(8, "little"))
    await write(file, 0, Register.COMMAND, dma.Command.INTERRUPT.to_bytes(8, "little"))


async def use_tty(file, eventfd):
    await write(file, CONFIG, LINE, b"\x2a")
    await write(file, 0, 7, b"\x5a")
    await write(file, 0, 0, b"Z")


async def use_oracle(file, eventfd):
    pass


async def use_gadget(file, eventfd):
    await write(file, REGISTERS, 32, b"registers")
    await write(file, MEMORY, 0x3000, b"memory")
    await write(file, MSIX, 16, (0xFEE00000).to_bytes(8, "little"))
    await write(file, MSIX, PBA, b"\x02")
    await write(file, CONFIG, LINE, b"\x2a")


async def use_slate(file, eventfd):
    await write(file, 0, 0x3000, b"memory")
    await write(file, CONFIG, LINE, b"\x2a")
    await file.set_irq_eventfds(c.VFIO_PCI_MSIX_IRQ_INDEX, [eventfd] + [-1] * (VECTORS - 1))
    await write(file, 2, RAISE, b"\x01")


GADGET, SLATE = "tests.migration.gadget:Gadget", "tests.migration.gadget:Slate"
HONEST = {
    "dma-engine": ({"big-bar": 64 << 10}, use_engine),
    "mtty": ({"ports": 2}, use_tty),
    "oracle": ({"variant": "migsp"}, use_oracle),
    GADGET: ({}, use_gadget),
    SLATE: ({}, use_slate),
}


def device(model, options, program=None):
    return Dma(model=model, options=options, program=program)


@pytest.fixture
def eventfd():
    fd = os.eventfd(0)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("model", HONEST)
async def test_honest_device_is_the_same(model, verify, eventfd):
    options, use = HONEST[model]
    told = []
    async with lab(device(model, options), mib=4) as it:
        await use(it.guest.devices["dma0"]._file, eventfd)
        result = await it.migrate(FAST, verify=verify, tell=told.append)
        assert (result.code, result.finish.reason) == (0, None), result.finish
        assert len(it.arrivals) == 1
    if verify:
        [verdict] = result.checked.verdicts
        assert verdict.result is Likeness.SAME, verdict
        seen = {part.what for part in verdict.parts if part.result is Likeness.SAME}
        assert {"state", "device", "config space"} <= seen
        assert model not in ("dma-engine", GADGET, SLATE) or "MSI-X pending bits" in seen
        blind = {part.what for part in verdict.parts if part.result is Likeness.NOT_COMPARED}
        assert blind == (set() if model in ("dma-engine", "mtty") else {"registers"})


@pytest.mark.parametrize("model", ["dma-engine", SLATE])
@pytest.mark.parametrize(
    ("place", "data"),
    [
        (0x04, b"\0\0"),  # memory is not decoded, so nothing of it can be read
        (0x44, b"\x03"),  # it sleeps, if it has power management
        (0x4C, b"\xfe" * 12),  # address and data of MSI, if it has that
    ],
)
async def test_whatever_an_honest_guest_has_written_to_config_space_is_there(model, place, data):
    options, _ = HONEST[model]
    async with lab(device(model, options), mib=4) as it:
        await write(it.guest.devices["dma0"]._file, CONFIG, place, data)
        result = await it.migrate(FAST)
        assert result.code == 0, result.finish
        [verdict] = result.checked.verdicts
        told = {part.what: part.result for part in verdict.parts}
        assert (told["state"], told["config space"]) == (Likeness.SAME, Likeness.SAME)
        asleep = model == "dma-engine" and place != 0x4C
        assert not asleep or told["registers"] is Likeness.NOT_COMPARED


# --- liars that lose, change or invent something of their state ---


@dataclass(frozen=True)
class Liar:
    """A row.

    Attributes:
        model: what it pretends to be.
        name: its class in liars.py.
        parts: what has to be named, at least.
        here: it is at the source as well.
        likeness: what the comparison says.
    """

    model: str
    name: str
    parts: frozenset = frozenset({"state"})
    here: bool = False
    likeness: Likeness = Likeness.DIFFERS

    def __str__(self):
        return self.name


def differs(model, name, *parts, here=False):
    return Liar(model, name, frozenset(parts), here)


def blind(model, name, here=True):
    return Liar(model, name, frozenset({"state"}), here, Likeness.NOT_COMPARED)


LIARS = [
    differs("dma-engine", "EngineForgetsRegisters", "state", "registers"),
    differs("dma-engine", "EngineForgetsMemory", "state", "region 0", "region 4"),
    differs("dma-engine", "EngineForgetsConfig", "config space"),
    differs("dma-engine", "EngineForgetsInterrupt", "state", "config space"),
    differs("dma-engine", "EngineForgetsPendingBits", "state", "MSI-X pending bits"),
    differs("dma-engine", "EngineForgetsSequence", "state"),
    blind("dma-engine", "EngineChanges"),
    differs("dma-engine", "EngineSaysLess", "size of its state", here=True),
    differs("mtty", "TtyForgetsRegisters", "state", "registers"),
    differs("mtty", "TtyForgetsConfig", "state", "config space"),
    differs("mtty", "TtyForgetsByte", "state", "registers"),
    blind("mtty", "TtyChanges"),
    differs("oracle", "OracleForgets", "state"),
    differs("oracle", "OracleInvents", "state"),
    blind("oracle", "OracleChanges"),
    differs(GADGET, "GadgetForgetsRegisters", "state"),
    differs(GADGET, "GadgetForgetsMemory", "state", "region 2"),
    differs(GADGET, "GadgetForgetsConfig", "state", "config space"),
    differs(GADGET, "GadgetForgetsTable", "state", "MSI-X table"),
    differs(GADGET, "GadgetForgetsInterrupt", "state", "MSI-X pending bits"),
    differs(GADGET, "GadgetRepeats", "region 2", "MSI-X table", "MSI-X pending bits"),
    blind(GADGET, "GadgetChanges"),
    blind(GADGET, "GadgetFailsToSave"),
    blind(GADGET, "GadgetNeverEnds"),
    blind(GADGET, "GadgetCannotBeReadBack", here=False),
    differs(GADGET, "GadgetSavesNothing", "region 2", here=True),
    differs(GADGET, "GadgetSaysLess", "size of its state", here=True),
    differs(GADGET, "GadgetPromisesMore", "pre-copy", here=True),
    differs(SLATE, "SlateForgetsMemory", "state", "region 0"),
    differs(SLATE, "SlateForgetsConfig", "state", "config space"),
    differs(SLATE, "SlateForgetsInterrupt", "state", "MSI-X pending bits"),
]
MODELS = [next(liar for liar in LIARS if liar.model == model) for model in HONEST]


async def lie(it, liar, eventfd, limits, **options):
    _, use = HONEST[liar.model]
    await use(it.guest.devices["dma0"]._file, eventfd)
    if liar.name == "EngineSaysLess":
        await write(it.guest.devices["dma0"]._file, 4, 0, b"x" * (4 << 20))
    return await it.migrate(limits, **options)


def pair(liar):
    """Both ends: the destination's is the liar, and the source's as well if it says so."""
    options, _ = HONEST[liar.model]
    if liar.name == "EngineSaysLess":
        options = {"big-bar": 4 << 20}
    false = device(f"tests.migration.liars:{liar.name}", options)
    return (false if liar.here else device(liar.model, options)), [false]


@pytest.mark.parametrize("liar", LIARS, ids=str)
async def test_liar_is_found_and_the_guest_stays(liar, eventfd):
    here, there = pair(liar)
    async with lab(here, there=there, mib=4) as it:
        result = await lie(it, liar, eventfd, FAST)
        assert (result.code, result.finish.outcome) == (5, Outcome.MISMATCH), result.finish
        [verdict] = result.checked.verdicts
        assert verdict.result is liar.likeness, verdict
        named = {part.what for part in verdict.parts if part.result is liar.likeness}
        assert liar.parts <= named, verdict
        told = "differs" if liar.likeness is Likeness.DIFFERS else "was not compared"
        assert f"dma0 {told} (" in result.finish.detail
        reasons = {Likeness.DIFFERS: Reason.MISMATCH, Likeness.NOT_COMPARED: Reason.NOT_COMPARED}
        assert result.finish.reason is reasons[liar.likeness]
        assert result.finish.source_runs
        assert not it.arrivals
        assert await it.guest.devices["dma0"].get_state() == c.VFIO_DEVICE_STATE_RUNNING


async def test_device_that_does_not_stop_when_it_was_asked_again_never_starts(eventfd):
    liar = differs(GADGET, "GadgetStaysInStopCopy")
    here, there = pair(liar)
    async with lab(here, there=there, mib=4) as it:
        result = await lie(it, liar, eventfd, FAST)
        assert (result.code, result.finish.reason) == (3, Reason.DEVICE_ERROR), result.finish
        assert result.finish.source_runs
        assert not it.arrivals


@pytest.mark.parametrize("liar", MODELS, ids=str)
async def test_liar_that_may_move_is_told_of(liar, eventfd):
    here, there = pair(liar)
    async with lab(here, there=there, mib=4) as it:
        result = await lie(it, liar, eventfd, Limits(downtime=1.0, on_mismatch=OnMismatch.MOVE))
        assert (result.code, result.finish.outcome) == (5, Outcome.COMPLETED), result.finish
        assert (result.finish.reason, result.finish.mismatches) == (Reason.MISMATCH, 1)
        assert it.arrivals[0].mismatches == 1


@pytest.mark.parametrize("liar", sampled(LIARS), ids=str)
async def test_nobody_finds_a_liar_without_the_comparison(liar, eventfd):
    """This is what --no-verify means, and that the rows above are found by the comparison and by nothing else."""
    here, there = pair(liar)
    async with lab(here, there=there, mib=4) as it:
        result = await lie(it, liar, eventfd, FAST, verify=False)
        assert (result.code, result.finish.reason) == (0, None), result.finish


# --- liars whose writes leave no mark ---


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("dma-engine", {"hide-page": HIDDEN}),
        ("dma-engine", {"hide-page": HIDDEN, "logging": False}),
        ("dma-engine", {"hide": 2}),
        ("tests.migration.liars:GadgetHidesPages", {}),
        ("tests.migration.liars:GadgetForgetsMarks", {}),
    ],
)
async def test_write_without_a_mark_is_found(model, options, verify, eventfd):
    engine = model == "dma-engine"
    async with lab(device(model, options, STEADY if engine else None), cpu_rate=100.0) as it:
        if not engine:
            file = it.guest.devices["dma0"]._file
            await write(file, REGISTERS, TARGET, HIDDEN.to_bytes(8, "little"))
            await write(file, REGISTERS, RUN, b"\x01")
        result = await it.migrate(SLOW, verify=verify)
        if not verify and result.code == 0:
            return  # it may go unnoticed; a write between the checksum of a page and its way out does not
        assert (result.code, result.finish.reason) == (5, Reason.MISMATCH), result.finish
        if verify:
            assert result.finish.detail.startswith(f"{result.checked.mismatched_pages} of 2048 pages differ")
            assert "hide" in options or result.checked.mismatched_pages == 1
            assert "hide" in options or result.lost[0].iova & -4096 == HIDDEN


# --- liars that write when they have been told to stand still; test_ledger.py has them at every moment ---


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("side", ["source", "destination"])
async def test_device_that_writes_when_it_is_stopped_is_found_and_named(side, verify):
    honest, late = device(GADGET, {}), device("tests.migration.liars:GadgetWritesLate", {})
    here, there = (late, honest) if side == "source" else (honest, late)
    async with lab(here, there=[there], mib=4) as it:
        result = await it.migrate(FAST, verify=verify)
        expected = (5, Reason.LATE_WRITE) if verify else (0, None)
        assert (result.code, result.finish.reason) == expected, result.finish
        assert bool(it.arrivals) is not verify
        if verify:
            assert "dma0 write " in result.finish.detail, result.finish


# --- a wire that flips a bit ---


class Flipping(Proxy):
    """Flips the last bit of the bulk of the first frame of a kind that has any."""

    def __init__(self, target, kind):
        self.target = target
        self.kind = kind
        self.flipped = 0

    async def serve(self, left):
        right = await trio.open_tcp_stream(self.target.host, self.target.port)
        async with left, right, trio.open_nursery() as nursery:
            nursery.start_soon(self.copy, left, right, nursery.cancel_scope, True)
            nursery.start_soon(self.copy, right, left, nursery.cancel_scope, False)

    async def copy(self, here, there, scope, flips):
        try:
            await copy_greeting(here, there)
            while True:
                frame = await read_frame(here)
                data = bytearray(frame.data)
                if flips and frame.kind == self.kind and frame.bulk and not self.flipped:
                    self.flipped += 1
                    data[-1] ^= 1
                await there.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
            pass
        scope.cancel()


FLIPS = [
    (FrameType.DEVICE, True, 3, Reason.STREAM_CORRUPT),
    (FrameType.DEVICE, False, 3, Reason.STREAM_CORRUPT),
    (FrameType.RAM, True, 5, Reason.MISMATCH),
    (FrameType.RAM, False, 5, Reason.MISMATCH),
]


@pytest.mark.parametrize("model", [GADGET, "dma-engine", "mtty"])
@pytest.mark.parametrize(("kind", "verify", "code", "reason"), FLIPS)
async def test_flipped_bit_is_found(model, kind, verify, code, reason):
    options, _ = HONEST[model]
    async with lab(device(model, options), mib=4, cpu_rate=50.0) as it:
        async with Flipping(it.address, kind).up() as address:
            result = await Source(it.guest, address, FAST, verify=verify).migrate()
        assert (result.code, result.finish.reason) == (code, reason), result.finish
        assert result.finish.source_runs == bool(code)
        if kind is FrameType.DEVICE:
            assert "of the state of dma0 is wrong" in result.finish.detail
