# SPDX-License-Identifier: MIT
"""What a guest is asked about its devices, and what has to be true of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.stamps import Stamp
from tests.system.interop.machine import PATIENCE, Device, Vm
from tests.system.interop.qmp import until
from vfioemu.abi.dma_engine import Pattern
from vfioemu.testing.daemon import DaemonProcess

PAGE: Final = 4096
LOOPBACK_BYTES: Final = 65536
RING_PAGES: Final = 300
RING_RATE: Final = 5000
"""Writes a second: each page about 16 times a second."""
_KNOWN: Final = (
    # vfio_mtty.c has no VFIO_DEVICE_FLAGS_RESET, and an mdev no hot reset.
    "Cannot reset device .*, no available reset mechanism",
    # A device that is added while there is no KVM, which is not asked for.
    "KVM VFIO device isn't created yet",
    # Linux 6.12 has no VFIO_DEVICE_FEATURE_DMA_BUF.
    "warning: VFIO dma-buf not supported in kernel",
    # Container dirty pages are used only when they are asked for, and not without this.
    "warning: .*VFIO device doesn't support device and IOMMU dirty tracking",
)


def numbers(text: str) -> dict[str, int]:
    """The `name=number` words of what a guest program printed."""
    return {name: int(value, 0) for name, value in re.findall(r"(\w+)=(\w+)", text)}


def quiet(vm: Vm) -> None:
    """QEMU has said nothing but what it says of the real thing as well."""
    said = [line for line in vm.log().splitlines() if not any(re.search(known, line) for known in _KNOWN)]
    assert not said, "\n".join(["QEMU says:", *said])


async def serial_ports(vm: Vm, device: Device) -> list[str]:
    """The ttys that the guest's 8250_pci driver made of a device; it may be about to make them."""
    found = f"find /sys/bus/pci/devices/{device.bdf}/ -name 'ttyS*'"
    await vm.console.run(f'until test -n "$({found})"; do sleep 0.1; done', PATIENCE)
    text = await vm.console.run(
        f"basename $(readlink /sys/bus/pci/devices/{device.bdf}/driver); "
        f"for tty in /sys/class/tty/ttyS*; do readlink -f $tty | grep {device.bdf}; done; true"
    )
    driver, *paths = text.splitlines()
    assert driver == "serial", f"the driver of {device.bdf} is {driver}"
    return [path.rpartition("/")[2] for path in paths]


async def loopback(vm: Vm, tty: str, size: int = LOOPBACK_BYTES) -> dict[str, int]:
    """Push bytes through a port's loopback: they come back as they were, by interrupts."""
    found = numbers(await vm.console.run(f"loopback {tty} {size}", 5 * PATIENCE))
    assert found["bytes"] == size
    assert found["interrupts"] > 0, f"{tty} was polled: {found}"
    return found


async def dma(vm: Vm, device: Device, pages: int = RING_PAGES) -> dict[str, int]:
    """Have the engine write so many pages, which the guest then looks at."""
    found = numbers(await vm.console.run(f"dma {device.bdf} {pages}", PATIENCE))
    assert found["pages"] == pages
    return found


@dataclass(frozen=True, slots=True)
class Ring:
    """An area of guest memory that an engine writes to all the time.

    Attributes:
        device: the engine.
        base: where the area is.
        pages: its size.
    """

    device: Device
    base: int
    pages: int

    @classmethod
    async def start(
        cls, vm: Vm, device: Device, pattern: Pattern, pages: int = RING_PAGES, rate: int = RING_RATE
    ) -> "Ring":
        """Have the guest start the engine, and watch what it writes."""
        found = numbers(await vm.console.run(f"ring {device.bdf} {pages} {rate} {pattern:d}"))
        ring = cls(device, found["base"], found["pages"])
        await until(lambda: ring.watched(vm), lambda seen: seen["written"] == pages, PATIENCE)
        return ring

    async def watched(self, vm: Vm) -> dict[str, int]:
        """What the guest's watcher has seen so far."""
        return numbers(await vm.console.run(f"cat /tmp/ring-{self.device.bdf}"))

    async def goes_on(self, vm: Vm, beyond: int) -> dict[str, int]:
        """Wait until the engine has written more than `beyond` times and the watcher has looked once more."""
        reached = await until(lambda: self.watched(vm), lambda seen: seen["seq"] > beyond, PATIENCE)
        seen: dict[str, int] = await until(
            lambda: self.watched(vm), lambda now: now["rounds"] > reached["rounds"] + 1, PATIENCE
        )
        assert seen["failed"] == 0, f"the engine could not write: {seen}"
        return seen

    def last_writes(self, daemon: DaemonProcess) -> dict[int, bytes]:
        """What the engine has to have written last to each page of the area, by its own account: by address."""
        told = daemon.ask("inspect", device=self.device.id, what="writes")
        assert told["next"] is None
        pages = {}
        for iova, seq, size in told["writes"]:
            stamp = Stamp(told["device_id"], seq, iova).build()
            pages[iova] = stamp + bytes([seq & 0xFF]) * (size - len(stamp))
        return {iova: page for iova, page in pages.items() if 0 <= iova - self.base < self.pages * PAGE}

    async def stale(self, vm: Vm, written: Mapping[int, bytes]) -> list[int]:
        """Which of these pages hold something else in this QEMU."""
        memory = await vm.physical(self.base, self.pages * PAGE)
        return [
            iova
            for iova, page in written.items()
            if memory[iova - self.base : iova - self.base + len(page)] != page
        ]


def differing_pages(one: bytes, other: bytes) -> list[int]:
    """Which pages are not the same."""
    assert len(one) == len(other)
    return [at // PAGE for at in range(0, len(one), PAGE) if one[at : at + PAGE] != other[at : at + PAGE]]


async def is_gone(vm: Vm, device: Device) -> None:
    """Wait until the guest has no such device."""
    await vm.console.run(f"while test -e /sys/bus/pci/devices/{device.bdf}; do sleep 0.1; done", PATIENCE)
