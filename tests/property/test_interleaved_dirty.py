# SPDX-License-Identifier: MIT
"""No dirty page is lost, however the effects of two processes' calls come after one another.

A migrating client is part of the storm: whenever a harvest returns, it copies the pages that were reported. When all is
quiet, its copy must be what the guest's memory is.
"""

import random
import struct

import pytest

from vfioemu.core.effects import DmaWrite
from vfioemu.core.errors import IoctlError
from vfioemu.core.machine import Machine
from vfioemu.core.type1 import external
from vfioemu.devices.registry import load_models
from vfioemu.testing.client import LAYOUT, machine_spec
from vfioemu.testing.holdings import holdings
from vfioemu.testing.process import Process
from vfioemu.testing.scheduler import Scheduler
from vfioemu.uapi import constants as c

PAGE = 4096
BASE, PAGES = 0x100000, 96
OTHER, OTHER_PAGES = 0x900000, 8
COMMAND = struct.Struct("<8Q")
PIN, UNPIN, RW = 1, 2, 3


class Storm:
    """Two processes with the same container and devices, whose calls overlap."""

    def __init__(self, seed, quirks="recorded"):
        self.rng = random.Random(seed)
        self.machine = Machine(machine_spec(LAYOUT, quirks, 100), load_models())
        self.scheduler = Scheduler()
        first, second = (Process(self.machine, scheduler=self.scheduler, pid=pid) for pid in (1, 2))
        self.processes = [first, second]
        self.guest = first.memory.allocate(PAGES * PAGE)
        self.fds = {first: self.set_up(first)}
        self.fds[second] = {name: first.send(fd, second) for name, fd in self.fds[first].items()}
        self.copy = bytearray(PAGES * PAGE)
        self.tasks = []
        self.errors = set()

    def set_up(self, process):
        container = process.open("/dev/vfio/vfio").ret
        fds = {"container": container}
        for number in (0, 1):
            group = process.open(f"/dev/vfio/{number}").ret
            at = self.put(process, struct.pack("<i", container))
            assert process.ioctl(group, c.VFIO_GROUP_SET_CONTAINER, at).ret == 0
            process.ioctl(container, c.VFIO_SET_IOMMU, c.VFIO_TYPE1v2_IOMMU)
            at = self.put(process, f"device-{number}\0".encode())
            fds[f"group{number}"] = group
            fds[f"device{number}"] = process.ioctl(group, c.VFIO_GROUP_GET_DEVICE_FD, at).ret
        for iova, npages in ((BASE, PAGES), (OTHER, OTHER_PAGES)):
            at = self.put(process, struct.pack("<IIQQQ", 32, 3, self.guest, iova, npages * PAGE))
            assert process.ioctl(container, c.VFIO_IOMMU_MAP_DMA, at).ret == 0
        at = self.put(process, struct.pack("<II", 8, 1))
        assert process.ioctl(container, c.VFIO_IOMMU_DIRTY_PAGES, at).ret == 0
        return fds

    @staticmethod
    def put(process, data) -> int:
        """Each call has its own argument."""
        address = process.memory.allocate(PAGE)
        process.memory.poke(address, data)
        return address

    # --- what is started ---

    def ioctl(self, process, cmd, payload):
        at = self.put(process, payload)
        task = process.start_ioctl(self.fds[process]["container"], cmd, at)
        self.tasks.append(task)
        return task

    def command(self, process, *words):
        at = self.put(process, COMMAND.pack(*words, *[0] * (8 - len(words))))
        device = process.fds[self.fds[process][self.rng.choice(["device0", "device1"])]].what
        self.tasks.append(process.start(device.pwrite(process.caller, at, COMMAND.size, 0), "command"))

    def write(self, process):
        page = self.rng.randrange(PAGES)
        offset, size = self.rng.randrange(PAGE), self.rng.choice([1, PAGE, 2 * PAGE])
        size = min(size, (PAGES - page) * PAGE - offset)
        self.command(process, RW, BASE + page * PAGE + offset, size, 1, self.rng.randrange(256))

    def pin(self, process):
        iova = self.rng.choice([BASE, OTHER]) + self.rng.randrange(OTHER_PAGES) * PAGE
        self.command(process, self.rng.choice([PIN, PIN, UNPIN]), iova, self.rng.randint(1, 3), 3)

    def harvest(self, process):
        before = self.rng.choice([0, 0, 5, 64])
        size = 8 * -(-(PAGES + before) // 64)
        bitmap = process.memory.allocate(PAGE)
        get = (BASE - before * PAGE, (PAGES + before) * PAGE, PAGE, size, bitmap)
        task = self.ioctl(process, c.VFIO_IOMMU_DIRTY_PAGES, struct.pack("<IIQQQQQ", 48, 4, *get))
        task.at_end.append(lambda: self.transfer(process, bitmap, before))

    def transfer(self, process, bitmap, before):
        """Copy what a harvest has reported."""
        reported = int.from_bytes(process.memory.peek(bitmap, PAGE), "little") >> before
        for page in range(PAGES):
            if reported >> page & 1:
                content = self.processes[0].memory.peek(self.guest + page * PAGE, PAGE)
                self.copy[page * PAGE : (page + 1) * PAGE] = content

    def remap(self, process):
        unmap = struct.pack("<IIQQ", 24, 0, OTHER, OTHER_PAGES * PAGE)
        self.ioctl(process, c.VFIO_IOMMU_UNMAP_DMA, unmap)
        remap = struct.pack("<IIQQQ", 32, 3, self.guest, OTHER, OTHER_PAGES * PAGE)
        self.ioctl(process, c.VFIO_IOMMU_MAP_DMA, remap)

    # --- rounds ---

    def round(self) -> list[int]:
        """Let some calls overlap, and harvest once more; returns the pages of which the copy is stale."""
        calls = [self.write] * 4 + [self.harvest] * 3 + [self.pin] * 2 + [self.remap]
        for call in self.rng.choices(calls, k=self.rng.randint(3, 9)):
            call(self.rng.choice(self.processes))
        self.finish()
        self.harvest(self.processes[0])
        self.finish()
        guest = self.processes[0].memory.peek(self.guest, PAGES * PAGE)
        places = [slice(page * PAGE, (page + 1) * PAGE) for page in range(PAGES)]
        return [page for page, place in enumerate(places) if guest[place] != self.copy[place]]

    def finish(self):
        self.scheduler.choose = self.rng.choice
        for task in self.tasks:
            try:
                self.scheduler.run(task)
            except IoctlError as error:
                self.errors.add(error.name)
        self.scheduler.choose = None
        self.tasks = []

    def end(self):
        for process in self.processes:
            process.exit()
        assert not any(process.locked_pages for process in self.processes)
        assert not {name: value for name, value in holdings(self.machine).items() if value}


@pytest.mark.parametrize("quirks", ["recorded", "clean"])
@pytest.mark.parametrize("seed", range(6))
def test_copy_of_reported_pages_is_the_guest(seed, quirks):
    storm = Storm(seed, quirks)

    stale = [storm.round() for _ in range(40)]

    assert not any(stale), stale
    assert storm.errors <= {"EINVAL", "EEXIST"}
    storm.end()


def mark_too_early(iommu, device, iova, data):
    """What dma_write() must not be: marks first, and holds no lock."""
    del device
    dma = iommu.map.find(iova, 1)
    external._mark(iommu, dma, iova - dma.iova, len(data))
    yield DmaWrite(dma.space, dma.vaddr + iova - dma.iova, data)


def test_mark_before_the_write_is_found(monkeypatch):
    monkeypatch.setattr(external, "dma_write", mark_too_early)

    assert any(storm.round() for storm in map(Storm, range(20)) for _ in range(20))
