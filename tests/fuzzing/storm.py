# SPDX-License-Identifier: MIT
"""No dirty page is lost, however the effects of two processes' calls come after one another.

A migrating client is part of the storm: whenever a harvest returns, it copies the pages that were reported. When all is
quiet, its copy must be what the guest's memory is.
"""

import random
import struct
from typing import Any, Final

from tests.fuzzing.client import LAYOUT, machine_spec
from tests.fuzzing.model.oracle import Command
from tests.fuzzing.watch import Watcher
from tests.fuzzing.world import COMMAND
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File
from vfioemu.core.base.profile import Quirks
from vfioemu.core.machine import Machine
from vfioemu.devices.registry import load_models
from vfioemu.testing.holdings import holdings
from vfioemu.testing.process import Process
from vfioemu.testing.scheduler import Task
from vfioemu.uapi import constants as c

PAGE: Final = 4096
BASE, PAGES = 0x100000, 96
OTHER, OTHER_PAGES = 0x900000, 8
EXPECTED: Final = frozenset({"EINVAL", "EEXIST"})
"""What calls that overlap may fail with: the second mapping comes and goes."""


class Storm:
    """Two processes with the same container and devices, whose calls overlap.

    Args:
        rng: decides what is called, and whose turn it is.
        quirks: of the machine.

    Attributes:
        errors: what calls have failed with.
    """

    def __init__(self, rng: random.Random, quirks: Quirks = "recorded") -> None:
        self.rng = rng
        self.machine = Machine(machine_spec(LAYOUT, quirks, 100), load_models())
        self.scheduler = Watcher()
        first, second = (Process(self.machine, scheduler=self.scheduler, pid=pid) for pid in (1, 2))
        self.processes = [first, second]
        self.guest = first.memory.allocate(PAGES * PAGE)
        self.fds = {first: self._set_up(first)}
        self.fds[second] = {name: first.send(fd, second) for name, fd in self.fds[first].items()}
        self.copy = bytearray(PAGES * PAGE)
        self.errors: set[str] = set()
        self._tasks: list[Task[Any]] = []

    def _set_up(self, process: Process) -> dict[str, int]:
        container = process.open("/dev/vfio/vfio").ret
        fds = {"container": container}
        for number in (0, 1):
            group = process.open(f"/dev/vfio/{number}").ret
            self._must(process, group, c.VFIO_GROUP_SET_CONTAINER, struct.pack("<i", container))
            process.ioctl(container, c.VFIO_SET_IOMMU, c.VFIO_TYPE1v2_IOMMU)
            fds[f"group{number}"] = group
            name = f"device-{number}\0".encode()
            fds[f"device{number}"] = self._must(process, group, c.VFIO_GROUP_GET_DEVICE_FD, name)
        for iova, npages in ((BASE, PAGES), (OTHER, OTHER_PAGES)):
            payload = struct.pack("<IIQQQ", 32, 3, self.guest, iova, npages * PAGE)
            self._must(process, container, c.VFIO_IOMMU_MAP_DMA, payload)
        self._must(process, container, c.VFIO_IOMMU_DIRTY_PAGES, struct.pack("<II", 8, 1))
        return fds

    def _must(self, process: Process, fd: int, cmd: int, payload: bytes) -> int:
        result = process.ioctl(fd, cmd, self._put(process, payload))
        assert result.err is None, f"setting up: {result.err}"
        return result.ret

    @staticmethod
    def _put(process: Process, data: bytes) -> int:
        """Each call has its own argument."""
        address = process.memory.allocate(PAGE)
        process.memory.poke(address, data)
        return address

    # --- what is started ---

    def _ioctl(self, process: Process, cmd: int, payload: bytes) -> Task[int]:
        task = process.start_ioctl(self.fds[process]["container"], cmd, self._put(process, payload))
        self._tasks.append(task)
        return task

    def _command(self, process: Process, *words: int) -> None:
        at = self._put(process, COMMAND.pack(*words, *[0] * (8 - len(words))))
        device = process.fds[self.fds[process][self.rng.choice(["device0", "device1"])]].what
        if not isinstance(device, File):
            raise TypeError("not a device")
        self._tasks.append(process.start(device.pwrite(process.caller, at, COMMAND.size, 0), "command"))

    def _write(self, process: Process) -> None:
        page = self.rng.randrange(PAGES)
        offset, size = self.rng.randrange(PAGE), self.rng.choice([1, PAGE, 2 * PAGE])
        size = min(size, (PAGES - page) * PAGE - offset)
        self._command(process, Command.RW, BASE + page * PAGE + offset, size, 1, self.rng.randrange(256))

    def _pin(self, process: Process) -> None:
        iova = self.rng.choice([BASE, OTHER]) + self.rng.randrange(OTHER_PAGES) * PAGE
        self._command(
            process,
            self.rng.choice([Command.PIN, Command.PIN, Command.UNPIN]),
            iova,
            self.rng.randint(1, 3),
            3,
        )

    def _harvest(self, process: Process) -> None:
        before = self.rng.choice([0, 0, 5, 64])
        size = 8 * -(-(PAGES + before) // 64)
        bitmap = process.memory.allocate(PAGE)
        get = (BASE - before * PAGE, (PAGES + before) * PAGE, PAGE, size, bitmap)
        task = self._ioctl(process, c.VFIO_IOMMU_DIRTY_PAGES, struct.pack("<IIQQQQQ", 48, 4, *get))
        task.at_end.append(lambda: self._transfer(process, bitmap, before))

    def _transfer(self, process: Process, bitmap: int, before: int) -> None:
        """Copy what a harvest has reported."""
        reported = int.from_bytes(process.memory.peek(bitmap, PAGE), "little") >> before
        for page in range(PAGES):
            if reported >> page & 1:
                content = self.processes[0].memory.peek(self.guest + page * PAGE, PAGE)
                self.copy[page * PAGE : (page + 1) * PAGE] = content

    def _remap(self, process: Process) -> None:
        unmap = struct.pack("<IIQQ", 24, 0, OTHER, OTHER_PAGES * PAGE)
        self._ioctl(process, c.VFIO_IOMMU_UNMAP_DMA, unmap)
        remap = struct.pack("<IIQQQ", 32, 3, self.guest, OTHER, OTHER_PAGES * PAGE)
        self._ioctl(process, c.VFIO_IOMMU_MAP_DMA, remap)

    # --- rounds ---

    def round(self) -> list[int]:
        """Let some calls overlap, and harvest once more; returns the pages of which the copy is stale."""
        calls = [self._write] * 4 + [self._harvest] * 3 + [self._pin] * 2 + [self._remap]
        for call in self.rng.choices(calls, k=self.rng.randint(3, 9)):
            call(self.rng.choice(self.processes))
        self._finish()
        self._harvest(self.processes[0])
        self._finish()
        guest = self.processes[0].memory.peek(self.guest, PAGES * PAGE)
        places = [slice(page * PAGE, (page + 1) * PAGE) for page in range(PAGES)]
        return [page for page, place in enumerate(places) if guest[place] != self.copy[place]]

    def end(self) -> None:
        """Both processes die, and nothing may be left."""
        for process in self.processes:
            process.exit()
        assert not any(process.locked_pages for process in self.processes), "locked pages are left"
        left = {name: value for name, value in holdings(self.machine).items() if value}
        assert not left, f"left behind: {left}"

    def _finish(self) -> None:
        self.scheduler.choose = self.rng.choice
        for task in self._tasks:
            try:
                self.scheduler.run(task)
            except IoctlError as error:
                self.errors.add(error.name)
        self.scheduler.choose = None
        self._tasks = []
        held = self.scheduler.held()
        assert not held, f"locks that are held between calls: {', '.join(held)}"
