# SPDX-License-Identifier: MIT
"""How long a QEMU takes to boot Linux to its shell: with an emulated device under the shim, against no device and no shim.

The QEMU and the guest are the interop suite's (tests/system/interop/fetch gets them). TCG: most of the time is the guest's.
"""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

import trio

from bench.harness import Row, Unavailable, compare, interleave
from tests.system.interop.guestimage import GuestImage, guest_image
from tests.system.interop.launch import private, properties
from tests.system.interop.machine import PATIENCE, Device, qemu_process
from tests.system.interop.programs import VERSIONS, MissingError, Qemu, qemu

DEVICES: Final = {
    "a mtty": [Device(model="mtty", group=1, slot=0x10)],
    "a dma-engine": [Device(model="dma-engine", group=2, slot=0x11)],
}


def run() -> Iterator[Row]:
    """Yield a row for each device."""
    try:
        program, guest = _newest(), guest_image()
    except MissingError as missing:
        raise Unavailable(str(missing)) from None
    runs = {"": partial(trio.run, _boot, program, guest, ())}
    for name, devices in DEVICES.items():
        runs[name] = partial(trio.run, _boot, program, guest, devices)
    times = interleave(runs)
    for name in DEVICES:
        yield compare(
            "qemu",
            f"QEMU {program.version.split()[0]} boots with {name} vs without any",
            times[name],
            times[""],
            goal=None,
        )


def _newest() -> Qemu:
    for generation in reversed(VERSIONS[1:]):
        try:
            return qemu(generation)
        except MissingError:
            continue
    return qemu(VERSIONS[0])


async def _boot(program: Qemu, guest: GuestImage, devices: Sequence[Device]) -> float:
    begun = time.perf_counter()
    launcher = private(devices) if devices else []
    async with qemu_process(program, guest, launcher, properties(devices)) as vm:
        await vm.console.booted(PATIENCE)
        return time.perf_counter() - begun
