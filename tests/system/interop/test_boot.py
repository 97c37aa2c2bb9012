# SPDX-License-Identifier: MIT
"""A guest boots on emulated devices, and its own drivers and programs use them."""

import time

from tests.system.interop.checks import dma, is_gone, loopback, numbers, quiet, serial_ports
from tests.system.interop.guestimage import GuestImage
from tests.system.interop.launch import private, properties
from tests.system.interop.machine import PATIENCE, Device, Vm, qemu_process
from tests.system.interop.programs import Qemu
from tests.system.interop.report import Entry

MTTY = Device(model="mtty", group=1, slot=0x10)
ENGINE = Device(model="dma-engine", group=2, slot=0x11)


async def _port(vm: Vm) -> str:
    (tty,) = await serial_ports(vm, MTTY)
    return tty


async def test_boot(any_qemu: Qemu, guest: GuestImage, entry: Entry) -> None:
    """`vfioemu run --device mtty --device dma-engine`: boot, drivers, stop/cont, unplug and replug."""
    devices = [MTTY, ENGINE]
    begun = time.monotonic()
    async with qemu_process(any_qemu, guest, private(devices), properties(devices)) as vm:
        await vm.console.booted(PATIENCE)
        entry.note(f"boots in {time.monotonic() - begun:.0f} s")
        assert await vm.console.run("uname -r") == guest.release

        seen = await loopback(vm, await _port(vm))
        entry.note(f"serial loopback: 64 KiB, {seen['interrupts']} interrupts")
        seen = await dma(vm, ENGINE)
        entry.note(f"DMA: {seen['pages']} pages")

        await vm.qmp("stop")
        assert await vm.status() == "paused"
        await vm.qmp("cont")
        await loopback(vm, await _port(vm), 4096)
        await dma(vm, ENGINE)
        entry.note("stop, cont")

        await vm.qmp("device_del", id=MTTY.id)
        await vm.qmp.event("DEVICE_DELETED", device=MTTY.id)
        await is_gone(vm, MTTY)
        path = vm.environment("VFIOEMU_SYSFSDEV")
        await vm.qmp("device_add", driver="vfio-pci", id=MTTY.id, addr=hex(MTTY.slot), sysfsdev=path)
        seen = await loopback(vm, await _port(vm))
        entry.note(f"unplugged and replugged: 64 KiB, {seen['interrupts']} interrupts")
        assert await vm.quit() == 0
        quiet(vm)


async def test_guest_vfio(any_qemu: Qemu, guest: GuestImage, entry: Entry) -> None:
    """The guest's own vfio-pci behind its intel-iommu: DMA, every vector of MSI and MSI-X."""
    async with qemu_process(
        any_qemu,
        guest,
        private([ENGINE]),
        ["intel-iommu,caching-mode=on", *properties([ENGINE])],
        machine="q35",
        append="intel_iommu=on iommu=nopt",
    ) as vm:
        await vm.console.booted(PATIENCE)
        await vm.console.run(f"echo vfio-pci >/sys/bus/pci/devices/{ENGINE.bdf}/driver_override")
        await vm.console.run(f"echo {ENGINE.bdf} >/sys/bus/pci/drivers_probe")
        seen = numbers(await vm.console.run(f"msix {ENGINE.bdf}"))
        entry.note(f"{seen['msi']} MSI and {seen['msix']} MSI-X vectors, {seen['pages']} pages")
        assert await vm.quit() == 0
        quiet(vm)
