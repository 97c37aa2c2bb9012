# SPDX-License-Identifier: MIT
"""Well-formed pieces of programs: what a client does when it means well. The mutator strings them together.

Registers by convention, so that phrases fit each other: container 0, group n 16+n, device n 48+n, data fds 80 to 83,
eventfd 90; the buffers that every client has.
"""

import random
import struct
from collections.abc import Callable, Sequence
from typing import Final

from tests.fuzzing.layout import PLAYED
from tests.fuzzing.model import PAGE
from tests.fuzzing.model.oracle import LOGGING, Command
from tests.fuzzing.program import Link, Op, Place, Step, Transfer
from tests.fuzzing.registers import BITMAP, DATA, LINKED_FD
from vfioemu.abi.dma_engine import Register
from vfioemu.uapi import constants as c
from vfioemu.uapi.registry import IOCTLS

CONTAINER, GROUP, DEVICE, DATA_FD, EVENTFD = 0, 16, 48, 80, 90
ROWS: Final = {row.name: number for number, row in enumerate(IOCTLS)}
STATES: Final = range(9)
FEATURED: Final = frozenset(number for number, (variant, _) in enumerate(PLAYED) if variant in LOGGING)
"""Groups of the oracle devices that have features."""
LOGGED: Final = (0, 64 * PAGE)
"""The range that phrases log."""
_SET: Final = c.VFIO_DEVICE_FEATURE_SET
_GET: Final = c.VFIO_DEVICE_FEATURE_GET


def ioctl(name: str, fd: int, payload: bytes, *links: Link, new: int = 127) -> Step:
    """A call of the registry."""
    return Step(Op.IOCTL, (0, fd, ROWS[name], Place.PLAIN, new), payload, links)


class Phrases:
    """Makes phrases.

    Args:
        rng: decides.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.group = 0

    def any(self, steps: Sequence[Step] = ()) -> list[Step]:
        """A phrase that goes on where these steps end: mostly about a device that they open."""
        groups = [step.numbers[2] % len(PLAYED) for step in steps if step.op is Op.GROUP]
        if not groups or not any(step.op is Op.CONTAINER for step in steps):
            self.group = self.rng.randrange(len(PLAYED))
            return self.set_up()
        self.group = self.rng.choice(groups)
        phrase = self.rng.choices(_PHRASES, _WEIGHTS)[0]
        if phrase is Phrases.add_group:
            self.group = self.rng.randrange(len(PLAYED))
        elif phrase in _OF_FEATURES and (able := [group for group in groups if group in FEATURED]):
            self.group = self.rng.choice(able)
        made = phrase(self)
        if self.rng.random() < 0.1:
            self._displace(made)
        return made

    def _displace(self, steps: list[Step]) -> None:
        """Put the argument of a call where it should not be."""
        calls = [at for at, step in enumerate(steps) if step.op is Op.IOCTL]
        if calls:
            at = self.rng.choice(calls)
            numbers = (*steps[at].numbers[:3], self.rng.randrange(1, len(Place)), steps[at].numbers[4])
            steps[at] = steps[at]._replace(numbers=numbers)

    # --- numbers ---

    def _page(self) -> int:
        return self.rng.choice([0, 0, 0, 1, 7, 16, 40, self.rng.randrange(100)])

    def _npages(self) -> int:
        return self.rng.choice([1, 1, 2, 8, 24, 64])

    def _device(self) -> int:
        return DEVICE + self.group

    # --- set up ---

    def set_up(self) -> list[Step]:
        """All that it takes to get at a device."""
        group, kind = self.group, self.rng.choice([3, 3, 3, 3, 1])
        return [
            Step(Op.CONTAINER, (0, CONTAINER)),
            Step(Op.GROUP, (0, GROUP + group, group)),
            ioctl("VFIO_GROUP_SET_CONTAINER", GROUP + group, bytes(4), Link(0, LINKED_FD + CONTAINER)),
            ioctl("VFIO_SET_IOMMU", CONTAINER, struct.pack("<Q", kind)),
            Step(Op.DEVICE, (0, DEVICE + group, GROUP + group, group)),
        ]

    def add_group(self) -> list[Step]:
        """One more group in the container."""
        return [step for step in self.set_up() if step.op is not Op.CONTAINER]

    def leave(self) -> list[Step]:
        """Close a device, and take its group out."""
        return [
            Step(Op.CLOSE, (0, self._device())),
            ioctl("VFIO_GROUP_UNSET_CONTAINER", GROUP + self.group, b""),
        ]

    # --- mappings ---

    def map(self) -> list[Step]:
        """Map some pages."""
        flags = self.rng.choice([3, 3, 3, 1, 2, 4])
        payload = struct.pack("<IIQQQ", 32, flags, 0, self._page() * PAGE, self._npages() * PAGE)
        return [ioctl("VFIO_IOMMU_MAP_DMA", CONTAINER, payload, Link(8, DATA, self.rng.randrange(16) * PAGE))]

    def unmap(self) -> list[Step]:
        """Unmap, with dirty bits or without."""
        flags = self.rng.choice([0, 0, 1, 1, 2, 4])
        where = (0, 0) if flags == 2 else (self._page() * PAGE, self._npages() * PAGE)
        payload = struct.pack("<IIQQQQQ", 48, flags, *where, PAGE, 16, 0)
        return [ioctl("VFIO_IOMMU_UNMAP_DMA", CONTAINER, payload, Link(40, BITMAP))]

    def track(self) -> list[Step]:
        """Dirty tracking on or off."""
        return [
            ioctl("VFIO_IOMMU_DIRTY_PAGES", CONTAINER, struct.pack("<II", 8, self.rng.choice([1, 1, 1, 2])))
        ]

    def harvest(self) -> list[Step]:
        """Get dirty bits."""
        page = self._page()
        npages = self.rng.choice([128 - page, 128, 64, self._npages()])
        payload = struct.pack("<IIQQQQQ", 48, 4, page * PAGE, npages * PAGE, PAGE, -(-npages // 64) * 8, 0)
        return [ioctl("VFIO_IOMMU_DIRTY_PAGES", CONTAINER, payload, Link(40, BITMAP))]

    # --- a device's own doings ---

    def command(self) -> list[Step]:
        """Tell an oracle device what to do."""
        rng, iova = self.rng, self._page() * PAGE
        number, *words = rng.choice(
            [
                (Command.PIN, iova, self._npages(), rng.choice([3, 3, 1, 2])),
                (Command.UNPIN, iova, self._npages()),
                (
                    Command.RW,
                    iova + rng.randrange(PAGE),
                    rng.choice([1, 64, PAGE, 3 * PAGE]),
                    1,
                    rng.randrange(256),
                ),
                (
                    Command.RW,
                    iova + rng.randrange(PAGE),
                    rng.choice([1, 64, PAGE, 3 * PAGE]),
                    1,
                    rng.randrange(256),
                ),
                (Command.RW, iova, rng.choice([1, 64, PAGE]), 0),
                (Command.NOTIFY,),
                (Command.LOG_DIRTY, iova + rng.randrange(PAGE), rng.choice([1, PAGE, 5 * PAGE])),
                (Command.ARCS,),
                (Command.FAIL, rng.choice([1, 1, 2, 3]), rng.choice([5, 5, 11, 16, 0])),
                (Command.SIZES, rng.choice([256, 0, 70]), 96, 64),
                (Command.IRQ, 1, rng.randrange(4)),
                (Command.NPINNED,),
            ]
        )
        return [Step(Op.COMMAND, (0, self._device(), number), struct.pack(f"<{len(words)}Q", *words))]

    def pin_many(self) -> list[Step]:
        """Pin as many pages as there may be at once, or about that."""
        words = self._page() * PAGE, self.rng.choice([511, 512, 513, 513]), 3
        return [Step(Op.COMMAND, (0, self._device(), Command.PIN), struct.pack("<3Q", *words))]

    def register(self) -> list[Step]:
        """Write a register of BAR 0, as a dma-engine has them; let it work."""
        rng = self.rng
        register = rng.choice(list(Register))
        value = rng.choice([0, 1, 1, 2, 3, 8, 32, 64, PAGE, 16 * PAGE, rng.getrandbits(16)])
        write = Step(Op.TRANSFER, (0, self._device(), Transfer.PWRITE, 8, register), struct.pack("<Q", value))
        return [write, Step(Op.WORK, (self.group, rng.choice([0, 1, 100])))][: rng.choice([1, 1, 2])]

    def engine(self) -> list[Step]:
        """Let a dma-engine run over what is mapped."""
        numbers = {
            Register.BASE: self._page() * PAGE,
            Register.SIZE: self._npages() * PAGE,
            Register.RATE: 0,
            Register.PIN_MODE: self.rng.choice([0, 1, 2]),
            Register.PIN_PAGES: 4,
            Register.CONTROL: 1,
        }
        return [
            Step(Op.TRANSFER, (0, self._device(), Transfer.PWRITE, 8, register), struct.pack("<Q", value))
            for register, value in numbers.items()
        ] + [Step(Op.WORK, (self.group, 1))]

    def region(self) -> list[Step]:
        """Read or write anywhere in a region."""
        rng = self.rng
        offset = rng.choice([0, 0, 4, 0x40, 0x100, rng.randrange(0x200)]) + (
            rng.choice([0, 7, 7, 2, 9]) << 40
        )
        size = rng.choice([1, 2, 4, 4, 8, 64])
        what = rng.choice([Transfer.PREAD, Transfer.PWRITE, Transfer.PWRITE, Transfer.MMAP])
        return [Step(Op.TRANSFER, (0, self._device(), what, size, offset), rng.randbytes(size))]

    def _write(self, region: int, offset: int, value: int, size: int) -> Step:
        numbers = (0, self._device(), Transfer.PWRITE, size, (region << 40) + offset)
        return Step(Op.TRANSFER, numbers, value.to_bytes(size, "little"))

    def _read(self, region: int, offset: int, size: int) -> Step:
        return Step(Op.TRANSFER, (0, self._device(), Transfer.PREAD, size, (region << 40) + offset))

    def enable(self) -> list[Step]:
        """The command register of a PCI function: memory, DMA, interrupts; or its power state."""
        value = self.rng.choice([0x6, 0x6, 0x6, 0x406, 0x2, 0x0])
        return [self._write(7, 4, value, 2)] + (
            [self._write(7, 0x44, 3, 2)] if self.rng.random() < 0.1 else []
        )

    def region_v1(self) -> list[Step]:
        """Migration v1: a state, and the handshake of one piece of data."""
        rng = self.rng
        state = self._write(9, 0, rng.choice([0, 1, 2, 3, 4, 4, 6, rng.randrange(16)]), 4)
        save = [self._read(9, 8, 8), self._read(9, 16, 8), self._read(9, 24, 8), self._read(9, 0x1000, 64)]
        load = [
            self._write(9, 0x1000, rng.getrandbits(64), 8),
            self._write(9, 24, rng.choice([0, 8, 256]), 8),
        ]
        return [state, *rng.choice([save, save, load, []])]

    # --- features ---

    def _feature(self, flags: int, body: bytes = b"", *links: Link, new: int = 127) -> Step:
        payload = struct.pack("<II", 8 + len(body), flags) + body
        return ioctl("VFIO_DEVICE_FEATURE", self._device(), payload, *links, new=new)

    def state(self) -> list[Step]:
        """Ask for a migration state, and what it is then."""
        body = struct.pack("<Ii", self.rng.choice(STATES), -1)
        new = DATA_FD + self.rng.randrange(4)
        return [
            self._feature(_SET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, body, new=new),
            self._feature(_GET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, bytes(8)),
        ]

    def any_feature(self) -> list[Step]:
        """Any feature, any operation."""
        flags = self.rng.randrange(13) | self.rng.choice([_GET, _SET, _GET | _SET | 1 << 18, 1 << 18, 0])
        return [self._feature(flags, bytes(self.rng.choice([0, 4, 8, 16, 32])))]

    def log(self) -> list[Step]:
        """Start, stop or report a device's own log."""
        rng, count = self.rng, self.rng.choice([1, 1, 1, 2, 3])
        spans = [(LOGGED[0] + i * LOGGED[1], LOGGED[1]) for i in range(count)]
        data = b"".join(struct.pack("<QQ", *span) for span in spans)
        ranges = Step(Op.POKE, (0, BITMAP, 2 * PAGE), data)
        start = struct.pack("<QIIQ", PAGE, count, 0, 0)
        first = rng.choice([0, 0, 8, 32])
        report = struct.pack("<QQQQ", first * PAGE, rng.choice([64 - first, 16, 8]) * PAGE, PAGE, 0)
        begin = [ranges, self._feature(_SET | 6, start, Link(24, BITMAP, 2 * PAGE))]
        tell = [self._feature(_GET | 8, report, Link(32, BITMAP))]
        mark = (self._page() * PAGE, rng.choice([1, PAGE, 5 * PAGE]))
        marks = Step(Op.COMMAND, (0, self._device(), Command.LOG_DIRTY), struct.pack("<2Q", *mark))
        end = [self._feature(_SET | 7)]
        return rng.choice([begin, tell, [marks, *tell], end, [*begin, marks, *tell], [*begin, marks, *tell]])

    def data_fd(self) -> list[Step]:
        """Use a migration data fd."""
        rng, fd = self.rng, DATA_FD + self.rng.randrange(4)
        size = rng.choice([1, 64, 96, 160, 256, PAGE])
        info = ioctl("VFIO_MIG_GET_PRECOPY_INFO", fd, struct.pack("<IIQQ", 24, 0, 0, 0))
        read = Step(Op.TRANSFER, (0, fd, Transfer.READ, size, 0))
        write = Step(
            Op.TRANSFER, (0, fd, Transfer.WRITE, size, 0), bytes((7 * i + 3) & 0xFF for i in range(size))
        )
        return [rng.choice([info, read, read, write, write, Step(Op.TRANSFER, (0, fd, Transfer.POLL, 0, 0))])]

    def migrate(self) -> list[Step]:
        """From one state to another with what is read and written there."""
        return [step for _ in range(3) for step in (*self.state(), *self.data_fd())]

    # --- interrupts and information ---

    def irqs(self) -> list[Step]:
        """Set, trigger or take back an eventfd."""
        rng = self.rng
        flags = rng.choice([1, 2, 4, 4, 4]) | rng.choice([8, 16, 32, 32, 32])
        count = rng.choice([0, 1, 1, 2, 4])
        data = bytes(4 * count) if flags & 4 else bytes([1]) * count if flags & 2 else b""
        links = [Link(20 + 4 * i, LINKED_FD + EVENTFD) for i in range(count)] if flags & 4 else []
        header = struct.pack("<5I", 20 + len(data), flags, rng.choice([0, 1, 1, 2, 4]), 0, count)
        return [
            Step(Op.EVENTFD, (0, EVENTFD)),
            ioctl("VFIO_DEVICE_SET_IRQS", self._device(), header + data, *links),
        ]

    def ask(self) -> list[Step]:
        """Ask for information."""
        rng = self.rng
        name = rng.choice([name for name in ROWS if "INFO" in name or "STATUS" in name or "RESET" in name])
        row = IOCTLS[ROWS[name]]
        fd = {"container": CONTAINER, "group": GROUP + self.group}.get(str(row.kind), self._device())
        argsz = rng.choice([row.minsz, 24, 32, 64, 120, 256])
        payload = struct.pack("<III", argsz, 0, rng.choice([0, 1, 7, rng.randrange(12)])).ljust(argsz, b"\0")
        return [ioctl(name, fd, payload)]

    # --- processes, faults, and time ---

    def process(self) -> list[Step]:
        """Fds come and go."""
        rng = self.rng
        fd = rng.choice([CONTAINER, GROUP + self.group, self._device(), DATA_FD])
        return [
            rng.choice(
                [Step(Op.CLOSE, (0, fd)), Step(Op.DUP, (0, fd, 1, fd)), Step(Op.EXIT, (rng.randrange(2),))]
            )
        ]

    def share(self) -> list[Step]:
        """The other process gets the same fds."""
        return [Step(Op.DUP, (0, fd, 1, fd)) for fd in (CONTAINER, GROUP + self.group, self._device())]

    def memory(self) -> list[Step]:
        """Protections change, or bytes."""
        rng = self.rng
        protect = (0, DATA, rng.choice([0, 0, 1, 2]), rng.randrange(48), rng.randrange(8))
        return [
            rng.choice([Step(Op.PROTECT, protect), Step(Op.FILL, (0, BITMAP, 0, 64, rng.choice([0, 255])))])
        ]

    def fault(self) -> list[Step]:
        """An effect of the next call fails."""
        return [Step(Op.FAULT, (0, self.rng.randrange(6), self.rng.randrange(3)))]

    def overlap(self) -> list[Step]:
        """Calls of two processes at once."""
        rng, steps = self.rng, []
        count = rng.randrange(4)
        for _ in range(2 + count):
            step = rng.choice([self.command, self.harvest, self.unmap, self.map, self.state, self.data_fd])()[
                0
            ]
            steps.append(step._replace(numbers=(rng.randrange(2), *step.numbers[1:])))
        return [Step(Op.OVERLAP, (count,), rng.randbytes(rng.choice([8, 32]))), *steps]


_CHOICES: Final[tuple[tuple[int, Callable[[Phrases], list[Step]]], ...]] = (
    (1, Phrases.set_up),
    (4, Phrases.add_group),
    (1, Phrases.leave),
    (8, Phrases.map),
    (4, Phrases.unmap),
    (5, Phrases.track),
    (8, Phrases.harvest),
    (12, Phrases.command),
    (3, Phrases.pin_many),
    (2, Phrases.register),
    (2, Phrases.engine),
    (3, Phrases.region),
    (2, Phrases.enable),
    (3, Phrases.region_v1),
    (5, Phrases.state),
    (2, Phrases.any_feature),
    (5, Phrases.log),
    (4, Phrases.data_fd),
    (3, Phrases.migrate),
    (4, Phrases.irqs),
    (2, Phrases.ask),
    (2, Phrases.process),
    (1, Phrases.share),
    (2, Phrases.memory),
    (1, Phrases.fault),
    (1, Phrases.overlap),
)
_WEIGHTS: Final = [weight for weight, _ in _CHOICES]
_PHRASES: Final = [phrase for _, phrase in _CHOICES]
_OF_FEATURES: Final = frozenset(
    {Phrases.state, Phrases.any_feature, Phrases.log, Phrases.data_fd, Phrases.migrate}
)
