# SPDX-License-Identifier: MIT
"""QEMU or the daemon is killed, or stopped for a while."""

import os
import signal
import time
from typing import Any

import pytest
import trio

from tests.system.interop.checks import Ring, loopback, serial_ports
from tests.system.interop.console import GuestError
from tests.system.interop.guestimage import GuestImage
from tests.system.interop.lab import Lab, Plan, begin, compare, ended, told
from tests.system.interop.machine import PATIENCE, Device, workplace
from tests.system.interop.programs import Qemu
from tests.system.interop.qmp import until
from tests.system.interop.report import Entry
from vfioemu.abi.dma_engine import Pattern
from vfioemu.testing.daemon import DaemonProcess

MTTY = Device(model="mtty", group=1, slot=0x10)
ENGINE = Device(model="dma-engine", group=2, slot=0x11, options={"journal": True})
PLAN = Plan(title="", devices=[MTTY, ENGINE])
STOPPED = 5.0
"""Seconds for which a daemon stands still."""


def holdings(daemon: DaemonProcess) -> dict[str, Any]:
    """What the daemon holds for clients, by name; nothing is left out that is not 0."""
    held = daemon.held()
    return {
        "files": sum(held["files"].values()),
        "containers": len(held["containers"]),
        **{name: held[name] for name in ("sessions", "connections", "locked_pages", "pins", "windows")},
    }


async def test_qemu_is_killed(any_qemu: Qemu, guest: GuestImage, entry: Entry) -> None:
    """kill -9 of QEMU: the daemon has nothing left of it"""
    lab = Lab(any_qemu, guest, PLAN)
    async with lab.side(incoming=False) as side:
        nothing = dict.fromkeys(holdings(side.daemon), 0)
        await Ring.start(side.vm, ENGINE, Pattern.RANDOM)
        held = holdings(side.daemon)
        assert held["files"]
        assert held["containers"]
        os.kill(side.vm.pid, signal.SIGKILL)
        begun = time.monotonic()
        await until(
            lambda: trio.to_thread.run_sync(holdings, side.daemon), nothing.__eq__, PATIENCE, every=0.01
        )
        entry.note(
            f"all of {held['files']} files and {held['containers']} containers gone after {time.monotonic() - begun:.2f} s"
        )


async def test_daemon_is_killed(any_qemu: Qemu, guest: GuestImage, entry: Entry) -> None:
    """kill -9 of the daemon: errors, and a QEMU that still answers and ends"""
    lab = Lab(any_qemu, guest, PLAN)
    with pytest.raises(RuntimeError, match="ended with status -9"):  # the daemon, when it is waited for
        await outlives_daemon(lab, entry)


async def outlives_daemon(lab: Lab, entry: Entry) -> None:
    """A guest whose devices are gone, while one of them was at work."""
    async with lab.side(incoming=False) as side:
        await Ring.start(side.vm, ENGINE, Pattern.RANDOM)
        os.kill(side.daemon.pid, signal.SIGKILL)
        with pytest.raises(GuestError, match="no dma-engine: ID 0xffffffffffffffff"):
            await side.vm.console.run(f"dma {ENGINE.bdf} 10")
        assert await side.vm.status() == "running"
        assert await side.vm.console.run("echo here") == "here"
        said = [line for line in side.vm.log().splitlines() if "failed: " in line]
        assert said
        entry.note(f"the guest reads all ones, QEMU says: {said[0]}")
        # hw_error(), when a device can neither be stopped nor reset: vfio_migration_set_state().
        status = await side.vm.quit()
        assert status == 0 or (status == -signal.SIGABRT and "hardware error" in side.vm.log())
        entry.note(f"then it ends with status {status}")


async def test_daemon_stands_still(any_qemu: Qemu, guest: GuestImage, entry: Entry) -> None:
    """SIGSTOP of the daemon for a while: everything waits, nothing is lost"""
    lab = Lab(any_qemu, guest, PLAN)
    async with lab.side(incoming=False) as side:
        ring = await Ring.start(side.vm, ENGINE, Pattern.RANDOM)
        (tty,) = await serial_ports(side.vm, MTTY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loopback, side.vm, tty)
            for _ in range(2):
                await trio.sleep(1)
                await stand_still(side.daemon)
        seen = await ring.watched(side.vm)
        seen = await ring.goes_on(side.vm, seen["seq"] + ring.pages)
        assert (seen["stale"], seen["foreign"]) == (0, 0)
        written = ring.last_writes(side.daemon)
        assert len(written) == ring.pages
        entry.note(f"twice {STOPPED:g} s during 64 KiB of loopback and DMA")


async def test_daemon_stands_still_in_migration(v2_qemu: Qemu, guest: GuestImage, entry: Entry) -> None:
    """SIGSTOP of both daemons during a live migration"""
    lab = Lab(v2_qemu, guest, PLAN)
    async with lab.side(incoming=False) as source, lab.side(incoming=True) as destination:
        ring = await Ring.start(source.vm, ENGINE, Pattern.RANDOM)
        with workplace() as place:
            await source.vm.qmp("migrate-set-parameters", max_bandwidth=16 << 20)
            await begin(source, destination, place)
            await until(
                lambda: source.vm.qmp("query-migrate"),
                lambda now: now["status"] == "active" and now["ram"]["transferred"] > 1 << 20,
                PATIENCE,
            )
            await stand_still(source.daemon)
            await stand_still(destination.daemon)
            await source.vm.qmp("migrate-set-parameters", max_bandwidth=128 << 20)
            status = await ended(source)
        assert status["status"] == "completed"
        await until(
            lambda: destination.vm.qmp("query-migrate"),
            lambda now: now.get("status") == "completed",
            PATIENCE,
        )
        arrived = await compare(source, destination, ring)
        assert not arrived.unwritten
        assert not arrived.stale
        assert not arrived.differing
        await destination.vm.qmp("cont")
        seen = await ring.goes_on(destination.vm, arrived.last)
        assert (seen["stale"], seen["foreign"]) == (0, 0)
        entry.note(f"{STOPPED:g} s each; {told(status)}; {ring.pages} DMA pages right")


async def stand_still(daemon: DaemonProcess) -> None:
    """Stop a daemon for a while."""
    os.kill(daemon.pid, signal.SIGSTOP)
    await trio.sleep(STOPPED)
    os.kill(daemon.pid, signal.SIGCONT)
