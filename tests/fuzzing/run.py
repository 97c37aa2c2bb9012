# SPDX-License-Identifier: MIT
"""One run of the fuzzer: a seed decides everything that happens in it.

A run is a walk of sensible calls with bad ones among them: any bytes to any ioctl, reads and writes with any address.
After each input

* the errno is one that the registry lists for that call, and for containers and groups exactly the model's;
* memory, dirty bitmaps, pins, locked pages, gauges and open fds are what the model says.

Then a fault is injected into some effect of one more call, both processes die, and nothing may be left; and a client
that does everything right, in a group of its own, is served as if nothing had happened.
"""

import errno
import random
import struct
from collections import Counter
from typing import Final

from tests.fuzzing import model
from tests.fuzzing.arguments import U64, Arguments, is_avoided
from tests.fuzzing.checks import HONEST, Checks, file_errnos, kind_of, name_of
from tests.fuzzing.client import ARGUMENT_SIZE, LAYOUT, VFIO_PCI, Client, Layout
from tests.fuzzing.expect import Expectation
from tests.fuzzing.model import PAGE
from tests.fuzzing.walk import Walk
from tests.fuzzing.world import COMMAND, Handle, World
from vfioemu.core.base.profile import Quirks
from vfioemu.testing.process import Result
from vfioemu.uapi import constants as c
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import IOCTLS, UNSERVED, Ioctl, lookup

INPUTS: Final = 120
"""Inputs of one run."""
FUZZED: Final[Layout] = (*LAYOUT, (VFIO_PCI, True), ("migspc", False), ("migsc", False), ("log", False))

QUIRKS: Final[tuple[Quirks, ...]] = ("recorded", "recorded", "clean")
_INJECTED: Final = (errno.EFAULT, errno.EBADF, errno.EMFILE)
_GET_DEVICE: Final = "VFIO_GROUP_GET_DEVICE_FD"
_WEIGHTS: Final = {
    "VFIO_GET_API_VERSION": 1,
    "VFIO_CHECK_EXTENSION": 1,
    "VFIO_IOMMU_MAP_DMA": 9,
    "VFIO_IOMMU_UNMAP_DMA": 9,
    "VFIO_IOMMU_DIRTY_PAGES": 9,
    "VFIO_GROUP_UNSET_CONTAINER": 1,
    "VFIO_DEVICE_RESET": 1,
    "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO": 1,
    "VFIO_DEVICE_PCI_HOT_RESET": 1,
    "VFIO_DEVICE_FEATURE": 15,
}
"""How often a call is made, against 3 for one that is not listed."""
_NUMBERS: Final = tuple({row.number for row in IOCTLS} | {row.number for row in UNSERVED})


class Run(Checks):
    """A fuzzing run.

    Args:
        seed: decides all.
        calls: counts what was answered with what, if anybody wants to know.
    """

    def __init__(self, seed: int, calls: Counter[tuple[str, str]] | None = None) -> None:
        self.rng = random.Random(seed)
        super().__init__(
            World(self.rng.choice(QUIRKS), layout=FUZZED + HONEST), Counter() if calls is None else calls
        )
        self.walk = Walk(self.world, self.rng, range(len(FUZZED)))
        self.arguments = Arguments(self.walk, self.rng)
        for client in self.world.clients:
            self.add_foreign(client)

    def play(self, inputs: int = INPUTS) -> None:
        """Do all of it; AssertionError tells what is wrong."""
        for _ in range(3):
            self.walk.set_up()
        for _ in range(inputs):
            kind = self.rng.random()
            if kind < 0.4:
                self.walk.step()
            elif kind < 0.45:
                self._migrate()
            elif kind < 0.9:
                self._bad_ioctl()
            else:
                self._bad_transfer()
            for client in self.world.clients:
                self.arguments.clear(client)
            self.world.check()
            self._adopt_processes()
            self.check_fds()
        self._injected_fault()
        self.everybody_dies()
        self.honest_client()

    def _adopt_processes(self) -> None:
        """The walk may have replaced a process."""
        for client in self.world.clients:
            if client not in self._foreign:
                self.add_foreign(client)

    # --- inputs ---

    def _bad_ioctl(self) -> None:
        if (handle := self._any_handle()) is None:
            return
        row, cmd = self._command(handle)
        arg = self._argument(handle, row)
        if row is not None and row.name == "VFIO_IOMMU_MAP_DMA" and self._is_avoided(handle.client, arg):
            return
        expectation = Expectation(self.world, handle, arg)
        expected = expectation.answer(row.name if row is not None else None)
        before = set(handle.client.process.fds)
        result = handle.client.process.ioctl(handle.number, cmd, arg)
        self._count(handle, row.name if row else "unknown", result)
        self._check(handle, cmd, arg, result)
        if expected is not None:
            same = Result(1) if row is not None and row.name == _GET_DEVICE and result.err is None else result
            assert same == expected, (
                f"{name_of(_kind(handle), cmd)}: {result.err or result.ret}, not {expected}"
            )
        if expectation.bitmap is not None:
            expectation.bitmap.check()
        self.adopt(handle, set(handle.client.process.fds) - before)

    def _bad_transfer(self) -> None:
        """Read, write, map or poll anything."""
        if (handle := self._any_handle()) is None:
            return
        rng, process, number = self.rng, handle.client.process, handle.number
        address = self.arguments.place(handle.client, rng.randbytes(64))
        size = rng.choice([0, 1, 4, 8, 64, PAGE, 2 * ARGUMENT_SIZE])
        offset = rng.choice([0, 0x1000, 7 << 40, 8 << 40, 2 << 40, self.arguments.number(), 4])
        if handle.thing in self.world.oracles and (offset, size) == (0, COMMAND.size):
            return  # a command; the walk gives those
        what = rng.choice(["read", "write", "pread", "pwrite", "mmap", "poll"])
        if what == "poll":
            assert 0 <= process.poll(number) < 8
            return
        if what in ("read", "write"):
            if handle.thing in self.world.oracles and size == COMMAND.size:
                return
            result = getattr(process, what)(number, address, size)
        elif what == "mmap":
            result = process.mmap(number, PAGE, "rw", offset & (U64 >> 1))
        else:
            result = getattr(process, what)(number, address, size, offset)
        self._count(handle, what, result)
        kind = _kind(handle)
        assert result.err is None or result.err in file_errnos(kind, what), f"{what} of {kind}: {result.err}"

    def _injected_fault(self) -> None:
        """One more call, an effect of which fails."""
        if (handle := self._any_handle()) is None:
            return
        process = handle.client.process
        row, cmd = self._command(handle)
        arg = self._argument(handle, row)
        if row is not None and row.name == "VFIO_IOMMU_MAP_DMA" and self._is_avoided(handle.client, arg):
            return
        process.inject(self.rng.randint(1, 4), self.rng.choice(_INJECTED))
        result = process.ioctl(handle.number, cmd, arg)
        if process.heal():
            self._check(handle, cmd, arg, result)
        self._count(handle, "fault", result)

    def _migrate(self) -> None:
        """Ask a device for a migration state that has a data fd, so that there are some."""
        devices = [h for h in self.world.handles if isinstance(h.thing, model.Device)]
        if not devices:
            return
        handle = self.rng.choice(devices)
        process = handle.client.process
        if self.rng.random() < 0.3:
            process.ioctl(handle.number, c.VFIO_DEVICE_RESET, 0)
        state = self.rng.choice([3, 4, 6, 2])
        flags = c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
        process.memory.poke(handle.client.argument, struct.pack("<IIIi", 16, flags, state, -1))
        before = set(process.fds)
        self._count(
            handle, "state", process.ioctl(handle.number, c.VFIO_DEVICE_FEATURE, handle.client.argument)
        )
        self.adopt(handle, set(process.fds) - before)

    # --- choosing ---

    def _any_handle(self) -> Handle | None:
        """An fd, of each kind as often as of any other."""
        by_kind: dict[FdKind, list[Handle]] = {}
        for handle in self.world.handles:
            by_kind.setdefault(_kind(handle), []).append(handle)
        return self.rng.choice(self.rng.choice(list(by_kind.values()))) if by_kind else None

    def _command(self, handle: Handle) -> tuple[Ioctl | None, int]:
        kind = _kind(handle)
        rows = [row for row in IOCTLS if row.kind is kind]
        choice = self.rng.random()
        if choice < 0.85:
            row = self.rng.choices(rows, [_WEIGHTS.get(row.name, 3) for row in rows])[0]
            return row, row.number
        cmd = self.rng.choice(_NUMBERS) if choice < 0.95 else self.rng.getrandbits(32)
        return lookup(kind, cmd), cmd

    def _argument(self, handle: Handle, row: Ioctl | None) -> int:
        if row is not None and row.argument != "pointer":
            return self.rng.choice([self.arguments.number(), self.rng.randrange(12), 3])
        payload = self.arguments.payload(row.name if row else "", handle)
        return self.arguments.place(handle.client, payload)

    def _is_avoided(self, client: Client, arg: int) -> bool:
        data = client.process.memory.read(arg, 32)
        return len(data) == 32 and is_avoided(data)

    def _check(self, handle: Handle, cmd: int, arg: int, result: Result) -> None:
        flags = int.from_bytes(handle.client.process.memory.read(arg + 4, 4), "little")
        self.check_errno(_kind(handle), cmd, flags, result)

    def _count(self, handle: Handle, what: str, result: Result) -> None:
        self.count(f"{_kind(handle)} {what}", result)


def _kind(handle: Handle) -> FdKind:
    return kind_of(handle.client.process, handle.number)
